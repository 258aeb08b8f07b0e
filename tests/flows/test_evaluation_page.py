"""The lines of docs/evaluation.md run, in their order, with an untrained network."""

import shlex
from pathlib import Path

import pytest
import torch

from flows.cli import _parser, main
from model.config import preset
from model.sam2 import build_sam2
from model.weights import save_checkpoint
from stages.evaluation_settings import VosMeasurement
from tests.stages.evaluation.test_vos import data_set

PAGE = Path(__file__).resolve().parents[2] / "docs" / "evaluation.md"


def test_the_table_of_settings_is_whole():
    text = PAGE.read_text()
    table = text[text.index("| key of `kind: vos`") : text.index("A new protocol")]
    for name in VosMeasurement.__dataclass_fields__:
        assert f"`{name}`" in table or name == "kind", name


@pytest.mark.slow
def test_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    save_checkpoint(build_sam2(preset("micro")), tmp_path / "sam2.pt")
    data_set(tmp_path / "DAVIS")
    data_set(tmp_path / "MOSE", hidden=True)
    (tmp_path / "DAVIS" / "ImageSets").mkdir()
    (tmp_path / "DAVIS" / "ImageSets" / "val.txt").write_text("one\ntwo\n")
    assert main(["predict", "DAVIS", "--checkpoint", "sam2.pt", "--out", "before"]) == 0
    (tmp_path / "before" / "masks").rename(tmp_path / "masks")
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("sam2-pipeline ")]
    assert len(lines) == 7
    for line in lines:
        words = shlex.split(line)[1:]
        assert _parser().parse_args(words)
        if words[0] == "speed":  # has a test of its own, and takes long
            continue
        assert main(words) == 0, (line, capsys.readouterr().err)
    for made in (
        "scores/objects.csv", "davis/scores/scores.json", "mose/mose.zip", "measured/summary.json",
    ):  # fmt: skip
        assert (tmp_path / made).is_file(), made

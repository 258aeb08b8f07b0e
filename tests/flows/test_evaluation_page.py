"""The lines of docs/evaluation.md run, in their order, with an untrained network."""

import re
import shlex
from dataclasses import fields
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
import yaml

from flows.cli import _parser, main
from model.config import preset
from model.sam2 import build_sam2
from model.weights import save_checkpoint
from pipeline.config import parse
from stages.evaluation_settings import Measurement
from stages.settings import Evaluation
from tests.stages.evaluation.test_coco import write_coco
from tests.stages.evaluation.test_vos import data_set

PAGE = Path(__file__).resolve().parents[2] / "docs" / "evaluation.md"


def test_every_setting_of_every_protocol_is_told():
    text = PAGE.read_text()
    _, *parts = re.split(r"^\*\*`(\w+)`\*\*: ", text[: text.index("A new protocol")], flags=re.M)
    told = dict(zip(parts[::2], parts[1::2], strict=True))
    for one in get_args(Measurement):
        (kind,) = get_args(get_type_hints(one)["kind"])
        for field in fields(one):
            assert field.name in ("kind", "dataset") or f"`{field.name}`" in told[kind], field


def test_the_block_for_a_recipe_is_one():
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.S)
    found = parse(Evaluation, yaml.safe_load(block)["evaluation"], where="evaluation")
    assert {one.kind for one in found.more.values()} == {
        "vos",
        "interactive",
        "clicks",
        "occlusion",
    }


@pytest.mark.slow
def test_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    save_checkpoint(build_sam2(preset("micro")), tmp_path / "sam2.pt")
    data_set(tmp_path / "DAVIS")
    data_set(tmp_path / "MOSE", hidden=True)
    write_coco(tmp_path / "COCO", pictures=2).rename(
        tmp_path / "COCO" / "annotations" / "instances_val2017.json"
    )
    (tmp_path / "DAVIS" / "ImageSets").mkdir()
    (tmp_path / "DAVIS" / "ImageSets" / "val.txt").write_text("one\ntwo\n")
    assert main(["predict", "DAVIS", "--checkpoint", "sam2.pt", "--out", "before"]) == 0
    (tmp_path / "before" / "masks").rename(tmp_path / "masks")
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("sam2-pipeline ")]
    assert len(lines) == 9
    for line in lines:
        words = shlex.split(line)[1:]
        assert _parser().parse_args(words)
        if words[0] == "speed":  # has a test of its own, and takes long
            continue
        assert main(words) == 0, (line, capsys.readouterr().err)
    capsys.readouterr()
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    exec(compile(example, str(PAGE), "exec"), {})
    said = capsys.readouterr().out
    assert "of 3 objects" in said and "first and last annotated frame skipped" in said
    for made in (
        "scores/objects.csv", "davis/scores/scores.json", "mose/mose.zip", "measured/summary.json",
        "asked/interactive/interactive.csv", "asked/occlusion/returns.csv",
        "clicked/clicks/clicks.csv", "clicked/coco/coco_results.json",
    ):  # fmt: skip
        assert (tmp_path / made).is_file(), made

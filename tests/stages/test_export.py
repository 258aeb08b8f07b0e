"""`export`: what a person gets, and what they are told."""

import json
import os
from pathlib import Path

import pytest
import torch

from flows.cli import main
from model import build_sam2, load_checkpoint, save_checkpoint
from pipeline.errors import CheckpointError, ConfigError
from pipeline.storage import sha256
from stages import export
from stages.export import export_weights


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_checkpoint(build_sam2("micro"), tmp_path / "weights.pt")
    return tmp_path / "weights.pt"


@pytest.mark.parametrize("name", ["out.pt", "out.safetensors", "folder/deep.pt"])
def test_one_file(weights: Path, name: str, tmp_path: Path):
    target = tmp_path / name
    done = export_weights(weights, target)
    assert (done.network, done.tensors, done.parameters) == ("micro 2.1", 371, 1_170_994)
    assert done.files == {str(target): sha256(target)}
    own, again = load_checkpoint(weights).state_dict(), load_checkpoint(target).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in own.items())


def test_round_the_formats_and_back(weights: Path, tmp_path: Path):
    """pt, safetensors, shards, a URL, and pt again: the same bytes."""
    export_weights(weights, tmp_path / "a.safetensors", image_size=160)
    export_weights(tmp_path / "a.safetensors", tmp_path / "b", "safetensors", shards=True)
    export_weights(tmp_path / "b", "memory://export/c.safetensors")
    done = export_weights("memory://export/c.safetensors", tmp_path / "d.pt")
    assert done.image_size == 160
    assert sha256(tmp_path / "d.pt") == sha256(weights)


def test_a_source_that_does_not_do_leaves_the_target(weights: Path, tmp_path: Path):
    target = tmp_path / "out.pt"
    target.write_text("the last good one")
    (tmp_path / "cut.pt").write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"cut\.pt"):
        export_weights(tmp_path / "cut.pt", target)
    with pytest.raises(ConfigError, match="does not keep it"):
        export_weights(weights, target, image_size=160)
    assert target.read_text() == "the last good one"


def test_what_does_not_read_back_is_an_error(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def careless(model: torch.nn.Module, target: Path, **options: object) -> list[str]:
        return save_checkpoint(build_sam2("micro"), target)

    monkeypatch.setattr(export, "save_checkpoint", careless)
    with pytest.raises(CheckpointError, match="does not read back as it was written"):
        export_weights(weights, tmp_path / "out.pt")


def test_the_command(weights: Path, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["export", "weights.pt", "--out", "out.safetensors", "--image-size", "160"]) == 0
    told = capsys.readouterr().out
    assert "micro 2.1: 371 tensors, 1,170,994 parameters" in told
    assert f"{tmp_path / 'out.safetensors'}  sha256 {sha256('out.safetensors')}" in told
    assert main(["export", "weights.pt", "--out", "parts", "--shards"]) == 0
    assert sorted(os.listdir("parts")) == [
        *("decoder.pt", "encoder.pt", "memory.pt", "model.pt.index.json"),
    ]
    assert json.loads(Path("parts/model.pt.index.json").read_text())["sha256"]
    assert capsys.readouterr().out.count("sha256") == 4


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["weights.pt"], "--out"),
        (["weights.pt", "--out", "x.pt", "--format", "onnx"], "'onnx'"),
        (["weights.pt", "--out", "x.pt", "--image-size", "160"], "export safetensors"),
        (["weights.pt", "--out", "x.safetensors", "--image-size", "100"], "multiple of 32"),
        (["weights.pt", "--out", "weights.pt/x.pt"], "cannot be written"),
        (["weights.pt", "--out", "weights.pt", "--shards"], "is the checkpoint itself"),
        (["weights.pt", "--out", "./weights.pt"], "is the checkpoint itself"),
        (["nowhere.pt", "--out", "x.pt"], "nowhere.pt does not exist"),
        (["memory://nowhere.pt", "--out", "x.pt"], "memory://nowhere.pt does not exist"),
        ([".", "--out", "x.pt"], "is a folder with 0 files"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_misuse_is_one_line(words, told, weights, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["export", *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and told in lines[0]
    assert sorted(os.listdir(tmp_path)) == ["weights.pt"]

"""What is written is the released format to the letter, whole or not there, and always the same."""

import hashlib
import json
import os
from io import BytesIO
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from model import build_sam2, load_checkpoint, preset, save_checkpoint
from model.lora import add_lora, merged
from model.policy import LoRAConfig
from model.sam2 import SAM2
from pipeline.errors import CheckpointError, ConfigError, StorageError
from tests.golden.reader import FOLDER


@pytest.fixture(scope="module")
def model() -> SAM2:
    torch.manual_seed(0)
    return build_sam2("micro")


def written(model: nn.Module) -> bytes:
    buffer = BytesIO()
    save_checkpoint(model, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("version", ["2.0", "2.1"])
def test_the_file_is_what_the_reference_loads(version: str):
    """By its own rules: a plain dict under 'model' of the published names in their order, each a
    float32 tensor of the published shape that brings no other memory along."""
    published = json.loads((FOLDER / "state_dict_tiny.json").read_text())
    lacks = published["sam2.1_only"] if version == "2.0" else []
    expected = [entry for entry in published["entries"] if entry[0] not in lacks]
    content = torch.load(
        BytesIO(written(SAM2(preset("tiny", version=version)))),  # type: ignore[arg-type]
        weights_only=True,
    )
    assert type(content) is dict and list(content) == ["model"]
    weights = content["model"]
    assert type(weights) is dict
    found = [
        [name, list(value.shape), str(value.dtype).removeprefix("torch.")]
        for name, value in weights.items()
    ]
    assert found == expected
    for value in weights.values():
        assert type(value) is torch.Tensor and not value.requires_grad
        assert value.is_contiguous() and value.device.type == "cpu" and value.dtype == torch.float32
        assert value.untyped_storage().nbytes() == 4 * value.numel()


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_save_load_save_gives_the_same_bytes(model: SAM2, name: str, tmp_path: Path):
    digests = set()
    for folder in ("one", "two", "three"):
        path = tmp_path / folder / (folder + name)
        save_checkpoint(model, path)
        model = load_checkpoint(path)
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(digests) == 1


@pytest.mark.parametrize("form", ["pt", "safetensors"])
def test_shards_too(model: SAM2, form: str, tmp_path: Path):
    for folder in ("one", "two"):
        save_checkpoint(model, tmp_path / folder, form=form, shards=True)  # type: ignore[arg-type]
        model = load_checkpoint(tmp_path / folder)
    for name in os.listdir(tmp_path / "one"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_however_the_network_was_used(model: SAM2):
    """Half precision, wrappers, memory formats and shared memory leave no trace in the file."""
    expected = written(model)
    wrapped = nn.Module()
    wrapped.add_module("module", model)
    assert written(wrapped) == expected
    compiled = load_checkpoint(expected)
    compiled.memory_attention = torch.compile(compiled.memory_attention)
    assert written(torch.compile(compiled)) == expected  # type: ignore[arg-type]
    assert written(load_checkpoint(expected).to(memory_format=torch.channels_last)) == expected
    whole = load_checkpoint(expected)
    flat = torch.cat([p.detach().flatten() for p in whole.parameters()])
    for parameter in whole.parameters():
        parameter.data, flat = flat[: parameter.numel()].view_as(parameter), flat[parameter.numel():]  # fmt: skip
    assert written(whole) == expected
    half = load_checkpoint(expected).bfloat16()
    stored = torch.load(BytesIO(written(half)), weights_only=True)["model"]
    assert {value.dtype for value in stored.values()} == {torch.float32}


def test_safetensors_say_what_they_are(tmp_path: Path):
    save_checkpoint(SAM2(preset("micro", 160, version="2.0")), tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        about = json.loads(file.metadata()["sam2"])
    assert about == {"size": "micro", "version": "2.0", "image_size": 160}


def test_an_index_is_complete(model: SAM2, tmp_path: Path):
    save_checkpoint(model, tmp_path, form="safetensors", shards=True)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert list(index["weight_map"]) == list(model.state_dict())
    assert index["metadata"]["total_size"] == 4 * sum(
        v.numel() for v in model.state_dict().values()
    )
    for file, digest in index["sha256"].items():
        assert hashlib.sha256((tmp_path / file).read_bytes()).hexdigest() == digest
        with safe_open(tmp_path / file, "pt") as shard:
            names = set(shard.keys())
        assert names == {name for name, where in index["weight_map"].items() if where == file}


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_a_write_that_fails_changes_nothing(
    model: SAM2, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / name
    save_checkpoint(model, path)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=rf"{name} cannot be written \(No space left"):
        save_checkpoint(build_sam2("micro"), path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == [name]


def test_interrupted_shards_are_refused(
    model: SAM2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Half of a new export over an old one: the old index tells."""
    save_checkpoint(model, tmp_path, shards=True)
    replaced = []
    rename = os.replace

    def dies(source: str, target: str) -> None:
        if len(replaced) == 2:
            raise KeyboardInterrupt
        replaced.append(target)
        rename(source, target)

    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(build_sam2("micro"), tmp_path, shards=True)
    with pytest.raises(CheckpointError, match="another export"):
        load_checkpoint(tmp_path)


def test_low_rank_changes_are_merged_before_saving(tmp_path: Path):
    adapted = build_sam2("micro")
    add_lora(adapted, LoRAConfig(layers=("*.attn.qkv",), rank=2))
    with pytest.raises(
        CheckpointError, match=r"no longer a plain micro 2\.1: .*model\.lora\.merged"
    ):
        save_checkpoint(adapted, tmp_path / "a.pt")
    assert not list(tmp_path.iterdir())
    save_checkpoint(merged(adapted), tmp_path / "a.pt")
    assert load_checkpoint(tmp_path / "a.pt").config == adapted.config


def test_places_that_cannot_be_written(model: SAM2, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written"):
        save_checkpoint(model, tmp_path / "file" / "a.pt")
    with pytest.raises(StorageError, match="is a file; shards need a folder"):
        save_checkpoint(model, tmp_path / "file", shards=True)
    with pytest.raises(StorageError, match="cannot be written"):
        save_checkpoint(model, tmp_path)
    with pytest.raises(ConfigError, match="shards need a folder"):
        save_checkpoint(model, BytesIO(), shards=True)
    with pytest.raises(TypeError, match="found a Linear"):
        save_checkpoint(nn.Linear(1, 1), tmp_path / "a.pt")

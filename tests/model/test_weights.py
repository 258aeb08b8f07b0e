"""Checkpoints: what fits goes in, what does not is named, and nothing is executed."""

import os
from io import BytesIO
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.config import preset
from model.sam2 import SAM2, build_sam2
from model.weights import load_checkpoint, save_checkpoint
from pipeline.errors import CheckpointError


@pytest.fixture
def model() -> SAM2:
    torch.manual_seed(0)
    return build_sam2("micro")


@pytest.fixture(scope="module")
def other() -> SAM2:
    torch.manual_seed(1)
    return build_sam2("micro")


def copy_of(model: SAM2) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(model: SAM2, weights: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def refused(model: SAM2, source: Path | bytes) -> str:
    """The error of loading `source`, having checked that the network did not change."""
    before = copy_of(model)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(source, model)
    assert same(model, before)
    return str(caught.value)


def as_file(content: object) -> bytes:
    buffer = BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def test_there_and_back(model: SAM2, other: SAM2, tmp_path: Path):
    save_checkpoint(other, tmp_path / "weights.pt")
    load_checkpoint(tmp_path / "weights.pt", model)
    assert same(model, other.state_dict())
    content = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert list(content) == ["model"] and list(content["model"]) == list(model.state_dict())


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]
)
def test_wrapped_names(model: SAM2, other: SAM2, prefix: str):
    wrapped = {prefix + name: value for name, value in other.state_dict().items()}
    load_checkpoint(as_file({"model": wrapped, "epoch": 3}), model)
    assert same(model, other.state_dict())


def test_names_of_compiled_parts(model: SAM2, other: SAM2):
    wrapped = {
        name.replace("image_encoder.", "image_encoder._orig_mod.", 1): value
        for name, value in other.state_dict().items()
    }
    load_checkpoint(as_file({"model": wrapped}), model)
    assert same(model, other.state_dict())


def test_saved_names_are_bare(model: SAM2):
    wrapped = torch.nn.Module()
    wrapped.add_module("module", model)
    buffer = BytesIO()
    save_checkpoint(wrapped, buffer)
    saved = torch.load(BytesIO(buffer.getvalue()), weights_only=True)["model"]
    assert list(saved) == list(model.state_dict())


def test_another_size_is_named(model: SAM2):
    with torch.device("meta"):
        names = SAM2(preset("small")).state_dict()
    content = {name: torch.zeros(1).expand(value.shape) for name, value in names.items()}
    message = refused(model, as_file({"model": content}))
    assert "micro 2.1" in message and "preset('small', version='2.1')" in message


def test_another_version_is_named(model: SAM2):
    old = SAM2(preset("micro", version="2.0"))
    message = refused(model, as_file({"model": old.state_dict()}))
    assert "3 missing (no_obj_embed_spatial, obj_ptr_tpos_proj.weight" in message
    assert "preset('micro', version='2.0')" in message
    message = refused(old, as_file({"model": model.state_dict()}))
    assert "3 not expected" in message and "version='2.1'" in message


def test_a_single_wrong_entry_is_never_half_loaded(model: SAM2, other: SAM2):
    weights = dict(other.state_dict())
    weights["obj_ptr_tpos_proj.bias"] = torch.zeros(7)
    message = refused(model, as_file({"model": weights}))
    assert "obj_ptr_tpos_proj.bias is [7], expected [32]" in message
    del weights["obj_ptr_tpos_proj.bias"]
    assert "1 missing (obj_ptr_tpos_proj.bias)" in refused(model, as_file({"model": weights}))
    weights["extra"] = weights["obj_ptr_tpos_proj.bias"] = torch.zeros(32)
    assert "1 not expected (extra)" in refused(model, as_file({"model": weights}))


def test_truncated_file(model: SAM2, other: SAM2, tmp_path: Path):
    whole = as_file({"model": other.state_dict()})
    for length in (0, 10, len(whole) // 2, len(whole) - 100):
        path = tmp_path / f"{length}.pt"
        path.write_bytes(whole[:length])
        assert str(path) in refused(model, path)


def test_not_a_checkpoint(model: SAM2, tmp_path: Path):
    assert "does not exist" in refused(model, tmp_path / "absent.pt")
    assert "is a folder with 0 files" in refused(model, tmp_path)
    refused(model, b"hello, this is a text file")
    assert "'model'" in refused(model, as_file([1, 2]))
    assert "'model'" in refused(model, as_file({"state": {}}))
    assert "not dense tensors" in refused(model, as_file({"model": {"a": 1}}))
    assert "not expected" in refused(model, as_file({"model": {"module": torch.zeros(1)}}))


@pytest.mark.parametrize(
    "strange", [torch.zeros(1, 64).to_sparse(), torch.zeros(1, 64, device="meta")]
)
def test_tensors_that_cannot_be_copied_change_nothing(model: SAM2, other: SAM2, strange: Tensor):
    weights = dict(other.state_dict()) | {"no_obj_ptr": strange}
    assert "no_obj_ptr" in refused(model, as_file({"model": weights}))


class Malice:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_foreign_code_is_not_run(model: SAM2, tmp_path: Path):
    trap = tmp_path / "trap"
    message = refused(model, as_file({"model": model.state_dict(), "x": Malice(trap)}))
    assert "could run foreign code" in message
    assert not trap.exists()

"""Weights in an object store: there and back, and what is said when it does not work."""

from collections.abc import Iterator

import fsspec
import pytest
import torch

from model import build_sam2, load_checkpoint, save_checkpoint
from model.sam2 import SAM2
from pipeline.errors import CheckpointError, StorageError
from tests import s3


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3.moto_server() as address, s3.pointed_at(address):
        fsspec.filesystem("s3").mkdir("weights")
        yield "s3://weights"


@pytest.fixture(scope="module")
def model() -> SAM2:
    torch.manual_seed(0)
    return build_sam2("micro")


@pytest.mark.parametrize("target", ["a/one.pt", "a/one.safetensors", "a/parts"])
def test_there_and_back(model: SAM2, bucket: str, target: str):
    written = save_checkpoint(model, f"{bucket}/{target}", shards=target.endswith("parts"))
    expected = model.state_dict()
    sources = [written[-1], *([f"{bucket}/{target}/"] if len(written) > 1 else [])]
    for source in sources:
        loaded = load_checkpoint(source).state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in loaded.items())


def test_what_is_not_there(model: SAM2, bucket: str):
    with pytest.raises(CheckpointError, match=r"s3://weights/none\.pt does not exist"):
        load_checkpoint(f"{bucket}/none.pt", model)
    with pytest.raises(CheckpointError, match=r"s3://no-bucket/a\.pt does not exist"):
        load_checkpoint("s3://no-bucket/a.pt", model)
    with pytest.raises(CheckpointError, match=r"s3://weights/none/ "):
        load_checkpoint(f"{bucket}/none/", model)
    with pytest.raises(StorageError, match=r"s3://no-bucket/a\.pt"):
        save_checkpoint(model, "s3://no-bucket/a.pt")


def test_without_credentials(model: SAM2, bucket: str, tmp_path, monkeypatch: pytest.MonkeyPatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    s3.forget()
    with pytest.raises(CheckpointError, match="redentials") as caught:
        load_checkpoint(f"{bucket}/a/one.pt", model)
    assert s3.SECRET not in str(caught.value)
    with pytest.raises(StorageError, match="redentials"):
        save_checkpoint(model, f"{bucket}/b.pt")
    s3.forget()

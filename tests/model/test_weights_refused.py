"""Weights that do not fit or cannot be trusted: named, and the network stays as it was."""

import http.server
import json
import os
import struct
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save as safetensors_bytes

from model import build_sam2, load_checkpoint, load_component, preset, save_checkpoint
from model.sam2 import SAM2
from pipeline.errors import CheckpointError, ConfigError
from tests.model.test_weights import as_file, hollow


@pytest.fixture(scope="module")
def model() -> SAM2:
    torch.manual_seed(0)
    return build_sam2("micro")


@pytest.fixture(scope="module")
def other() -> SAM2:
    torch.manual_seed(1)
    return build_sam2("micro")


@pytest.fixture(scope="module")
def whole(other: SAM2) -> bytes:
    """A sound file, to be spoilt."""
    buffer = BytesIO()
    save_checkpoint(other, buffer)
    return buffer.getvalue()


def refused(model: SAM2, source: str | Path | bytes) -> str:
    """The error of loading `source`, into a network, which must not change, and by itself."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(source, model)
    with pytest.raises(CheckpointError):
        load_checkpoint(source)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- another network ------------------------------------------------------------------------------


def test_another_version(model: SAM2):
    old = SAM2(preset("micro", version="2.0"))
    names = "no_obj_embed_spatial, obj_ptr_tpos_proj.weight, obj_ptr_tpos_proj.bias"
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(as_file({"model": old.state_dict()}), model)
    assert "is micro 2.0, you asked for micro 2.1" in str(caught.value)
    assert f"3 missing ({names})" in str(caught.value)
    assert "preset('micro', version='2.0')" in str(caught.value)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(as_file({"model": model.state_dict()}), old)
    assert "is micro 2.1, you asked for micro 2.0" in str(caught.value)
    assert f"3 not expected ({names})" in str(caught.value)


def test_another_size(model: SAM2):
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(hollow("base_plus"), model)
    assert "is base_plus 2.1, you asked for micro 2.1: 6 missing (" in str(caught.value)
    assert "of another shape (maskmem_tpos_enc is [7, 1, 1, 64], expected [7, 1, 1, 32]," in str(
        caught.value
    )


@pytest.mark.parametrize("expect", ["large 2.0", "large", "base_plus 2.0"])
def test_not_what_was_expected(expect: str):
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(hollow("base_plus"), expect=expect)
    asked = {"large": "large 2.1"}.get(expect, expect)
    assert f"is base_plus 2.1, you asked for {asked}: " in str(caught.value)


def test_one_wrong_entry_is_never_half_loaded(model: SAM2, other: SAM2):
    weights = dict(other.state_dict())
    weights["obj_ptr_tpos_proj.bias"] = torch.zeros(7)
    message = refused(model, as_file({"model": weights}))
    assert (
        "is micro 2.1 but does not fit it: 1 of another shape (obj_ptr_tpos_proj.bias is [7], expected [32])"
        in message
    )
    del weights["obj_ptr_tpos_proj.bias"]
    assert "1 missing (obj_ptr_tpos_proj.bias)" in refused(model, as_file({"model": weights}))
    weights["extra"] = weights["obj_ptr_tpos_proj.bias"] = torch.zeros(32)
    assert "1 not expected (extra)" in refused(model, as_file({"model": weights}))


def test_weights_twice(model: SAM2, other: SAM2):
    both = dict(other.state_dict()) | {"module.no_obj_ptr": torch.zeros(1, 64)}
    assert "twice" in refused(model, as_file({"model": both}))


# -- strange content ------------------------------------------------------------------------------


ROW = torch.zeros(1, 64)
NO_WEIGHTS = {
    "sparse": lambda: ROW.to_sparse(),
    "meta": lambda: ROW.to("meta"),
    "integer": lambda: ROW.long(),
    "bool": lambda: ROW.bool(),
    "complex": lambda: ROW.to(torch.complex64),
    "eight bits": lambda: ROW.to(torch.float8_e4m3fn),
    "quantised": lambda: torch.quantize_per_tensor(ROW, 0.1, 0, torch.qint8),
    "number": lambda: 3.0,
    "text": lambda: "text",
    "none": lambda: None,
}


@pytest.mark.parametrize("kind", NO_WEIGHTS)
@pytest.mark.filterwarnings("ignore::UserWarning:tests", "ignore::UserWarning:torch")
def test_entries_that_are_no_weights(model: SAM2, other: SAM2, kind: str):
    weights = dict(other.state_dict()) | {"no_obj_ptr": NO_WEIGHTS[kind]()}
    message = refused(model, as_file({"model": weights}))
    assert "['no_obj_ptr'] are not dense tensors" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite(model: SAM2, other: SAM2, value: float, tmp_path: Path):
    weights = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    weights["no_obj_ptr"][0, :3] = value
    weights["memory_encoder.out_proj.bias"][0] = value
    words = "no_obj_ptr holds 3 of 64 numbers that are NaN or infinite"
    assert f"{words}, the first of 2 such tensors" in refused(model, as_file({"model": weights}))
    weights["memory_encoder.out_proj.bias"][0] = 0
    assert f"{words};" in refused(model, safetensors_bytes(weights))
    diverged = build_sam2("micro")
    diverged.load_state_dict(weights)
    with pytest.raises(CheckpointError, match="no_obj_ptr holds 3 of 64"):
        save_checkpoint(diverged, tmp_path / "weights.pt")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "holds a list"),
        (torch.zeros(3), "holds a Tensor"),
        ({"state": {}}, "holds the keys ['state']"),
        ({"model": {}}, "holds the keys ['model']"),
        ({"model": [torch.zeros(1)]}, "holds the keys ['model']"),
        ({}, "holds the keys []"),
        ({"model": {"module": torch.zeros(1)}}, "of no size known here (1 tensors)"),
        ({"model": {3: torch.zeros(1)}}, "of no size known here (1 tensors)"),
    ],
)
def test_files_of_something_else(model: SAM2, content: object, words: str):
    assert words in refused(model, as_file(content))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty (0 bytes)"),
        (b"hello, this is a text file", "is text, not a checkpoint"),
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        (os.urandom(8) + b"\xff" * 100, "not a checkpoint"),
        (b"PK\x05\x06" + bytes(18), "not a checkpoint"),
        (b"PK\x03\x04" + bytes(1000), "cut short or no checkpoint"),
    ],
    ids=["empty", "text", "html", "lfs", "noise", "empty zip", "zip head"],
)
def test_no_checkpoint_at_all(model: SAM2, content: bytes, words: str, tmp_path: Path):
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    assert words in refused(model, content)
    message = refused(model, path)
    assert words in message and message.startswith(str(path))


def test_an_endless_tensor_is_not_searched_for_nan(model: SAM2, other: SAM2):
    """A few bytes can claim a shape of any size; shapes are compared first."""
    weights = dict(other.state_dict()) | {"no_obj_ptr": torch.zeros(1).expand(1 << 50)}
    assert "expected [1, 64]" in refused(model, as_file({"model": weights}))


def test_a_numpy_number_beside_the_weights(model: SAM2, other: SAM2):
    content = {"model": other.state_dict(), "best": np.float64(0.5)}
    assert "multiarray.scalar" in refused(model, as_file(content))


def test_a_zip_of_something_else(model: SAM2, tmp_path: Path):
    from zipfile import ZipFile

    with ZipFile(tmp_path / "pictures.pt", "w") as archive:
        archive.writestr("a.jpg", b"not really")
    assert "cannot be read" in refused(model, tmp_path / "pictures.pt")


class Malice:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("modern", [True, False], ids=["zip", "plain pickle"])
@pytest.mark.parametrize("place", ["in the weights", "beside them", "instead"])
def test_foreign_code_is_not_run(model: SAM2, place: str, modern: bool, tmp_path: Path):
    trap = tmp_path / "trap"
    weights = dict(model.state_dict())
    content: object = {"model": weights, "extra": Malice(trap)}
    if place == "in the weights":
        content = {"model": weights | {"no_obj_ptr": Malice(trap)}}
    elif place == "instead":
        content = Malice(trap)
    file = as_file(content, _use_new_zipfile_serialization=modern)
    message = refused(model, file)
    assert "could run foreign code" in message and "posix.mkdir" in message
    assert not trap.exists()
    torch.load(BytesIO(file), weights_only=False)
    assert trap.exists(), "the trap works, so the loader did not step into it"


# -- broken files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["pt", "safetensors"])
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(share=st.floats(0, 1, exclude_max=True))
def test_cut_short_anywhere(model: SAM2, other: SAM2, form: str, share: float, tmp_path: Path):
    path = tmp_path / f"weights.{form}"
    if not path.exists():
        save_checkpoint(other, path)
    content = path.read_bytes()
    part = path.with_name(f"part.{form}")
    part.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=f"part.{form}"):
        load_checkpoint(part, model)


@pytest.mark.parametrize("missing", [1, 8, 100, 1000])
def test_the_end_is_missing(model: SAM2, whole: bytes, missing: int):
    assert "cut short" in refused(model, whole[:-missing])


@settings(max_examples=25, deadline=None, derandomize=True)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_one_flipped_bit_is_never_taken_for_other_weights(
    model: SAM2, other: SAM2, whole: bytes, place: float, bit: int
):
    """A flip in the zip's own bookkeeping may do no harm; one in the weights is found."""
    spoilt = bytearray(whole)
    spoilt[int(place * len(whole))] ^= 1 << bit
    try:
        loaded = load_checkpoint(bytes(spoilt))
    except CheckpointError:
        return
    own = other.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in loaded.state_dict().items())


def test_damage_is_called_so(model: SAM2, whole: bytes):
    spoilt = bytearray(whole)
    spoilt[len(whole) // 2] ^= 1
    assert "does not match its checksum" in refused(model, bytes(spoilt))


def with_header(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header


@pytest.mark.parametrize(
    "content",
    [
        with_header(b"{}")[:9],
        with_header(b'{"a": '),
        with_header(b'{"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}'),
        with_header(b'{"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}') + bytes(4),
        struct.pack("<Q", 1 << 60) + b'{"a": 1}',
    ],
    ids=["cut", "no json", "no data", "unknown type", "absurd length"],
)
def test_broken_safetensors(model: SAM2, content: bytes):
    assert "cannot be read as safetensors" in refused(model, content)


@pytest.mark.parametrize("about", ["{", "[1]", '{"image_size": 100}', '{"image_size": "96"}'])
def test_broken_metadata(model: SAM2, other: SAM2, about: str):
    content = safetensors_bytes(dict(other.state_dict()), {"sam2": about})
    assert "metadata" in refused(model, content)


def test_places_without_a_checkpoint(model: SAM2, tmp_path: Path):
    assert "does not exist" in refused(model, tmp_path / "absent.pt")
    assert "does not exist" in refused(model, "memory://nowhere/absent.pt")
    assert "does not exist" in refused(model, tmp_path / "absent.index.json")
    assert "is a folder with 0 files" in refused(model, tmp_path)
    assert "0 files" in refused(model, "memory://nowhere/") or "listed" in refused(
        model, "memory://nowhere/"
    )
    assert "no storage of this kind" in refused(model, "ftpx://host/weights.pt")
    (tmp_path / "file").touch()
    assert "Not a directory" in refused(model, tmp_path / "file" / "weights.pt")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_no_permission(model: SAM2, whole: bytes, tmp_path: Path):
    (tmp_path / "weights.pt").write_bytes(whole)
    (tmp_path / "weights.pt").chmod(0)
    assert "Permission denied" in refused(model, tmp_path / "weights.pt")


@pytest.fixture
def closed_store() -> Iterator[str]:
    """A server that has nothing (404) and gives nothing away below /private (403)."""

    class Nothing(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(403 if "/private" in self.path else 404)
            self.end_headers()

        do_GET = do_HEAD  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Nothing)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("folder", ["public", "private"])
def test_a_store_that_refuses_learns_and_tells_no_secret(
    model: SAM2, closed_store: str, folder: str
):
    url = f"http://anna:hunter2@{closed_store}/{folder}/w.pt?X-Amz-Signature=c0ffee&x=1"
    message = refused(model, url)
    assert f"{closed_store}/{folder}/w.pt" in message
    for secret in ("hunter2", "c0ffee", "Signature"):
        assert secret not in message


# -- shards ---------------------------------------------------------------------------------------


@pytest.fixture
def shards(other: SAM2, tmp_path: Path) -> Path:
    save_checkpoint(other, tmp_path / "shards", form="safetensors", shards=True)
    return tmp_path / "shards"


def test_a_shard_is_missing(model: SAM2, shards: Path):
    (shards / "memory.safetensors").unlink()
    assert "memory.safetensors does not exist" in refused(model, shards)


def test_a_shard_of_another_export(model: SAM2, shards: Path, tmp_path: Path):
    save_checkpoint(model, tmp_path / "foreign", form="safetensors", shards=True)
    (tmp_path / "foreign" / "decoder.safetensors").replace(shards / "decoder.safetensors")
    message = refused(model, shards)
    assert "decoder.safetensors has sha256" in message and "another export" in message


def test_a_shard_alone(model: SAM2, shards: Path):
    message = refused(model, shards / "encoder.safetensors")
    assert "is only the encoder of micro" in message and "load_component" in message


def test_a_component_that_does_not_fit(model: SAM2, shards: Path):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(
        CheckpointError, match=r"the memory of .* does not fit a micro 2\.1: \d+ miss"
    ):
        load_component(shards / "encoder.safetensors", model, "memory")
    old = as_file({"model": SAM2(preset("micro", version="2.0")).state_dict()})
    with pytest.raises(CheckpointError, match="3 missing"):
        load_component(old, model, "memory")
    with pytest.raises(ConfigError, match="expected one of encoder, decoder, memory"):
        load_component(old, model, "trunk")  # type: ignore[arg-type]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_folder_with_two_indices(model: SAM2, other: SAM2, shards: Path):
    save_checkpoint(other, shards, form="pt", shards=True)
    assert "is a folder with 2 files *.index.json" in refused(model, shards)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weight_map": {"no_obj_ptr": "../../etc/passwd"}, "sha256": {"../../etc/passwd": "0"}}, "without folders"),
        ({"weight_map": {"no_obj_ptr": ".hidden"}, "sha256": {".hidden": "0"}}, "without folders"),
        ({"weight_map": {}}, "do not list the same files"),
        ({"sha256": {}}, "do not list the same files"),
        ({"weight_map": [1, 2]}, "no index of shards"),
        ({"metadata": {"sam2": "{"}}, "metadata 'sam2' is broken"),
        ({"metadata": None}, "no index of shards"),
    ],
)  # fmt: skip
def test_a_spoilt_index(model: SAM2, shards: Path, change: dict[str, object], words: str):
    index = shards / "model.safetensors.index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | change))
    assert words in refused(model, shards)


def test_an_index_that_lists_other_weights(model: SAM2, shards: Path):
    index = shards / "model.safetensors.index.json"
    values = json.loads(index.read_text())
    del values["weight_map"]["no_obj_ptr"]
    index.write_text(json.dumps(values))
    assert "differ in ['no_obj_ptr']" in refused(model, shards)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"<html>", b"\xff\xfe"])
def test_an_index_that_is_none(model: SAM2, content: bytes, tmp_path: Path):
    (tmp_path / "model.pt.index.json").write_bytes(content)
    assert "is no index of shards" in refused(model, tmp_path)

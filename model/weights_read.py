"""From a file of weights to named tensors, wherever it lies and whichever of our formats it has.

Three formats are told apart by their content: torch.save of {"model": state dict}, safetensors, and
a folder of shards with an index. Nothing in a file is ever executed, and a file that is cut short,
altered, or no checkpoint at all is refused in words.
"""

from __future__ import annotations

import pickle
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZIP_STORED, ZipFile

import torch
from safetensors import safe_open
from torch import Tensor

from model.weights_identity import SHOWN, bare
from model.weights_shards import INDEX_SUFFIX, About, Index
from pipeline.errors import CheckpointError, StorageError
from pipeline.remote import ask, filesystem, is_remote, reason, shown
from pipeline.storage import list_files, local_path, sha256
from pipeline.weights_head import HEAD, ZIP, is_pickled, refused

Source = str | Path | bytes
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
"""What weights may be stored in; other types are no weights, or need scales that are not there."""


class Stored(NamedTuple):
    """What a file of weights holds."""

    name: str
    """Where it came from, for messages; without credentials."""
    weights: dict[str, Tensor]
    """Under bare names, dense floating point, on the CPU, in the type they are stored in. Of a file they are
    mapped, not read: what is not used costs no memory."""
    about: About
    """What the file says of itself; empty for the released format."""


def read_weights(source: Source) -> Stored:
    """The weights in a file, URL, folder of shards, or the content of a file.

    Raises CheckpointError where they cannot be had whole.
    """
    if isinstance(source, bytes):
        return _read_file(BytesIO(source), "the given bytes")
    place = str(source)
    if not is_remote(place):
        place = str(local_path(place))
    name = shown(place)
    if place.endswith("/") if is_remote(place) else Path(place).is_dir():
        place = _index_in(place, name)
        name = shown(place)
    if place.endswith(".json"):
        return _read_shards(place, name)
    with _at_hand(place) as path:
        return _read_file(path, name)


@contextmanager
def _at_hand(place: str) -> Iterator[Path]:
    """A local file with the content; a downloaded one has no name afterwards, but can still be read
    where it is mapped."""
    if not is_remote(place):
        yield Path(place)
        return
    with tempfile.NamedTemporaryFile(prefix="sam2-weights-") as file:
        try:
            store, inner = filesystem(place)
            ask(place, lambda: store.get_file(inner, file.name))
        except FileNotFoundError:
            raise CheckpointError(f"{shown(place)} does not exist; check the address") from None
        except StorageError as error:
            raise CheckpointError(str(error)) from None
        yield Path(file.name)


def _read_file(file: Path | BytesIO, name: str) -> Stored:
    """The weights in one local file."""
    head = _head(file, name)
    about = About()
    if message := refused(name, head):
        raise CheckpointError(message)
    if is_pickled(head):
        weights = _state_dict(_unpickled(file, name, zipped=head.startswith(ZIP)), name)
    else:
        weights, about = _read_safetensors(file, name)
    return Stored(name, _plain(weights, name), about)


def _head(file: Path | BytesIO, name: str) -> bytes:
    if isinstance(file, BytesIO):
        return file.getvalue()[:HEAD]
    try:
        with open(file, "rb") as opened:
            return opened.read(HEAD)
    except FileNotFoundError as error:
        raise CheckpointError(f"{name} does not exist; expected a checkpoint file") from error
    except OSError as error:
        raise CheckpointError(
            f"{name} cannot be opened ({reason(error)}); check the path and its permissions"
        ) from error


def _unpickled(file: Path | BytesIO, name: str, zipped: bool) -> object:
    """The content of a file of torch.save: plain containers and tensors, mapped where possible."""
    try:
        mapped = zipped and _is_sound_zip(file, name) and isinstance(file, Path)
        if isinstance(file, BytesIO):
            file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"asks for {wanted[1]}" if wanted else "is no plain pickle"
        raise CheckpointError(
            f"{name} holds more than tensors and plain containers ({what}) and was not loaded: "
            "it could run foreign code. Where you trust its origin, save its state dict alone: "
            "torch.save({'model': state_dict}, ...)"
        ) from error
    except Exception as error:  # what a broken pickle makes torch raise has no common class
        raise CheckpointError(
            f"{name} cannot be read; it is cut short or no checkpoint. Copy it again and compare "
            f"its size. Torch says: {_first_line(error)}"
        ) from error


def _is_sound_zip(file: Path | BytesIO, name: str) -> bool:
    """Compare every entry with its checksum, which torch does not; False where entries are
    compressed and therefore cannot be mapped."""
    with ZipFile(file) as archive:
        damaged = archive.testzip()
        if damaged is not None:
            raise CheckpointError(
                f"{name} is damaged: its entry {damaged} does not match its checksum. Copy it again"
            )
        return all(entry.compress_type == ZIP_STORED for entry in archive.infolist())


def _state_dict(content: object, name: str) -> Mapping[Any, Any]:
    """The state dict in what torch.save wrote: under 'model', beside whatever else training keeps,
    or bare."""
    if not isinstance(content, Mapping):
        held = f"a {type(content).__name__}"
    else:
        inner = content.get("model")
        if isinstance(inner, Mapping) and inner:
            return inner
        if content and all(isinstance(value, Tensor) for value in content.values()):
            return content
        held = f"the keys {list(content)[:SHOWN]}"
    raise CheckpointError(f"{name} holds {held}; expected a dict with the weights under 'model'")


def _read_safetensors(file: Path | BytesIO, name: str) -> tuple[dict[str, Tensor], About]:
    if isinstance(file, BytesIO):
        with tempfile.NamedTemporaryFile(prefix="sam2-weights-") as copy:
            copy.write(file.getbuffer())
            copy.flush()
            return _read_safetensors(Path(copy.name), name)
    try:
        with safe_open(file, framework="pt") as opened:
            weights = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
            about = opened.metadata() or {}
    except Exception as error:  # SafetensorError is an Exception of its own
        raise CheckpointError(
            f"{name} cannot be read as safetensors; it is cut short or its header is broken. Copy "
            f"it again and compare its size. The library says: {_first_line(error)}"
        ) from error
    return weights, About.parse(about, name)


def _plain(weights: Mapping[Any, Any], name: str) -> dict[str, Tensor]:
    """The same under bare names, once each thing is a dense tensor and every name is alone."""
    strange = [key for key, value in weights.items() if not _is_dense_float(value)]
    if strange:
        raise CheckpointError(
            f"{name}: {strange[:SHOWN]} are not dense tensors of floating point numbers; expected "
            "a state dict as SAM2.state_dict() gives it"
        )
    plain = {bare(str(key)): value for key, value in weights.items()}
    if len(plain) < len(weights):
        raise CheckpointError(
            f"{name} holds the same weights twice, with and without the prefix of a wrapper "
            "('module.', '_orig_mod.'); save them once"
        )
    return plain


def require_finite(weights: Mapping[str, Tensor], name: str) -> None:
    """Raise CheckpointError naming the first of the weights that are NaN or infinite."""
    broken = [key for key, value in weights.items() if not _is_finite(value)]
    if broken:
        first = weights[broken[0]]
        bad = int((~first.float().isfinite()).sum())
        others = f", the first of {len(broken)} such tensors" if len(broken) > 1 else ""
        raise CheckpointError(
            f"{name}: {broken[0]} holds {bad} of {first.numel()} numbers that are NaN or infinite"
            f"{others}; the training had diverged, take an earlier checkpoint"
        )


def _is_finite(value: Tensor) -> bool:
    """Whether all numbers are within float32; in one pass over what may be mapped."""
    if not value.numel():
        return True
    low, high = value.aminmax()  # NaN, if there is one
    most = torch.finfo(torch.float32).max
    return -most <= low.item() and high.item() <= most


def _is_dense_float(value: object) -> bool:
    """A tensor that copying into a parameter never refuses, and that says what it means."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and value.dtype in FLOATS
    )


def _index_in(folder: str, name: str) -> str:
    """The index of the shards in a folder."""
    try:
        found = list_files(folder, INDEX_SUFFIX)
    except StorageError as error:
        raise CheckpointError(str(error)) from None
    if len(found) != 1:
        raise CheckpointError(
            f"{name} is a folder with {len(found)} files *{INDEX_SUFFIX}; expected one, beside the "
            "shards it lists, or the path of a checkpoint file"
        )
    return f"{folder.rstrip('/')}/{found[0]}"


def _read_shards(place: str, name: str) -> Stored:
    """The weights of all shards that an index lists, each held against its digest."""
    with _at_hand(place) as path:
        _head(path, name)
        index = Index.parse(path.read_bytes(), name)
    weights: dict[str, Tensor] = {}
    for file, digest in index.sha256.items():
        shard = place[: place.rfind("/") + 1] + file
        title = shown(shard)
        with _at_hand(shard) as path:
            _head(path, title)
            if (found := sha256(path)) != digest:
                raise CheckpointError(
                    f"{title} has sha256 {found}, but {name} lists {digest}; the shard is damaged "
                    "or of another export: copy the whole folder again"
                )
            weights |= _read_file(path, title).weights
    if set(weights) != set(index.weight_map):
        lacking = sorted(set(index.weight_map) ^ set(weights))
        raise CheckpointError(f"{name} and its shards differ in {lacking[:SHOWN]}; export it again")
    return Stored(name, weights, index.about)


def _first_line(error: BaseException) -> str:
    """What a library says, without the paragraphs of advice that torch appends."""
    return (str(error) or type(error).__name__).splitlines()[0][:200]

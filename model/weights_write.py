"""Named tensors to files: the released format, safetensors, and either of them in shards."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Literal

import safetensors.torch
import torch
from torch import Tensor

from model.weights_identity import COMPONENTS, of_component
from model.weights_shards import INDEX_SUFFIX, About, Index
from pipeline.errors import StorageError
from pipeline.remote import is_remote, reason, shown
from pipeline.storage import atomic_file, local_path, put, sha256

Format = Literal["pt", "safetensors"]


def format_of(target: object, wanted: Format | None = None) -> Format:
    """The format that is wanted, else the one that the target's name ends in, else "pt"."""
    return wanted or ("safetensors" if str(target).endswith(".safetensors") else "pt")


def write_weights(
    weights: Mapping[str, Tensor], about: About, target: str | Path | IO[bytes], form: Format
) -> None:
    """One file of all weights, there whole or not at all. Equal weights give equal bytes."""
    if isinstance(target, str | Path):
        _put(target, lambda file: _write(weights, about, file, form))
    else:
        _write(weights, about, target, form)


def write_shards(
    weights: Mapping[str, Tensor], about: About, folder: str | Path, form: Format
) -> list[str]:
    """A file for each component and, last, the index; returns their paths.

    A folder that is being written over is refused by a reader until the new index is there.
    """
    place = str(folder if is_remote(folder) else local_path(folder)).rstrip("/")
    if not is_remote(place) and Path(place).is_file():
        raise StorageError(f"{place} is a file; shards need a folder")
    file_of: dict[str, str] = {}
    digests: dict[str, str] = {}
    for component in COMPONENTS:
        file = f"{component}.{form}"
        names = of_component(component, weights)
        write_weights({name: weights[name] for name in names}, about, f"{place}/{file}", form)
        file_of |= dict.fromkeys(names, file)
        digests[file] = sha256(f"{place}/{file}")
    index = Index(about, {name: file_of[name] for name in weights}, digests)
    content = index.to_json(sum(value.nbytes for value in weights.values()))
    last = f"{place}/model.{form}{INDEX_SUFFIX}"
    _put(last, lambda file: file.write(content))
    return [*(f"{place}/{file}" for file in digests), last]


def _write(weights: Mapping[str, Tensor], about: About, file: IO[bytes], form: Format) -> None:
    if form == "pt":
        torch.save({"model": dict(weights)}, file)
    else:
        file.write(safetensors.torch.save(dict(weights), about.metadata()))


def _put(target: str | Path, write: Callable[[IO[Any]], Any]) -> None:
    """Let `write` fill a file and put it at a path or URL. Raises StorageError."""
    try:
        if not is_remote(target):
            with atomic_file(local_path(target)) as file:
                write(file)
            return
        with tempfile.NamedTemporaryFile(prefix="sam2-weights-") as local:
            write(local)
            local.flush()
            os.fsync(local.fileno())
            put(local.name, target)
    except (OSError, RuntimeError) as error:  # torch's writer wraps a full disk in a RuntimeError
        raise StorageError(
            f"{shown(target)} cannot be written ({reason(error)}); free some space or give another "
            "place"
        ) from error

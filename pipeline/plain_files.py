"""Torch files of tensors and plain values: written with their digest, read back, and opened without
executing anything (`weights_only=True`)."""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import CheckpointError, StorageError
from pipeline.storage import FileRecord, sha256


def write_plain(values: Any, path: Path) -> FileRecord:
    """Write `values` to `path`, synced, and read it back from the disk.

    Raises StorageError when it reads back different; OSError or, from torch's writer, RuntimeError
    where it cannot be written.
    """
    with open(path, "wb") as file:
        hashing = _HashingFile(file)
        torch.save(values, hashing)  # type: ignore[arg-type]
        file.flush()
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):  # so that reading asks the disk, not the memory
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    digest = hashing.digest.hexdigest()
    if (found := sha256(path)) != digest:
        raise StorageError(
            f"{path} reads back as sha256 {found}, not {digest} as written; check the disk"
        )
    return FileRecord(digest, path.stat().st_size)


def read_plain(path: str | Path, *, mmap: bool = False) -> dict[str, Any]:
    """The dictionary in a torch file, on the CPU, refusing anything but tensors and plain values.

    mmap: leave tensors on disk until they are used.
    """
    try:
        values = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors and plain values and was not loaded"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint ({error})") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds {type(values).__name__}, expected a dictionary")
    return values


class _HashingFile:
    """A file that knows the digest of what went through it."""

    def __init__(self, file: Any) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return int(self.file.write(data))

    def flush(self) -> None:
        self.file.flush()

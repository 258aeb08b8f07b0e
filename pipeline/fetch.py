"""The bytes of data files, local or remote, whole or a part of one.

What comes from afar is kept in the disk cache of this machine. A file that is missing, empty or shorter than it
should be is a fault of the data (DataError: such a sample can be left out); a store that does not answer is not
(StorageError: the run has to stop).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO, TypeVar

from pipeline.diskcache import disk_cache
from pipeline.errors import DataError
from pipeline.remote import ask, filesystem, is_remote, shown

T = TypeVar("T")


def read_bytes(
    path: str | Path, start: int = 0, size: int | None = None, version: int = 0
) -> bytes:
    """The content of a file, or `size` bytes of it from `start`.

    version: tells apart the states of a remote file (see `data.tree`), so that an old one is not taken from the
    cache. Raises DataError when the file is missing, empty or too short, StorageError when its store cannot be read.
    """
    remote = is_remote(path)
    content = _cached(str(path), start, size, version) if remote else _read_local(path, start, size)
    if not content:
        raise DataError(
            f"{shown(path)} is empty (0 bytes), expected the whole file; fetch or extract it again"
        )
    if size is not None and len(content) != size:
        raise DataError(
            f"{shown(path)} is cut off: found {len(content)} of {size} bytes from {start} on; "
            "fetch it again, or it was changed after it was listed: start again"
        )
    return content


def local_copy(path: str | Path, version: int = 0) -> Path:
    """A path on this machine with the content of `path`: itself, or a copy in the disk cache, to be opened at once."""
    if not is_remote(path):
        return Path(path)

    def write(file: IO[bytes]) -> None:
        def copy() -> None:
            file.seek(0)
            file.truncate()
            with store.open(inner, "rb") as reader:
                shutil.copyfileobj(reader, file, length=1 << 22)

        store, inner = filesystem(path)
        _ask(path, copy)

    return disk_cache().fetch(f"{path} {version}", write)


def _read_local(path: str | Path, start: int, size: int | None) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            file.seek(start)
            return file.readall() if size is None else file.read(size)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}), expected a file of the data set; "
            "fetch it again, or mend its permissions"
        ) from error


def _cached(path: str, start: int, size: int | None, version: int) -> bytes:
    key = f"{path} {version}" if size is None and not start else f"{path} {version} {start} {size}"
    content = disk_cache().read(key, lambda: read_remote(path, start, size))
    if size is not None and len(content) != size:
        disk_cache().drop(key)  # a power cut, or a part of an object that is cut off
        content = read_remote(path, start, size)
    return content


def read_remote(path: str, start: int = 0, size: int | None = None) -> bytes:
    """Bytes of a remote file as they are now, past the cache; fewer than `size` where it ends."""
    store, inner = filesystem(path)
    if size is None and not start:
        return _ask(path, lambda: bytes(store.cat_file(inner)))
    end = None if size is None else start + size
    return _ask(path, lambda: bytes(store.cat_file(inner, start=start, end=end)))


def _ask(path: str | Path, call: Callable[[], T]) -> T:
    try:
        return ask(path, call)
    except FileNotFoundError as error:
        raise DataError(
            f"{shown(path)} is not there, expected a file of the data set; fetch it again"
        ) from error


def read_current(path: str) -> bytes:
    """The whole content of a small file as it is now, past the cache. Raises DataError."""
    return read_remote(path) if is_remote(path) else _read_local(path, 0, None)


def read_range(path: str, start: int, size: int) -> bytes:
    """A part of a file as it is now, past the cache; fewer bytes where the file ends."""
    return read_remote(path, start, size) if is_remote(path) else _read_local(path, start, size)

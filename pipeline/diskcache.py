"""A folder of this machine that keeps what was fetched or worked out, bounded in bytes: what is used least recently
goes first.

Any number of processes share it. A file appears under its name only when it is whole, so one that dies while writing
leaves nothing that is ever read; what it leaves behind is swept away later.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO

from pipeline.errors import StorageError
from pipeline.storage import atomic_file

ABANDONED_SECONDS = 3600.0
"""After this long a file that is still being written belongs to nobody."""


def cache_folder() -> Path:
    """Where this user's caches lie: `SAM2_CACHE`, or `sam2-pipeline` in `XDG_CACHE_HOME` or `~/.cache`."""
    chosen = os.environ.get("SAM2_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser().absolute() / "sam2-pipeline"


def disk_cache() -> DiskCache:
    """The cache of data files: in `SAM2_DATA_CACHE`, or with the others, of at most
    `SAM2_CACHE_GB` (50 by default). Raises StorageError."""
    return configured("data", "SAM2_DATA_CACHE", "SAM2_CACHE_GB")


def configured(name: str, place: str, size: str) -> DiskCache:
    """The cache called `name`. place, size: the environment variables for its folder, else one among
    the others, and for its gigabytes (50 by default). Raises StorageError for another size."""
    text = os.environ.get(size, "50")
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = 0.0
    if not gigabytes > 0:
        raise StorageError(f"{size} is {text!r}; expected a number of gigabytes above 0")
    chosen = os.environ.get(place)
    folder = Path(chosen).expanduser().absolute() if chosen else cache_folder() / name
    return _opened(folder, int(gigabytes * 1e9), place)


class DiskCache:
    """Files by key. It may grow past `limit` by what all processes write between two sweeps: a sixteenth each."""

    def __init__(self, folder: Path, limit: int, variable: str = "SAM2_DATA_CACHE") -> None:
        """variable: the environment variable that names another folder, for messages."""
        self.folder, self.limit, self.variable = folder, limit, variable
        self._unswept = limit  # the first file written finds out how full the folder is

    def fetch(self, key: str, write: Callable[[IO[bytes]], None]) -> Path:
        """The file of `key`, written by `write` where it is not there yet. Open it at once: it may be swept away."""
        path = self._place(key)
        try:
            os.utime(path)  # the time of its last use: access times are off on many file systems
            return path
        except PermissionError:  # made by another user of a shared folder: as good, if readable
            return path
        except FileNotFoundError:
            pass
        try:
            with atomic_file(path, sync=False) as file:
                write(file)
                file.flush()
                size = os.fstat(file.fileno()).st_size  # later another process may sweep it away
        except OSError as error:
            raise StorageError(
                f"{path} cannot be written ({error.strerror}); free some space, or set "
                f"{self.variable} to a folder of this machine that can be written"
            ) from error
        self._unswept += size
        if self._unswept > self.limit // 16:
            self.sweep()
        return path

    def read(self, key: str, make: Callable[[], bytes]) -> bytes:
        """The bytes of `key`, made on the first call."""
        made: list[bytes] = []

        def write(file: IO[bytes]) -> None:
            made.append(make())
            file.write(made[0])

        while True:
            path = self.fetch(key, write)
            if made:
                return made[0]
            try:
                return path.read_bytes()
            except FileNotFoundError:  # swept away in between
                continue

    def drop(self, key: str) -> None:
        """Forget one file."""
        self._place(key).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what was used least recently until nine tenths of the limit are left; one process
        at a time does it."""
        with _alone(self.folder / ".sweep") as mine:
            if not mine:
                return
            self._unswept = 0
            files = sorted(self._files())
            total = sum(size for _, size, _ in files)
            if total <= self.limit:
                return
            for _, size, path in files:
                path.unlink(missing_ok=True)
                total -= size
                if total <= self.limit * 0.9:
                    return

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        """(last use, bytes, path) of every whole file; abandoned ones are removed."""
        for path in self.folder.glob("??/*"):
            try:
                found = path.stat()
            except FileNotFoundError:
                continue
            if path.name.startswith("."):
                if time.time() - found.st_mtime > ABANDONED_SECONDS:
                    path.unlink(missing_ok=True)
                continue
            yield found.st_mtime, found.st_size, path

    def _place(self, key: str) -> Path:
        name = hashlib.sha256(key.encode()).hexdigest()
        return self.folder / name[:2] / name[2:]


@cache
def _opened(folder: Path, limit: int, variable: str) -> DiskCache:
    return DiskCache(folder, limit, variable)


@contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Whether this process is the only one inside; the lock ends with the process that holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = open(path, "wb")  # noqa: SIM115 - closed below
    except PermissionError:  # another user's
        yield False
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True

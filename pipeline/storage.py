"""Files, local or remote, in one place: open, list, put whole, digest, and the checks made before a
job starts.

Paths are plain folders or fsspec URLs (`s3://bucket/key`, `memory://x`). A file put here is there
or it is not: readers never see half of one.
"""

from __future__ import annotations

import atexit
import csv
import hashlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from pipeline.errors import StorageError
from pipeline.remote import ask, filesystem, is_remote, reason, shown

EXIT_SECONDS = 10.0
"""How long a process that ends waits for files that its threads are writing."""
_ending = threading.Event()
_under_way: set[tuple[int, object]] = set()
"""Files being written, with the process: a fork inherits those of its parent."""


@dataclass(frozen=True)
class FileRecord:
    """What a file has to be."""

    sha256: str
    bytes: int


def local_path(path: str | Path) -> Path:
    """The file or folder of this machine that `path` names, as a path, a `file://` URL or with `~`."""
    text = str(path)
    return Path(unquote(urlsplit(text).path) if text.startswith("file://") else text).expanduser()


def open_file(path: str | Path, mode: str = "rb", **options: Any) -> Any:
    """A file object for `path`, as a context manager. Raises StorageError naming the path."""
    import fsspec

    try:
        return fsspec.open(str(path), mode, **options).open()
    except (OSError, ValueError, ImportError) as error:
        raise StorageError(
            f"{shown(path)} cannot be opened ({reason(error)}); check the path and its permissions"
        ) from error


def exists(path: str | Path) -> bool:
    """Whether a file or folder is there."""
    store, inner = filesystem(path)
    return ask(path, lambda: bool(store.exists(inner)))


def list_files(folder: str | Path, suffix: str = "") -> list[str]:
    """The names directly below `folder` that end in `suffix`, sorted. Raises StorageError when
    there is no folder."""
    store, inner = filesystem(folder)
    try:
        found = ask(folder, lambda: list(store.ls(inner, detail=False)))
        names = [str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in found]
    except OSError as error:
        raise StorageError(
            f"{shown(folder)} cannot be listed ({reason(error)}); check that the folder exists"
        ) from error
    return sorted(name for name in names if name.endswith(suffix))


@contextmanager
def atomic_file(path: str | Path, mode: str = "wb", *, sync: bool = True) -> Iterator[IO[Any]]:
    """A local file that takes the place of `path` when the block ends well, synced to disk; else
    nothing changes.

    sync: false for what can be made again; it is whole for every process, but not after a power
    cut."""
    path = Path(path)
    with _finished_at_exit():
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.", suffix=".part"
        )
        try:
            with os.fdopen(descriptor, mode, encoding=None if "b" in mode else "utf-8") as file:
                yield file
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            # mkstemp gives 0600, but others may read a run folder
            os.chmod(temporary, 0o644 & ~_UMASK)
            os.replace(temporary, path)
            if sync:
                sync_folder(path.parent)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


@contextmanager
def _finished_at_exit() -> Iterator[None]:
    """Let a thread in the background come to the end of this block before the process ends, which
    else stops it anywhere, and begin none afterwards."""
    mark = (os.getpid(), object())
    _under_way.add(mark)  # first: who ends looks here after `_ending` is set
    try:
        if _ending.is_set() and threading.current_thread() is not threading.main_thread():
            _under_way.discard(mark)
            threading.Event().wait()
        yield
    finally:
        _under_way.discard(mark)


@atexit.register
def _wait_for_files() -> None:
    _ending.set()
    until = time.monotonic() + EXIT_SECONDS
    while any(pid == os.getpid() for pid, _ in tuple(_under_way)) and time.monotonic() < until:
        time.sleep(0.01)


def put(source: str | Path, target: str | Path) -> None:
    """Copy a local file to `target`, whole or not at all."""
    try:
        if not is_remote(target):
            with open(source, "rb") as reader, atomic_file(target) as writer:
                shutil.copyfileobj(reader, writer, length=1 << 22)
            return
        store, inner = filesystem(target)
        # object stores publish an object only when it is complete
        ask(target, lambda: store.put_file(str(source), inner))
    except OSError as error:
        raise StorageError(
            f"{source} could not be stored as {shown(target)} ({reason(error)})"
        ) from error


def sync_folder(folder: str | Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: str | Path, values: Mapping[str, Any], *, indent: int | None = 2) -> None:
    """Put `values` at `path`, whole or not at all; the parent folders are made. indent: none puts
    all on one line. Raises StorageError."""
    text = json.dumps(values, indent=indent, default=str) + "\n"
    try:
        with atomic_file(path, "w") as file:
            file.write(text)
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written ({reason(error)}); give a folder you can write to"
        ) from error


def write_table(path: str | Path, head: Sequence[object], rows: Iterable[Sequence[object]]) -> None:
    """Put a table with column names `head` at `path` as CSV, whole or not at all. Raises OSError."""
    with atomic_file(path, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(rows)


def read_json(path: str | Path) -> dict[str, Any] | None:
    """The object at `path`, or None when there is no readable one: for files another process is
    still writing."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def sha256(path: str | Path) -> str:
    """Hex digest of a file's content."""
    if is_remote(path):
        with open_file(path) as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 22):
                digest.update(block)
            return digest.hexdigest()
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StorageError(f"{path} cannot be read ({reason(error)})") from error


def require_writable(folder: str | Path, what: str = "run folder") -> Path:
    """Make `folder` if need be and prove that a file can be written there; returns it, absolute.

    Raises StorageError saying which folder and why.
    """
    path = Path(folder).expanduser().resolve()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(b"x")
    except OSError as error:
        raise StorageError(
            f"{what} {path} cannot be written ({reason(error)}); "
            "give another folder, or mend its permissions"
        ) from error
    return path


def require_space(folder: str | Path, needed: int, what: str) -> None:
    """Check that `needed` bytes are free where `folder` is or will be. Raises StorageError with
    both figures."""
    path = Path(folder).expanduser().resolve()
    while not path.exists():
        path = path.parent
    free = shutil.disk_usage(path).free
    if free < needed:
        raise StorageError(
            f"{what} needs {size_text(needed)} in {folder}, but {size_text(free)} are free there; "
            "free some space or give another folder"
        )


def size_text(size: int) -> str:
    """Bytes for a reader: `1.5 GB`."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def _read_umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


_UMASK = _read_umask()

"""Folders whose content is executed: pickles of jobs and results, and the records that name
processes to end.

Whoever can write there can run code as us, so they belong to us and nobody else may write them.
"""

from __future__ import annotations

import os
import pickle
import stat
from pathlib import Path
from typing import Any

from pipeline.errors import StorageError
from pipeline.remote import reason
from pipeline.storage import atomic_file

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def make_folder(folder: str | Path, mode: int = 0o755) -> Path:
    """Make `folder`, and what is missing above it, such that only we write there, whatever the
    umask; returns it, absolute. What is there stays as it is. Raises StorageError."""
    path = Path(folder).expanduser().absolute()
    missing = [place for place in (path, *path.parents) if not place.exists()]
    try:
        for place in reversed(missing):
            place.mkdir(mode=mode, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"{path} cannot be made ({reason(error)}); give another folder, or mend its permissions"
        ) from error
    return path


def make_private(folder: str | Path, mode: int = 0o755) -> Path:
    """`make_folder`, and what is there already must be ours alone, too. Raises StorageError.

    mode: of what is made; 0o700 where others need not even read.
    """
    path = make_folder(folder, mode)
    require_private(path)
    return path


def require_private(path: str | Path) -> None:
    """Raise StorageError when the file or folder belongs to somebody else, or others may write it.

    What is not there is nobody's.
    """
    try:
        found = Path(path).stat()
    except FileNotFoundError:
        return
    if found.st_uid != os.geteuid():
        raise StorageError(
            f"{path} belongs to user {found.st_uid}, and this is user {os.geteuid()}; jobs are "
            "read back from there, so give a folder of your own"
        )
    if found.st_mode & OTHERS_WRITE:
        raise StorageError(
            f"{path} can be written by others (mode {stat.S_IMODE(found.st_mode):04o}), who could "
            f"run code as you through the jobs in it; `chmod -R go-w {path}`, or give another folder"
        )


def write_pickle(path: Path, value: object, *, sync: bool = True) -> None:
    """Put `value` at `path`, whole or not at all, for us alone. sync: see `atomic_file`."""
    with atomic_file(path, sync=sync) as file:
        pickle.dump(value, file)
    os.chmod(path, 0o600)  # whatever the umask


def read_pickle(path: Path) -> Any:
    """What `write_pickle` put at `path`; None where there is nothing, or what another version wrote.
    Raises StorageError when it is not ours alone: a pickle does what it says."""
    require_private(path)
    try:
        with open(path, "rb") as file:
            return pickle.load(file)
    except (OSError, EOFError, pickle.UnpicklingError, AttributeError, ImportError, ValueError):
        return None

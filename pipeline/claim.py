"""One flow at a time works on a stage; the others wait for it.

The claim is a file beside the stage's folder (which may be moved aside meanwhile): locked by the
kernel for as long as its holder lives, and naming the holder for those whom the lock does not
reach, on other machines of a shared disk. A holder that was killed leaves no claim behind.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.errors import StageError
from pipeline.owner import Owner
from pipeline.private import make_folder
from pipeline.storage import read_json

RENEW_SECONDS = 15.0
STALE_SECONDS = 120.0
"""A claim from another machine that was not renewed for so long counts as given up."""
PAUSE_SECONDS = 0.5
_nested: set[tuple[Path, int]] = set()
"""What is claimed here, by which thread."""


def claim_path(folder: str | Path) -> Path:
    """Where the claim on the stage in `folder` is made."""
    path = Path(folder).absolute()
    return path.with_name(f".{path.name}.claim")


@contextmanager
def claim(
    folder: str | Path, *, key: str = "", on_wait: Callable[[Owner | None], None] | None = None
) -> Iterator[bool]:
    """Have the stage in `folder` to ourselves inside the block; yields whether we had to wait.

    While another process has it, `on_wait` is called with that process, twice a second. A thread
    that has the claim may claim again. Raises StageError when the other works on another `key`:
    waiting would not give us what we want.
    """
    path, thread = claim_path(folder), threading.get_ident()
    if (path, thread) in _nested:
        yield False
        return
    make_folder(path.parent)
    waited = False
    while (descriptor := _take(path, key)) is None:
        waited = True
        record = read_json(path)
        holder = Owner.from_record(record)
        if record is not None and holder is not None and record.get("key") != key:
            raise StageError(
                f"{folder} is being worked on with other settings by {holder}; wait for it, stop "
                f"it (kill {holder.pid}), or give this run a name of its own (run_name=…)"
            )
        if on_wait is not None:
            on_wait(holder)
        time.sleep(PAUSE_SECONDS)
    _nested.add((path, thread))
    over = threading.Event()
    renewal = threading.Thread(target=_renew, args=(descriptor, over), name="claim", daemon=True)
    renewal.start()
    try:
        yield waited
    finally:
        _nested.discard((path, thread))
        over.set()
        renewal.join()  # its number may mean another file a moment later
        os.ftruncate(descriptor, 0)
        os.close(descriptor)


def holder_of(folder: str | Path) -> Owner | None:
    """Who has the stage in `folder`; None when nobody has, or he who had was killed."""
    path = claim_path(folder)
    record = read_json(path)
    return Owner.from_record(record) if record and _is_held(path, record) else None


def _take(path: Path, key: str) -> int | None:
    """The claim's open file, or None while somebody else has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    taken = False
    try:
        locks = _lock(descriptor)
        if locks is False:
            return None
        record = read_json(path)
        if record and _is_named(path, record, locks):
            return None
        text = json.dumps({**asdict(Owner.me()), "key": key, "time": time.time()}).encode()
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text, 0)
        os.fsync(descriptor)
        if locks is None:  # two may have written: the last one has it
            time.sleep(PAUSE_SECONDS)
            if Owner.from_record(read_json(path)) != Owner.me():
                return None
        taken = True
        return descriptor
    finally:
        if not taken:
            os.close(descriptor)


def _lock(descriptor: int) -> bool | None:
    """Whether the kernel gave us the lock; None where the disk knows no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_held(path: Path, record: dict[str, Any]) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        locks = _lock(descriptor)
        return locks is False or _is_named(path, record, locks)
    finally:
        os.close(descriptor)


def _is_named(path: Path, record: dict[str, Any], locks: bool | None) -> bool:
    """Whether the process that the claim names has it, although the lock is free for us."""
    owner = Owner.from_record(record)
    if owner is None:
        return False
    if owner.state == "elsewhere":
        return time.time() - path.stat().st_mtime < STALE_SECONDS
    return locks is None and owner.state == "alive" and owner != Owner.me()


def _renew(descriptor: int, over: threading.Event) -> None:
    while not over.wait(RENEW_SECONDS):
        try:
            os.utime(descriptor)
        except OSError:
            return

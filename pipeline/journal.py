"""What a stage records, on its own disk first: rows of metrics and everything else, in two append-only files.

`metrics.jsonl` holds `{"step", "time", "values"}` rows, time in milliseconds since 1970; `record.jsonl` holds the
rest, one `{"kind": …}` entry a line: open, tags, data, artifact, checkpoint, end. `mlflow.json` notes how far
both were sent and to which run; whoever sends or rewrites holds `record.lock`. A row is sent again after a crash,
never lost, and MLflow keeps equal points once.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.outbox import Outbox
from pipeline.storage import atomic_file, read_json, write_json

METRICS, RECORD, SENT, LOCK = "metrics.jsonl", "record.jsonl", "mlflow.json", "record.lock"
EARLIER = "earlier"
LIMIT_BYTES = 64 << 20
"""Above this size old rows of metrics are thinned out; the record is small by nature."""
NEWEST = 500
"""Rows at the end that are never thinned out."""
logger = logging.getLogger(__name__)


class Journal:
    """The writer of one folder's journal. Nothing here waits for the disk or raises because of it."""

    def __init__(self, folder: str | Path, limit_bytes: int = LIMIT_BYTES) -> None:
        self.folder, self.limit = Path(folder), limit_bytes
        self._times: dict[int, int] | None = None
        self._outbox = Outbox(f"journal of {self.folder.name}", self._write)

    def row(self, step: int, values: Mapping[str, float], *, keep: bool = False) -> None:
        """Record metrics of `step`. keep: never thinned out."""
        row: dict[str, Any] = {"step": step, "time": now(), "values": dict(values)}
        self._outbox.put((METRICS, row | ({"keep": True} if keep else {})), keep=keep)

    def entry(self, kind: str, **values: Any) -> None:
        """Record anything else."""
        self._outbox.put((RECORD, {"kind": kind, "time": now(), **values}), keep=True)

    def close(self, wait_seconds: float) -> bool:
        """Write what waits; whether it is on disk within `wait_seconds`."""
        return self._outbox.close(wait_seconds)

    def _write(self, things: list[tuple[str, dict[str, Any]]]) -> None:
        if self._times is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            for name in (METRICS, RECORD):
                mend(self.folder / name)
            self._times = {_what(row): row["time"] for row in read_lines(self.folder / METRICS)}
        # metrics first: what an `end` closes is then complete for whoever reads the record first
        for name in (METRICS, RECORD):
            rows = [values for where, values in things if where == name]
            if name == METRICS:  # a step taken again keeps its time, so that equal points are one
                rows = [
                    {**row, "time": self._times.setdefault(_what(row), row["time"])} for row in rows
                ]
            append(self.folder / name, rows)
        if size(self.folder / METRICS) > self.limit:
            with locked(self.folder, seconds=0) as ours:
                if ours:
                    thin_out(self.folder, self.limit)


def _what(row: Mapping[str, Any]) -> int:
    return hash((row["step"], *sorted(row["values"])))


def now() -> int:
    """Milliseconds since 1970."""
    return int(time.time() * 1000)


def size(path: Path) -> int:
    """Bytes of a file, 0 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def append(path: Path, rows: list[dict[str, Any]]) -> None:
    """Add whole lines to a file; a full disk leaves it as it was. Raises OSError."""
    if not rows:
        return
    data = "".join(json.dumps(row, default=str) + "\n" for row in rows).encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        before = os.fstat(descriptor).st_size
        try:
            while data:
                data = data[os.write(descriptor, data) :]
        except OSError:
            os.ftruncate(descriptor, before)
            raise
    finally:
        os.close(descriptor)


def mend(path: Path) -> None:
    """Take away half a line at the end, which a killed writer left."""
    if not (length := size(path)):
        return
    with open(path, "rb+") as file:
        file.seek(max(0, length - (1 << 20)))
        tail = file.read()
        if not tail.endswith(b"\n"):
            file.truncate(length - len(tail) + tail.rfind(b"\n") + 1)


def read_lines(path: Path, start: int = 0, end: int | None = None) -> Iterator[dict[str, Any]]:
    """The whole, readable lines between two offsets."""
    yield from (values for values, _ in lines_with_ends(path, start, end))


def last_opening(folder: Path) -> dict[str, Any] | None:
    """The last word on what the run of this folder is: its latest `open` entry."""
    found = None
    for entry in read_lines(folder / RECORD):
        if entry["kind"] == "open":
            found = entry
    return found


def set_apart(folder: Path, stage_id: str) -> None:
    """Move the records of other work than `stage_id` into a folder of their own, from where they are still sent.
    Work that comes and goes gets a new one each time."""
    before = last_opening(folder)
    if before is None or before["stage_id"] == stage_id:
        return
    aside = folder / f"{EARLIER}-{before['stage_id'][:12]}-{before['time']}"
    aside.mkdir(exist_ok=True)
    for name in (METRICS, RECORD, SENT):
        if (folder / name).exists():
            (folder / name).replace(aside / name)


def lines_with_ends(
    path: Path, start: int = 0, end: int | None = None
) -> Iterator[tuple[dict[str, Any], int]]:
    """Like `read_lines`, each with the offset behind it."""
    if not path.exists():
        return
    with open(path, "rb") as file:
        file.seek(start)
        at = start
        for line in file:
            at += len(line)
            if not line.endswith(b"\n") or (end is not None and at > end):
                return
            try:
                values = json.loads(line)
            except ValueError:
                logger.warning("%s: a broken line before byte %d is left out", path, at)
                continue
            if isinstance(values, dict):
                yield values, at


def thin_out(folder: Path, limit: int) -> None:
    """Drop every second old row of metrics until half the limit holds: sent ones first, then waiting ones.

    The caller holds the lock. Rows to keep and the newest stay.
    """
    state = read_json(folder / SENT) or {}
    sent = int(state.get("metrics", 0))
    rows = list(lines_with_ends(folder / METRICS))
    known = [(row, end <= sent) for row, end in rows]
    before = len(known)
    for only_sent in (True, False):
        while _bytes(known) > limit // 2:
            thinned = _every_second(known, only_sent)
            if len(thinned) == len(known):
                break
            known = thinned
    lines = [(json.dumps(row) + "\n", was_sent) for row, was_sent in known]
    with atomic_file(folder / METRICS, "w", sync=False) as file:
        file.writelines(line for line, _ in lines)
    if state:
        offset = sum(len(line.encode()) for line, was_sent in lines if was_sent)
        write_json(folder / SENT, {**state, "metrics": offset})
    logger.warning(
        "%s is full: thinned out from %d to %d rows", folder / METRICS, before, len(known)
    )


def _every_second(
    rows: list[tuple[dict[str, Any], bool]], only_sent: bool
) -> list[tuple[dict[str, Any], bool]]:
    kept, drop = [], False
    for index, (row, was_sent) in enumerate(rows):
        may = not row.get("keep") and (was_sent or not only_sent) and index < len(rows) - NEWEST
        drop = may and not drop
        if not drop:
            kept.append((row, was_sent))
    return kept


def _bytes(rows: list[tuple[dict[str, Any], bool]]) -> int:
    return sum(len(json.dumps(row)) + 1 for row, _ in rows)


@contextmanager
def locked(folder: Path, seconds: float) -> Iterator[bool]:
    """Hold the folder's lock, against other threads and processes; whether it was got in time."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        yield _lock(descriptor, time.monotonic() + seconds)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, until: float) -> bool:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.05)
        except OSError:  # a file system without locks: equal points are one in MLflow all the same
            return True
        else:
            return True

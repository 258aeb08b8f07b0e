"""How a job, or one of its ranks, ended: what is left in files for whoever launched it."""

from __future__ import annotations

import time
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pipeline.errors import PipelineError
from pipeline.stop import StopRequested
from pipeline.storage import read_json, write_json

ENDED_FILE = "ended.json"
SHARDS = "*-of-*"
"""The folders of an array's shards in that of their stage; each leaves its own words there."""


@dataclass(frozen=True)
class Failure:
    """Why one rank ended without a result."""

    rank: int
    kind: str
    """Name of the exception's class."""
    message: str
    time: float
    stopped: bool = False
    """It was asked to stop."""
    expected: bool = False
    """A PipelineError: the message says it all."""
    trace: str = ""


@dataclass(frozen=True)
class Ended:
    """How the last life of a job ended, as its first rank left it in `ended.json`. A job that was
    killed leaves none."""

    kind: Literal["done", "requeue", "stopped", "failed"]
    """`requeue`: it saved and wants to be started again. `stopped`: somebody asked it to end."""
    reason: str
    time: float
    """Seconds since 1970."""
    logs: str
    """The folder of the attempt it was part of."""


def failure_path(logs: str | Path, rank: int) -> Path:
    """Where rank `rank` of an attempt notes its failure."""
    return Path(logs) / f"failure-{rank}.json"


def note_failure(
    logs: str | Path, rank: int, error: BaseException, noted_by: int | None = None
) -> None:
    """Leave the cause for the launcher; called where `error` is handled.

    rank: the one to blame. noted_by: the one whose end this explains, where it is another.
    """
    failure = Failure(
        rank=rank,
        kind=type(error).__name__,
        message=str(error),
        time=time.time(),
        stopped=isinstance(error, StopRequested),
        expected=isinstance(error, PipelineError),
        trace=traceback.format_exc(),
    )
    write_json(failure_path(logs, rank if noted_by is None else noted_by), asdict(failure))


def noted_failures(logs: str | Path) -> dict[int, Failure]:
    """What each rank noted that failed; the rank that is to blame may be another."""
    found = {}
    for path in Path(logs).glob("failure-*.json"):
        with suppress(TypeError):  # written by another version, or gone meanwhile
            found[int(path.stem.removeprefix("failure-"))] = Failure(**(read_json(path) or {}))
    return found


def note_end(folder: str | Path, logs: str | Path, error: BaseException | None) -> None:
    """Leave how this life of the job ended."""
    kind = "done"
    if isinstance(error, StopRequested):
        kind = "requeue" if error.requeue else "stopped"
    elif error is not None:
        kind = "failed"
    values = {"kind": kind, "reason": str(error or ""), "time": time.time(), "logs": str(logs)}
    write_json(Path(folder) / ENDED_FILE, values)


def wants_another_life(folder: str | Path, logs: str) -> Ended | None:
    """The last word of the stage's job, or of one of its shards, if that was that it could not stay
    and wants to be started again. logs: the attempt's; what was said in others does not count."""
    for place in (Path(folder), *sorted(Path(folder).glob(SHARDS))):
        ended = read_ended(place)
        if ended is not None and (ended.kind, ended.logs) == ("requeue", logs):
            return ended
    return None


def read_ended(folder: str | Path) -> Ended | None:
    """How the last life of the stage's job ended; None while it lives, and after it was killed."""
    values = read_json(Path(folder) / ENDED_FILE)
    try:
        return Ended(**values) if values else None
    except TypeError:  # written by another version
        return None

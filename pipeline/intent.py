"""What is written down around a submission, so that whoever comes next knows which job there is.

`intent.json` is on the disk before the scheduler is asked, `handle.json` after its answer. An intent
without its handle means that the answer was lost: the job is then looked for by its name and the
time. A job whose intent was replaced by a later one does not begin.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from pipeline.backends import Handle
from pipeline.errors import StageError
from pipeline.owner import Owner
from pipeline.private import make_private, require_private
from pipeline.storage import read_json, write_json

INTENT_FILE, HANDLE_FILE = "intent.json", "handle.json"
LOGS = "logs"


@dataclass(frozen=True)
class Intent:
    """A submission that is about to happen, or happened."""

    name: str
    """The job's, in the queue and in its environment: `s2-KEY12-ATTEMPT-TOKEN`."""
    attempt: int
    """Counts the submissions of this stage folder, from 1."""
    key: str
    launcher: str
    logs: str
    """The folder of this attempt, made for it."""
    tasks: int
    time: float
    owner: Mapping[str, Any]
    """The process that submits (`Owner`)."""


def write_intent(folder: Path, key: str, launcher: str, tasks: int) -> Intent:
    """Say that a job for the stage in `folder` is going to be submitted; makes the folder of its
    logs and pickles, which only we may enter."""
    attempt = _last_attempt(folder) + 1
    token = secrets.token_hex(3)  # job ids are numbers that come again; this does not
    logs = folder / LOGS / f"{time.strftime('%Y%m%d-%H%M%S')}-{token}"
    make_private(folder / LOGS)
    make_private(logs, mode=0o700)
    intent = Intent(
        name=f"s2-{key[:12] or 'nokey'}-{attempt}-{token}",
        attempt=attempt,
        key=key,
        launcher=launcher,
        logs=str(logs),
        tasks=tasks,
        time=time.time(),
        owner=asdict(Owner.me()),
    )
    write_json(folder / INTENT_FILE, asdict(intent))
    return intent


def read_intent(folder: str | Path) -> Intent | None:
    """The submission last begun for the stage in `folder`."""
    return _read(Intent, Path(folder) / INTENT_FILE)


def withdraw_intent(folder: Path, intent: Intent) -> None:
    """Forget a submission that came to nothing; a scheduler that takes the job after all finds
    nothing to run."""
    for pickle in Path(intent.logs).glob("*.pkl"):
        pickle.unlink(missing_ok=True)
    if read_intent(folder) == intent:
        (folder / INTENT_FILE).unlink(missing_ok=True)


def write_handle(folder: Path, handle: Handle) -> None:
    """Say that the job is submitted, and how it is found."""
    write_json(folder / HANDLE_FILE, asdict(handle))


def read_handle(folder: str | Path) -> Handle | None:
    """The job last submitted for the stage in `folder`."""
    return _read(Handle, Path(folder) / HANDLE_FILE)


def unanswered(folder: str | Path) -> Intent | None:
    """The last intent, if nothing says what became of it."""
    intent, handle = read_intent(folder), read_handle(folder)
    if intent is None or (handle is not None and handle.attempt >= intent.attempt):
        return None
    return intent


def own_record(intent: Intent) -> str | None:
    """The id of the intent's job by what it left in its own folder, where it opened its log."""
    for log in sorted(Path(intent.logs).glob("*_log.out")):
        return log.name.split("_")[0]
    return None


def superseded(logs: str | Path) -> bool:
    """Whether a later submission has taken the place of the attempt in `logs`."""
    intent = read_intent(Path(logs).parent.parent)
    return intent is not None and Path(intent.logs) != Path(logs)


def _last_attempt(folder: Path) -> int:
    intent, handle = read_intent(folder), read_handle(folder)
    return max(intent.attempt if intent else 0, handle.attempt if handle else 0)


def _read(kind: Any, path: Path) -> Any:
    """The record at `path`, without fields of a later version. Raises StorageError when others may
    have written it: what it says is acted upon."""
    values = read_json(path)
    if values is None:
        return None
    require_private(path.parent)
    require_private(path)
    known = {field.name for field in fields(kind)}
    try:
        return kind(**{name: value for name, value in values.items() if name in known})
    except TypeError as error:
        raise StageError(
            f"{path} is not what was written there ({error}); see that no job of this stage runs, "
            "delete the file and run again"
        ) from error

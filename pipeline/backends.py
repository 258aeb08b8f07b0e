"""What a backend is: somewhere jobs run, behind a few verbs. `pipeline.local` and `pipeline.slurm`
are the two.

Nothing here depends on having started the job: a `Handle` read from disk is enough.
"""

from __future__ import annotations

import os
import re
import sys
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeline.errors import StageError
from pipeline.failure import Failure, read_ended
from pipeline.heartbeat import read_beat
from pipeline.job import Job
from pipeline.private import require_private
from pipeline.settings import LaunchConfig
from pipeline.storage import read_json

SECONDARY = (
    "connection closed by peer",
    "connection reset",
    "broken pipe",
    "socket closed",
    "timed out",
)
"""What a rank says that has lost another one."""


class NoAnswerError(StageError):
    """The scheduler gave no clear answer: it may have taken the job, or be able to a little
    later."""


@dataclass(frozen=True)
class JobState:
    """What the scheduler says of a job."""

    state: str
    """SLURM's word: PENDING, RUNNING, COMPLETED, FAILED, CANCELLED, PREEMPTED, TIMEOUT …"""
    reason: str = ""
    """Why it waits, or ended."""
    nodes: str = ""
    since: float = 0.0
    """When it was submitted, for one that waits; when it began, for one that runs; else when it
    ended. Seconds since 1970; 0 where nobody knows."""
    name: str = ""
    """The job's; empty where nobody knows."""

    @property
    def text(self) -> str:
        """For a log line: `PENDING (Resources)`, `RUNNING on n1`."""
        where = f" on {self.nodes}" if self.nodes else ""
        return f"{self.state}{where}{f' ({self.reason})' if self.reason else ''}"


@dataclass(frozen=True)
class Handle:
    """A submitted job, as it is found again after a restart."""

    launcher: str
    job_id: str
    folder: str
    """The stage's."""
    logs: str
    """submitit's: pickles and logs of this attempt."""
    key: str
    tasks: int
    host: str
    pid: int = 0
    """Of the local controller; 0 under SLURM."""
    start: float = 0.0
    """When that process began."""
    submitted: float = 0.0
    name: str = ""
    """Of the job, in the queue and in its environment."""
    attempt: int = 0
    boot: str = ""
    """The boot of the host in which a local job runs."""


class Backend(Protocol):
    """Local processes or SLURM."""

    launcher: str
    config: LaunchConfig
    least_pause: float
    """Seconds between two looks, at least: the files of many ranks on a network disk take their
    time."""

    def submit(self, job: Job, name: str) -> str:
        """Start the job; its id. Raises NoAnswerError when nobody knows whether it was taken,
        ConfigError, `was not accepted by …`, when it was refused."""

    def find(self, name: str, since: float) -> str | None:
        """The id of the job `name` submitted at `since` (seconds since 1970) or later, or None.
        Raises StageError when that cannot be told."""

    def adopt(self, handle: Handle) -> None:
        """Finish what a submitter who was killed did not."""

    def alive(self, handle: Handle) -> bool:
        """Whether the job waits or runs."""

    def has_ended(self, handle: Handle) -> bool:
        """Whether the job has left a last word."""

    def state(self, handle: Handle) -> JobState:
        """What the scheduler says of the job, at most 15 seconds old."""

    def lost_ranks(self, handle: Handle) -> list[int]:
        """Ranks that have failed, whether or not the others run on; not those that were asked to
        stop."""

    def kill(self, handle: Handle) -> None:
        """End the job and everything it started, now. Harmless when it has ended."""

    def failures(self, handle: Handle) -> list[Failure]:
        """Why ranks of the ended job have no result; empty when all succeeded."""

    def log(self, handle: Handle, rank: int) -> Path:
        """Where a rank's words are: a file, or the folder of an array's."""

    def result(self, handle: Handle) -> Any:
        """What rank 0 returned."""


def is_secondary(failure: Failure) -> bool:
    """Whether a rank only lost another one, whose failure is the cause."""
    text = f"{failure.kind} {failure.message}".lower()
    return not failure.expected and any(words in text for words in SECONDARY)


class Attempt:
    """What both backends read from the folder of an attempt."""

    job_class: Any

    def adopt(self, handle: Handle) -> None:
        """Give pickles the names under which the tasks look for them: the last step of a
        submission. The parts of an array each know what they are, so their order is free."""
        paths = self._job(handle).task(0).paths
        pickles = [
            path
            for path in Path(handle.logs).glob("*.pkl")
            if re.fullmatch(r"[0-9a-f]{32}", path.stem)
        ]
        for number, pickle in enumerate(sorted(pickles, key=lambda path: path.stat().st_mtime_ns)):
            job_id = handle.job_id if len(pickles) == 1 else f"{handle.job_id}_{number}"
            pickle.rename(paths.folder / f"{job_id}_submitted.pkl")

    def has_ended(self, handle: Handle) -> bool:
        """Whether a rank has left a result or a failure, or the first one how it ended."""
        ended, logs = read_ended(handle.folder), Path(handle.logs)
        words = (*logs.glob("failure-*.json"), *logs.glob("*_result.pkl"))
        return bool(words) or (ended is not None and ended.logs == handle.logs)

    def result(self, handle: Handle) -> Any:
        """What rank 0 returned."""
        require_private(handle.logs)
        return self._job(handle).task(0).result()

    def failures(self, handle: Handle) -> list[Failure]:
        """Why ranks have no result; a rank that wrote nothing was killed from outside."""
        found = []
        for rank in range(handle.tasks):
            if self._succeeded(handle, rank):
                continue
            values = read_json(Path(handle.logs) / f"failure-{rank}.json")
            found.append(Failure(**values) if values else self._silent(handle, rank))
        return found

    def lost_ranks(self, handle: Handle) -> list[int]:
        """Ranks that have noted a failure other than having been asked to stop, and those they
        blame."""
        notes = {
            rank: read_json(Path(handle.logs) / f"failure-{rank}.json")
            for rank in range(handle.tasks)
        }
        failed = [(rank, note) for rank, note in notes.items() if note and not note.get("stopped")]
        return sorted({lost for rank, note in failed for lost in (rank, int(note["rank"]))})

    def log(self, handle: Handle, rank: int) -> Path:
        """What a rank wrote to stderr."""
        return Path(handle.logs) / f"{handle.job_id}_{rank}_log.err"

    def _succeeded(self, handle: Handle, rank: int) -> bool:
        require_private(handle.logs)
        task = self._job(handle).task(rank)
        return task.paths.result_pickle.exists() and task.exception() is None

    def _silent(self, handle: Handle, rank: int) -> Failure:
        path = self.log(handle, rank)
        tail = path.read_text(errors="replace").splitlines()[-15:] if path.is_file() else []
        beat = read_beat(handle.folder, rank)
        last = f"; it was last seen at {beat.text}" if beat is not None else ""
        message = f"ended without a word (killed, or out of memory?){last}"
        stacks = Path(handle.logs) / f"stacks-{rank}.txt"
        if stacks.is_file() and stacks.stat().st_size:
            message += f"; its stacks: {stacks}"
        return Failure(rank, "", message, time.time(), trace="\n".join(tail))

    def _job(self, handle: Handle) -> Any:
        return self.job_class(handle.logs, handle.job_id, tasks=list(range(handle.tasks)))


def import_environment() -> dict[str, str]:
    """What lets the job import what we can, and nothing by accident from the folder it is started
    in."""
    standard = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))
    extra = [os.path.abspath(path) for path in sys.path if not path.startswith(standard)]
    return {"PYTHONPATH": os.pathsep.join(extra), "PYTHONSAFEPATH": "1"}

"""What SLURM says of jobs: one `squeue` for all that this process waits for, every 15 seconds.

No accounting database is needed. `squeue` also knows jobs that ended a few minutes ago (MinJobAge);
for older ones `sacct` is asked, where there is one.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from pipeline.backends import JobState
from pipeline.errors import StageError

SLURM_SECONDS = 15.0
"""How often the queue is asked."""
ENDED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "GONE", "NODE_FAIL"),
    *("OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"),
}
"""States from which a job does not come back, unless SLURM requeues it, which shows at the next
look. GONE: SLURM has forgotten it."""
PASSING = ("PREEMPTED", "NODE_FAIL", "BOOT_FAIL")
"""Ends after which SLURM may requeue; believed when they are still there at the next look."""
FIELDS = "%F|%T|%r|%N|%S|%V|%j"
SACCT = ("sacct", "--noheader", "--parsable2", "--allocations", "--format=State,NodeList,End")


class Queue:
    """The latest answer about every job that was asked for."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.known: dict[str, list[JobState]] = {}
        self.asked = float("-inf")

    def states(self, job_id: str, within: float | None = None) -> list[JobState]:
        """The states of a job, several for an array; never empty.

        within: seconds the answer may be old. Raises StageError where there is no squeue.
        """
        within = SLURM_SECONDS if within is None else within
        with self.lock:
            if job_id not in self.known or time.monotonic() - self.asked > within:
                self._ask(sorted({job_id, *self._waiting()}))
            return self.known.get(job_id) or [JobState("UNKNOWN", "squeue did not answer")]

    def forget(self) -> None:
        """Let the next question be a real one."""
        self.asked = float("-inf")

    def _waiting(self) -> list[str]:
        return [
            job_id
            for job_id, states in self.known.items()
            if any(state.state not in ENDED for state in states)
        ]

    def _ask(self, ids: Sequence[str]) -> None:
        command = ["squeue", "--noheader", "--array", "--states=all", f"--format={FIELDS}"]
        answer = call([*command, f"--jobs={','.join(ids)}"])
        self.asked = time.monotonic()
        invalid = "invalid job id" in answer.stderr.lower()
        if answer.returncode != 0 and not invalid:
            return  # a controller too busy to answer says nothing about the jobs
        if invalid and len(ids) > 1:  # some versions refuse the whole list for one forgotten job
            for job_id in ids:
                self._ask([job_id])
            return
        found: dict[str, list[JobState]] = {job_id: [] for job_id in ids}
        for line in answer.stdout.splitlines():
            job_id, *values = line.strip().split("|")
            if job_id in found and len(values) == 6:
                found[job_id].append(_state(*values))
        for job_id, states in found.items():
            before = self.known.get(job_id, [])
            self.known[job_id] = [_believed(s, before) for s in states] or [_last_word(job_id)]


QUEUE = Queue()
"""Of this process: so that many waiting threads make one question."""


def call(command: Sequence[str], seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Run one of SLURM's commands; an answer that does not come is code 124. Raises StageError
    where SLURM is not installed."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except FileNotFoundError as error:
        raise StageError(
            f"{command[0]} is not installed here; start this from a node of the cluster that has it"
        ) from error
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"no answer in {seconds:.0f} s")


def find(name: str, since: float) -> str | None:
    """The id of the job called `name` that was submitted at or after `since` (seconds since 1970),
    or None: for a submission whose answer was lost. Raises StageError when SLURM does not say."""
    command = ["squeue", "--noheader", "--me", "--states=all", f"--name={name}", "--format=%F|%V"]
    answer = call(command)
    if answer.returncode != 0:
        raise StageError(
            f"cannot tell whether SLURM has the job {name} ({answer.stderr.strip()}); submitting it "
            "again might make two of it, so run this again when squeue answers"
        )
    for line in answer.stdout.splitlines():
        job_id, _, submitted = line.strip().partition("|")
        if _seconds(submitted) >= int(since):  # squeue tells whole seconds
            return job_id
    return None


def _state(state: str, reason: str, nodes: str, start: str, submitted: str, name: str) -> JobState:
    since = _seconds(submitted if state == "PENDING" else start)
    plain = "" if reason in ("None", "") else reason
    return JobState(state, plain, nodes.strip("()") if nodes != "n/a" else "", since, name)


def _believed(state: JobState, before: Sequence[JobState]) -> JobState:
    """An end from which SLURM may still requeue counts as `COMPLETING` at its first sight."""
    if state.state not in PASSING or any(
        one.state in ("COMPLETING", state.state) for one in before
    ):
        return state
    return replace(state, state="COMPLETING", reason=state.state)


def _last_word(job_id: str) -> JobState:
    """Of a job that the controller has forgotten."""
    with suppress(StageError):
        answer = call([*SACCT, f"--jobs={job_id}"])
        lines = answer.stdout.splitlines()
        if answer.returncode == 0 and lines:
            state, nodes, end = (*lines[0].split("|"), "", "")[:3]
            return JobState(state.split()[0].rstrip("+"), "", nodes, _seconds(end))
    return JobState("GONE", "SLURM has forgotten it")


def _seconds(text: str) -> float:
    """SLURM's local time as seconds since 1970; 0 for N/A."""
    with suppress(ValueError, OverflowError):
        return time.mktime(time.strptime(text.strip(), "%Y-%m-%dT%H:%M:%S"))
    return 0.0

"""A stage as a job: what runs in every task that submitit starts, around the stage's own function.

A watcher thread notices when the job should end: the stop file of the stage's folder, the death of
the job's controller, or that of the process that launched it (`lease.json` names it). It only sets
the stop flag; a job that does not end by itself within a grace time is killed with everything it
started. Signals set the same flag, instead of submitit's habit of ignoring SIGTERM. SIGUSR2,
SLURM's word before a time limit or preemption, additionally requeues the job once it has stopped.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from pipeline.environment import quiet
from pipeline.errors import PipelineError
from pipeline.stop import (
    StopRequested,
    request_stop,
    reset_stop,
    signals_request_stop,
    stop_reason,
    stop_signal,
)
from pipeline.storage import read_json, write_json

STOP_FILE, LEASE_FILE, HEARTBEAT_FILE = "stop", "lease.json", "heartbeat"
LOOK_SECONDS, LEASE_SECONDS, HEARTBEAT_SECONDS, GRACE_SECONDS = 0.3, 2.0, 5.0, 30.0


@dataclass(frozen=True)
class Job:
    """The pickled unit of work. submitit calls it in every task, and `checkpoint` before it
    requeues."""

    function: Callable[[Any], Any]
    argument: Any
    folder: str
    """The stage's folder."""
    logs: str
    """The folder of this attempt, where failures are noted."""
    leased: bool
    """Whether to end when the launching process is gone."""

    def __call__(self) -> Any:
        """Run the function; a failure leaves `failure-RANK.json` with its cause before it is
        raised."""
        quiet()
        import submitit

        environment = submitit.JobEnvironment()
        rank, local = environment.global_rank, environment.cluster == "local"
        note = Path(self.logs) / f"failure-{rank}.json"
        for leftover in (note, environment.paths.result_pickle):  # of the life before a requeue
            Path(leftover).unlink(missing_ok=True)
        reset_stop()
        requeue = signal.getsignal(signal.SIGUSR2)
        watcher = Watcher(Path(self.folder), rank, local=local, leased=self.leased and local)
        with signals_request_stop(signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            watcher.start()
            try:
                return self.function(self.argument)
            except StopRequested as stop:
                if stop_signal() == signal.SIGUSR2 and callable(requeue):
                    requeue(signal.SIGUSR2, None)  # does not return on rank 0
                _note_failure(note, rank, stop)
                raise
            except BaseException as error:
                _note_failure(note, rank, error)
                raise
            finally:
                watcher.close()

    def checkpoint(self) -> Any:
        """What submitit submits again: the same, because the stage itself finds where it
        stopped."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


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


def _note_failure(path: Path, rank: int, error: BaseException) -> None:
    failure = Failure(
        rank=rank,
        kind=type(error).__name__,
        message=str(error),
        time=time.time(),
        stopped=isinstance(error, StopRequested),
        expected=isinstance(error, PipelineError),
        trace=traceback.format_exc(),
    )
    write_json(path, failure.__dict__)


class Watcher(threading.Thread):
    """Looks several times a second whether this task should end."""

    def __init__(self, folder: Path, rank: int, *, local: bool, leased: bool) -> None:
        super().__init__(name="watcher", daemon=True)
        self.folder, self.rank, self.local, self.leased = folder, rank, local, leased
        self.parent, self.ended = os.getppid(), threading.Event()

    def close(self) -> None:
        """The work is done; stop looking."""
        self.ended.set()

    def run(self) -> None:
        """Look until the work is done."""
        write_json(self.folder / f"task-{self.rank}.json", process_identity(os.getpid()))
        deadline, lease_at, beat_at = float("inf"), 0.0, 0.0
        while not self.ended.wait(LOOK_SECONDS):
            now = time.monotonic()
            if self.rank == 0 and now >= beat_at:
                beat_at = now + HEARTBEAT_SECONDS
                (self.folder / HEARTBEAT_FILE).write_text(f"{time.time():.0f}\n")
            reason = "asked to stop" if (self.folder / STOP_FILE).exists() else ""
            if self.local and os.getppid() != self.parent:
                reason = "the job's controller is gone"
            if self.leased and now >= lease_at:
                lease_at = now + LEASE_SECONDS
                reason = reason or self._lease_trouble()
            if reason and not stop_reason():
                request_stop(reason)
            if stop_reason():
                deadline = min(deadline, now + GRACE_SECONDS)
            if now > deadline and self.local:
                os.killpg(os.getpgrp(), signal.SIGKILL)

    def _lease_trouble(self) -> str:
        lease = read_json(self.folder / LEASE_FILE)
        return "" if lease is None or is_alive(lease) else "the process that launched it is gone"


def process_identity(pid: int) -> dict[str, float]:
    """What tells a process from a later one of the same number: {pid, start}."""
    return {"pid": pid, "start": psutil.Process(pid).create_time()}


def is_alive(identity: dict[str, Any]) -> bool:
    """Whether that very process still runs; a zombie does not."""
    try:
        process = psutil.Process(int(identity["pid"]))
        same = abs(process.create_time() - float(identity["start"])) < 1.0
        return same and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, KeyError, ValueError):
        return False

"""Start a stage where it belongs (this process, local processes, SLURM), wait for it, and never
leave it behind.

What is written down around a submission (`pipeline.intent`) lets the next launch attach to a job
that is still alive instead of submitting a second one. When the launching process is interrupted,
the job is asked to save and end, then killed with all it started. A job that ended because it could
not stay (`ended.json` says requeue) is started again for as long as it gets on. What went wrong is
told by the rank that failed first, not by those that lost the connection to it.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from pipeline.backends import Backend, Handle, is_secondary
from pipeline.claim import claim
from pipeline.errors import StageError
from pipeline.failure import SHARDS, Failure, wants_another_life
from pipeline.heartbeat import beats, read_beat
from pipeline.intent import read_handle
from pipeline.owner import Owner
from pipeline.private import make_private
from pipeline.progress import Progress, read_progress
from pipeline.settings import LaunchConfig
from pipeline.stop import StopRequested, reset_stop, signals_request_stop, stop_signal
from pipeline.storage import write_json
from pipeline.submission import backend_for, recorded_job, submit
from pipeline.watcher import LEASE_FILE, STOP_FILE

__all__ = ["launch", "read_handle", "running_job", "stop_stage", "wait_for_rest"]

A = TypeVar("A")
R = TypeVar("R")
LOST_RANK_SECONDS = 10.0
"""How long the other ranks may go on after one has failed."""
LEASE_SECONDS = 10.0
"""How often the launching process says that it is still there."""
REST_SECONDS = 60.0
"""How long a job may go on after its result is written."""
LIVES = 3
"""Lives in a row without a step of progress after which a job is not started again."""
logger = logging.getLogger(__name__)


def launch(
    function: Callable[[A], R],
    argument: A,
    folder: str | Path,
    config: LaunchConfig,
    *,
    name: str,
    key: str = "",
    on_poll: Callable[[Progress | None], None] | None = None,
    array: bool = False,
) -> R:
    """Run `function(argument)` as the job of the stage in `folder`; returns what rank 0 returns.

    function: importable by name, so that another process finds it. key: identity of the work; a
    live job of another key is stopped first. on_poll: called at every look at the job with its
    latest progress. array: `argument` is a sequence of parts, which SLURM runs as the tasks of one
    array (`pipeline.array`). Raises StageError with the cause and the log file when the job fails,
    StopRequested when somebody else stopped it.
    """
    folder = make_private(Path(folder).resolve())
    with claim(folder, key=key, on_wait=lambda _: _tell(on_poll, folder)):
        handle = _live_handle(folder, key, config)
        if config.launcher == "inline" and handle is None:
            return _run_inline(function, argument)
        write_json(folder / LEASE_FILE, asdict(Owner.me()))
        lives = _Lives(folder)
        while True:
            attached = handle is not None
            if handle is None:
                backend = backend_for(config, array=array)
                handle = submit(backend, function, argument, folder, name, key)
            else:
                backend = backend_for(config, handle)
                logger.info("%s: attached to the running job %s", name, handle.job_id)
            lost = _watch(backend, handle, folder, config, on_poll)
            again = None if lost else wants_another_life(folder, handle.logs)
            if again is not None and backend.state(handle).state != "CANCELLED":
                lives.count(name, again.reason)
                handle = None
                continue
            failures = [
                failure
                for failure in backend.failures(handle)
                if not lost or failure.rank in lost  # the others were ended because of these
            ]
            if not failures:
                return backend.result(handle)
            if not attached or not any(failure.stopped for failure in failures):
                raise _explain(backend, failures, handle, name)
            handle = None  # it was already stopping when we came


def running_job(
    folder: str | Path, config: LaunchConfig, *, only_look: bool = False
) -> Handle | None:
    """The job of the stage in `folder` that is alive now, whoever submitted it. only_look: write
    nothing and do not wait for a scheduler that is behind."""
    handle = recorded_job(Path(folder).resolve(), config, only_look=only_look)
    if handle is None or not _alive(backend_for(config, handle), handle):
        return None
    return handle


def wait_for_rest(folder: str | Path, config: LaunchConfig) -> None:
    """Let the job of a stage whose result is there come to its end, and end it if it does not: what
    comes next needs its memory."""
    handle = running_job(folder, config)
    if handle is None:
        return
    backend, until = backend_for(config, handle), time.monotonic() + REST_SECONDS
    while _alive(backend, handle):
        if time.monotonic() > until:
            logger.warning("job %s has its result and does not end: ending it", handle.job_id)
            _end(backend, handle, Path(handle.folder), config.stop_seconds)
            return
        time.sleep(max(config.poll_seconds, backend.least_pause))


def stop_stage(folder: str | Path, config: LaunchConfig) -> bool:
    """End the live job of the stage in `folder`, if there is one: ask, wait, kill. Whether there
    was one."""
    handle = running_job(folder, config)
    if handle is None:
        return False
    _end(backend_for(config, handle), handle, Path(handle.folder), config.stop_seconds)
    return True


def _live_handle(folder: Path, key: str, config: LaunchConfig) -> Handle | None:
    """The running job of this stage; one that works on something else is ended."""
    handle = running_job(folder, config)
    if handle is None or handle.key == key:
        return handle
    logger.warning(
        "job %s works on an earlier configuration of this stage: ending it", handle.job_id
    )
    _end(backend_for(config, handle), handle, folder, config.stop_seconds)
    return None


class _Lives:
    """How often a job was started again without having got further."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.step, self.idle = folder, -1, 0

    def count(self, name: str, reason: str) -> None:
        """One life is over. Raises StageError when the last ones led nowhere."""
        places = (self.folder, *self.folder.glob(SHARDS))
        known = [found for place in places if (found := read_progress(place)) is not None]
        step = sum(progress.step for progress in known)
        self.idle = 0 if step > self.step else self.idle + 1
        self.step = max(step, self.step)
        if self.idle >= LIVES:
            raise StageError(
                f"{name} asked {LIVES} times in a row to be started again and did not get beyond "
                f"step {self.step} ({reason}); its logs are in {self.folder / 'logs'}"
            )
        logger.warning("%s wants to be started again at step %d (%s)", name, step, reason)


def _alive(backend: Backend, handle: Handle) -> bool:
    """Whether the job waits or runs. The scheduler's no counts when the job agrees: one that has
    left no last word and whose heart beats is alive, whatever a queue under load may say."""
    if backend.alive(handle):
        return True
    if backend.launcher == "local" or backend.has_ended(handle):
        return False
    return beats(handle.folder)


def _watch(
    backend: Backend,
    handle: Handle,
    folder: Path,
    config: LaunchConfig,
    on_poll: Callable[[Progress | None], None] | None,
) -> list[int]:
    """Return when the job has ended: the ranks whose failure made us end it, or none.

    Whatever interrupts the waiting ends the job first.
    """
    lost_since, renewed = float("inf"), time.monotonic()
    try:
        while _alive(backend, handle):
            _tell(on_poll, folder)
            if time.monotonic() - renewed > LEASE_SECONDS:
                renewed = time.monotonic()
                with suppress(OSError):
                    os.utime(folder / LEASE_FILE)
            lost = backend.lost_ranks(handle)
            lost_since = min(lost_since, time.monotonic()) if lost else float("inf")
            if time.monotonic() - lost_since > LOST_RANK_SECONDS:
                backend.kill(handle)
                return lost
            time.sleep(max(config.poll_seconds, backend.least_pause))
        _tell(on_poll, folder)
        return []
    except BaseException:  # Ctrl-C, and Prefect's cancellation, which is no Exception
        logger.warning("ending job %s: it saves first; interrupt again to kill it", handle.job_id)
        _end(backend, handle, folder, config.stop_seconds)
        raise


def _tell(on_poll: Callable[[Progress | None], None] | None, folder: Path) -> None:
    """Pass the progress on; a listener in trouble must not end the job it listens to (law 6)."""
    if on_poll is None:
        return
    try:
        on_poll(read_progress(folder))
    except Exception as error:
        logger.warning("progress could not be shown: %s", error)


def _end(backend: Backend, handle: Handle, folder: Path, seconds: float) -> None:
    """Ask the job to save and end, wait (longer where the job has measured that it takes longer),
    and kill what is left; an impatient second interrupt kills at once."""
    try:
        (folder / STOP_FILE).touch()
        beat = read_beat(folder)
        until = time.monotonic() + max(seconds, beat.needs if beat is not None else 0.0)
        while backend.alive(handle) and time.monotonic() < until:
            time.sleep(0.1)
    finally:
        backend.kill(handle)
        (folder / STOP_FILE).unlink(missing_ok=True)


def _explain(backend: Backend, failures: list[Failure], handle: Handle, name: str) -> Exception:
    """The failure that came first and is not merely the loss of another rank."""
    stops = [failure for failure in failures if failure.stopped]
    real = [failure for failure in failures if not failure.stopped]
    if stops and not real:
        return StopRequested(f"{name} {stops[0].message}")
    primary = [failure for failure in real if not is_secondary(failure)] or real
    cause = min(primary, key=lambda failure: failure.time)
    where = f"; log: {backend.log(handle, cause.rank)}"
    rank = f" on rank {cause.rank}" if handle.tasks > 1 else ""
    if cause.expected:
        return StageError(f"{name}{rank}: {cause.message}{where}")
    tail = f"\n{cause.trace.rstrip()}" if cause.trace else ""
    kind = f"{cause.kind}: " if cause.kind else ""
    return StageError(f"{name} failed{rank}: {kind}{cause.message}{where}{tail}")


def _run_inline(function: Callable[[A], R], argument: A) -> R:
    """In this process. Signals ask it to stop at a step boundary; afterwards they have their usual
    effect."""
    reset_stop()
    try:
        with signals_request_stop():
            return function(argument)
    except StopRequested:
        if stop_signal():
            number = signal.Signals(stop_signal())
            reset_stop()
            signal.raise_signal(number)
        raise
    finally:
        reset_stop()

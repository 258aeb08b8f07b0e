"""Start a stage where it belongs (this process, local processes, SLURM), wait for it, and never
leave it behind.

The job's identity goes to `handle.json`; launching a stage whose job is still alive attaches to
that job instead of submitting a second one. When the launching process is interrupted, the job is
asked to save and end, then killed with all it started. What went wrong is told by the rank that
failed first, not by those that lost the connection to it.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from pipeline.backends import Backend, Handle, backend_for, new_handle
from pipeline.errors import StageError
from pipeline.job import LEASE_FILE, STOP_FILE, Failure, process_identity
from pipeline.progress import Progress, read_progress
from pipeline.settings import LaunchConfig
from pipeline.stop import StopRequested, reset_stop, signals_request_stop, stop_signal
from pipeline.storage import read_json, write_json

__all__ = ["LaunchConfig", "launch", "stop_stage"]

A = TypeVar("A")
R = TypeVar("R")
HANDLE_FILE = "handle.json"
LOST_RANK_SECONDS = 10.0
"""How long the other ranks may go on after one has failed."""
SECONDARY = (
    "connection closed by peer",
    "connection reset",
    "broken pipe",
    "socket closed",
    "timed out",
)
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
) -> R:
    """Run `function(argument)` as the job of the stage in `folder`; returns what rank 0 returns.

    function: importable by name, so that another process finds it. key: identity of the work; a
    live job of another key is stopped first. on_poll: called at every look at the job with its
    latest progress. Raises StageError with the cause and the log file when the job fails,
    StopRequested when somebody else stopped it.
    """
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if config.launcher == "inline":
        return _run_inline(function, argument)
    backend = backend_for(config)
    write_json(folder / LEASE_FILE, process_identity(os.getpid()))
    while True:
        handle = _live_handle(folder, key, config)
        attached = handle is not None
        if handle is None:
            handle = _submit(backend, function, argument, folder, name, key)
        else:
            backend = backend_for(config, handle)
            logger.info("%s: attached to the running job %s", name, handle.job_id)
        _watch(backend, handle, folder, config, on_poll)
        failures = backend.failures(handle)
        if not failures:
            return backend.result(handle)
        if attached and any(failure.stopped for failure in failures):
            continue  # it was already stopping when we came
        raise _explain(failures, handle, name)


def stop_stage(folder: str | Path, config: LaunchConfig) -> bool:
    """End the live job of the stage in `folder`, if there is one: ask, wait, kill. Whether there
    was one."""
    folder = Path(folder).resolve()
    handle = read_handle(folder)
    if handle is None:
        return False
    backend = backend_for(config, handle)
    if not backend.alive(handle):
        return False
    _end(backend, handle, folder, config.stop_seconds)
    return True


def read_handle(folder: str | Path) -> Handle | None:
    """The job last submitted for the stage in `folder`."""
    values = read_json(Path(folder) / HANDLE_FILE)
    try:
        return Handle(**values) if values else None
    except TypeError:
        return None


def _live_handle(folder: Path, key: str, config: LaunchConfig) -> Handle | None:
    """The running job of this stage; one that works on something else is ended."""
    handle = read_handle(folder)
    if handle is None or not backend_for(config, handle).alive(handle):
        return None
    if handle.key == key:
        return handle
    logger.warning(
        "job %s works on an earlier configuration of this stage: ending it", handle.job_id
    )
    stop_stage(folder, config)
    return None


def _submit(
    backend: Backend,
    function: Callable[[Any], Any],
    argument: Any,
    folder: Path,
    name: str,
    key: str,
) -> Handle:
    for leftover in [folder / STOP_FILE, *folder.glob("task-*.json")]:
        leftover.unlink(missing_ok=True)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    logs = (
        folder / "logs" / f"{stamp}-{secrets.token_hex(3)}"
    )  # job ids are process ids, and those come again
    logs.mkdir(parents=True)
    handle = new_handle(backend, function, argument, folder, logs, name, key)
    write_json(folder / HANDLE_FILE, asdict(handle))
    return handle


def _watch(
    backend: Backend,
    handle: Handle,
    folder: Path,
    config: LaunchConfig,
    on_poll: Callable[[Progress | None], None] | None,
) -> None:
    """Return when the job has ended; whatever interrupts the waiting ends the job first."""
    failed_at = float("inf")
    try:
        while backend.alive(handle):
            if on_poll is not None:
                on_poll(read_progress(folder))
            if failed_at == float("inf") and backend.lost_rank(handle):
                failed_at = time.monotonic()
            if time.monotonic() - failed_at > LOST_RANK_SECONDS:
                backend.kill(handle)
                return
            time.sleep(config.poll_seconds)
        if on_poll is not None:
            on_poll(read_progress(folder))
    except BaseException:  # Ctrl-C, and Prefect's cancellation, which is no Exception
        _end(backend, handle, folder, config.stop_seconds)
        raise


def _end(backend: Backend, handle: Handle, folder: Path, seconds: float) -> None:
    """Ask the job to save and end, wait, and kill what is left; an impatient second interrupt kills
    at once."""
    try:
        (folder / STOP_FILE).touch()
        until = time.monotonic() + seconds
        while backend.alive(handle) and time.monotonic() < until:
            time.sleep(0.1)
    finally:
        backend.kill(handle)
        (folder / STOP_FILE).unlink(missing_ok=True)


def _explain(failures: list[Failure], handle: Handle, name: str) -> Exception:
    """The failure that came first and is not merely the loss of another rank."""
    stops = [failure for failure in failures if failure.stopped]
    real = [failure for failure in failures if not failure.stopped]
    if stops and not real:
        return StopRequested(f"{name} {stops[0].message}")
    primary = [failure for failure in real if not _is_secondary(failure)] or real
    cause = min(primary, key=lambda failure: failure.time)
    where = f"; log: {Path(handle.logs) / f'{handle.job_id}_{cause.rank}_log.err'}"
    rank = f" on rank {cause.rank}" if handle.tasks > 1 else ""
    if cause.expected:
        return StageError(f"{name}{rank}: {cause.message}{where}")
    tail = f"\n{cause.trace.rstrip()}" if cause.trace else ""
    kind = f"{cause.kind}: " if cause.kind else ""
    return StageError(f"{name} failed{rank}: {kind}{cause.message}{where}{tail}")


def _is_secondary(failure: Failure) -> bool:
    text = f"{failure.kind} {failure.message}".lower()
    return not failure.expected and any(words in text for words in SECONDARY)


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

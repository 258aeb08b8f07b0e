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
import socket
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from pipeline.backends import Backend, Handle, is_secondary
from pipeline.errors import StageError
from pipeline.job import LEASE_FILE, STOP_FILE, Failure, Job, process_identity
from pipeline.local import LocalBackend
from pipeline.progress import Progress, read_progress
from pipeline.settings import LaunchConfig
from pipeline.slurm import SlurmArrayBackend, SlurmBackend
from pipeline.stop import StopRequested, reset_stop, signals_request_stop, stop_signal
from pipeline.storage import read_json, write_json

__all__ = ["LaunchConfig", "launch", "stop_stage"]

A = TypeVar("A")
R = TypeVar("R")
HANDLE_FILE = "handle.json"
LOST_RANK_SECONDS = 10.0
"""How long the other ranks may go on after one has failed."""
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
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if config.launcher == "inline":
        return _run_inline(function, argument)
    backend = backend_for(config, array=array)
    write_json(folder / LEASE_FILE, process_identity(os.getpid()))
    while True:
        handle = _live_handle(folder, key, config)
        attached = handle is not None
        if handle is None:
            handle = _submit(backend, function, argument, folder, name, key)
        else:
            backend = backend_for(config, handle)
            logger.info("%s: attached to the running job %s", name, handle.job_id)
        lost = _watch(backend, handle, folder, config, on_poll)
        failures = [
            failure
            for failure in backend.failures(handle)
            if not lost or failure.rank in lost  # the others were ended because of these
        ]
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


def backend_for(
    config: LaunchConfig, handle: Handle | None = None, *, array: bool = False
) -> Backend:
    """The backend of `handle`, or the one the configuration asks for."""
    launcher = handle.launcher if handle is not None else config.launcher
    if launcher == SlurmArrayBackend.launcher or (launcher == "slurm" and array):
        return SlurmArrayBackend(config)
    return SlurmBackend(config) if launcher == "slurm" else LocalBackend(config)


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
    config = backend.config
    job = Job(function, argument, str(folder), str(logs), leased=config.orphan == "stop")
    job_id = backend.submit(job, name)
    local = backend.launcher == "local"
    identity = process_identity(int(job_id)) if local else {"pid": 0, "start": 0.0}
    handle = Handle(
        launcher=backend.launcher,
        job_id=job_id,
        folder=str(folder),
        logs=str(logs),
        key=key,
        tasks=config.nodes * config.tasks_per_node,
        host=socket.gethostname(),
        pid=int(identity["pid"]),
        start=identity["start"],
        submitted=time.time(),
    )
    try:
        write_json(folder / HANDLE_FILE, asdict(handle))
    except BaseException:  # a job nobody could find again must not run
        backend.kill(handle)
        raise
    return handle


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
    lost_since = float("inf")
    try:
        while backend.alive(handle):
            _tell(on_poll, folder)
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
    primary = [failure for failure in real if not is_secondary(failure)] or real
    cause = min(primary, key=lambda failure: failure.time)
    where = f"; log: {Path(handle.logs) / f'{handle.job_id}_{cause.rank}_log.err'}"
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

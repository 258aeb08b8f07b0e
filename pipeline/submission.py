"""One job for one stage: find the one there is, or submit one.

Whoever calls has claimed the stage (`pipeline.claim`), so nobody else submits for it meanwhile.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from pipeline.backends import Backend, Handle, NoAnswerError
from pipeline.errors import ConfigError, StageError
from pipeline.failure import SHARDS
from pipeline.intent import (
    Intent,
    own_record,
    read_handle,
    unanswered,
    withdraw_intent,
    write_handle,
    write_intent,
)
from pipeline.job import Job
from pipeline.local import LocalBackend
from pipeline.owner import Owner
from pipeline.settings import LaunchConfig
from pipeline.slurm import SlurmArrayBackend, SlurmBackend
from pipeline.watcher import STOP_FILE

SUBMIT_TRIES = 3
RETRY_SECONDS = 10.0
LOOK_UP_SECONDS = 60.0
"""How long a job is looked for whose submission had no clear answer: a scheduler under load may
take it some time after sbatch has given up."""
LOOK_PAUSE = 2.0
CLOCK_SECONDS = 300.0
"""How far the clocks of two machines may disagree; the name alone tells one attempt from
another."""
logger = logging.getLogger(__name__)


def backend_for(
    config: LaunchConfig, handle: Handle | None = None, *, array: bool = False
) -> Backend:
    """The backend of `handle`, or the one the configuration asks for."""
    launcher = handle.launcher if handle is not None else config.launcher
    if launcher == "slurm" and array:
        launcher = SlurmArrayBackend.launcher
    return _backend(launcher, config)


def recorded_job(folder: Path, config: LaunchConfig, *, only_look: bool = False) -> Handle | None:
    """The job last submitted for the stage in `folder`, whether or not it still runs; None when
    there was none.

    A submission whose answer was lost is looked up, by the job's name and the time, with patience
    for a scheduler that may be behind, and its handle written. only_look: write nothing and do not
    wait. Raises StageError when the scheduler does not answer: submitting again might make two
    jobs.
    """
    intent = unanswered(folder)
    if intent is None:
        return read_handle(folder)
    backend = _backend(intent.launcher, config)
    job_id = look_up(backend, intent, 0.0 if only_look else intent.time + LOOK_UP_SECONDS)
    if job_id is None:
        return None
    handle = _handle(folder, intent, job_id)
    if only_look:
        return handle
    if intent.owner.get("host") == socket.gethostname() or intent.launcher != "local":
        backend.adopt(handle)
    write_handle(folder, handle)
    logger.info("found job %s (%s), whose submission had no answer", job_id, intent.name)
    return handle


def look_up(backend: Backend, intent: Intent, until: float = 0.0) -> str | None:
    """The id of the intent's job, or None when there is none at the time `until` (seconds since
    1970): in the queue or among the processes, or by what it left in its own folder."""
    if backend.launcher == "local" and intent.owner.get("host") != socket.gethostname():
        return own_record(intent)
    while True:
        job_id = backend.find(intent.name, intent.time - CLOCK_SECONDS) or own_record(intent)
        if job_id is not None or backend.launcher == "local" or time.time() >= until:
            return job_id
        logger.info("job %s is not in the queue yet; looking until it must be", intent.name)
        time.sleep(LOOK_PAUSE)


def submit(
    backend: Backend,
    function: Callable[[Any], Any],
    argument: Any,
    folder: Path,
    title: str,
    key: str,
) -> Handle:
    """Submit the job of the stage in `folder`: once, whatever the scheduler answers.

    Raises ConfigError when it is refused, StageError when the scheduler takes no job.
    """
    for pattern in (STOP_FILE, "task-*.json", "heartbeat*", f"{SHARDS}/failure-*.json"):
        for leftover in folder.glob(pattern):
            leftover.unlink(missing_ok=True)
    config, trouble = backend.config, ""
    for number in range(SUBMIT_TRIES):
        time.sleep(RETRY_SECONDS * number)
        intent = write_intent(folder, key, backend.launcher, config.nodes * config.tasks_per_node)
        job = Job(
            function,
            argument,
            str(folder),
            intent.logs,
            leased=config.leased,
            minutes=config.timeout_minutes if backend.launcher != "local" else None,
        )
        try:
            job_id: str | None = backend.submit(job, intent.name)
        except NoAnswerError as error:
            trouble = str(error)
            logger.warning("%s: %s; looking whether it was taken", title, trouble)
            job_id = look_up(backend, intent, time.time() + LOOK_UP_SECONDS)
        except ConfigError as error:
            withdraw_intent(folder, intent)
            raise ConfigError(f"{title} {error}") from error
        except BaseException:
            _clear_up(backend, folder, intent)
            raise
        if job_id is not None:
            return _record(backend, folder, intent, job_id)
    raise StageError(f"{title} could not be submitted, tried {SUBMIT_TRIES} times: {trouble}")


def _record(backend: Backend, folder: Path, intent: Intent, job_id: str) -> Handle:
    handle = _handle(folder, intent, job_id)
    try:
        backend.adopt(handle)
        write_handle(folder, handle)
    except BaseException:  # a job nobody could find again must not run
        backend.kill(handle)
        raise
    return handle


def _clear_up(backend: Backend, folder: Path, intent: Intent) -> None:
    """After an interrupted submission: no job, and no intent that names one."""
    job_id = look_up(backend, intent)
    if job_id is not None:
        backend.kill(_handle(folder, intent, job_id))
    withdraw_intent(folder, intent)


def _handle(folder: Path, intent: Intent, job_id: str) -> Handle:
    pid, start = 0, 0.0
    if intent.launcher == "local":
        pid = int(job_id)
        try:
            start = Owner.of(pid).start
        except psutil.Error:  # it has ended; the ranks it left may not have
            start = 0.0
    return Handle(
        launcher=intent.launcher,
        job_id=job_id,
        folder=str(folder),
        logs=intent.logs,
        key=intent.key,
        tasks=intent.tasks,
        host=str(intent.owner.get("host", "")),
        pid=pid,
        start=start,
        submitted=time.time(),
        name=intent.name,
        attempt=intent.attempt,
        boot=str(intent.owner.get("boot", "")),
    )


def _backend(launcher: str, config: LaunchConfig) -> Backend:
    if launcher == SlurmArrayBackend.launcher:
        return SlurmArrayBackend(config)
    return SlurmBackend(config) if launcher == "slurm" else LocalBackend(config)

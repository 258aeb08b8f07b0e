"""Where jobs run, behind four verbs: alive, failures, result, kill. Local processes and SLURM, both
through submitit.

Nothing here depends on having started the job: a `Handle` read from disk is enough.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil
import submitit
from submitit.local.local import LocalJob

from pipeline.environment import QUIET, free_cores
from pipeline.errors import ConfigError, StageError
from pipeline.job import HEARTBEAT_FILE, Failure, Job, is_alive, process_identity
from pipeline.settings import LaunchConfig
from pipeline.storage import read_json

SLURM_SECONDS = 15.0
"""How often the queue is asked."""
LOCAL_MINUTES = 60 * 24 * 365
"""submitit ends a local job after five minutes unless it is told otherwise."""


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


class Backend(Protocol):
    """Local processes or SLURM."""

    launcher: str
    config: LaunchConfig

    def submit(self, job: Job, name: str) -> str:
        """Start the job; its id."""

    def alive(self, handle: Handle) -> bool:
        """Whether the job waits or runs."""

    def lost_rank(self, handle: Handle) -> bool:
        """Whether a rank has failed while others run on."""

    def kill(self, handle: Handle) -> None:
        """End the job and everything it started, now. Harmless when it has ended."""

    def failures(self, handle: Handle) -> list[Failure]:
        """Why ranks of the ended job have no result; empty when all succeeded."""

    def result(self, handle: Handle) -> Any:
        """What rank 0 returned."""


def backend_for(config: LaunchConfig, handle: Handle | None = None) -> Backend:
    """The backend of `handle`, or the one the configuration asks for."""
    launcher = handle.launcher if handle is not None else config.launcher
    return SlurmBackend(config) if launcher == "slurm" else LocalBackend(config)


def new_handle(
    backend: Backend,
    function: Callable[[Any], Any],
    argument: Any,
    folder: Path,
    logs: Path,
    name: str,
    key: str,
) -> Handle:
    """Submit `function(argument)` and say how to find it again."""
    config = backend.config
    job = Job(function, argument, str(folder), str(logs), leased=config.orphan == "stop")
    job_id = backend.submit(job, name)
    local = backend.launcher == "local"
    identity = process_identity(int(job_id)) if local else {"pid": 0, "start": 0.0}
    return Handle(
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


class _Files:
    """What both backends read from the folder of an attempt."""

    job_class: Any

    def result(self, handle: Handle) -> Any:
        """What rank 0 returned."""
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

    def _has_failed(self, handle: Handle) -> bool:
        notes = [read_json(path) for path in Path(handle.logs).glob("failure-*.json")]
        return any(note is not None and not note.get("stopped") for note in notes)

    def _succeeded(self, handle: Handle, rank: int) -> bool:
        task = self._job(handle).task(rank)
        return task.paths.result_pickle.exists() and task.exception() is None

    def _silent(self, handle: Handle, rank: int) -> Failure:
        path = Path(handle.logs) / f"{handle.job_id}_{rank}_log.err"
        tail = path.read_text(errors="replace").splitlines()[-15:] if path.is_file() else []
        message = "ended without a word (killed, or out of memory?)"
        return Failure(rank, "", message, time.time(), trace="\n".join(tail))

    def _job(self, handle: Handle) -> Any:
        return self.job_class(handle.logs, handle.job_id, tasks=list(range(handle.tasks)))


class _SessionExecutor(submitit.LocalExecutor):
    """submitit's local executor with its controller in a session of its own.

    So Ctrl-C at the terminal reaches only us, who ask the job to save first, and one signal to the
    session's process group ends controller, ranks and data workers alike. SIGINT, which a parent
    may have set to be ignored, is not needed.
    """

    environment: dict[str, str]

    def _submit_command(self, command: str) -> LocalJob[Any]:
        tasks = self.parameters.get("tasks_per_node", 1)
        environment = {
            **os.environ,
            **self.environment,
            "SUBMITIT_EXECUTOR": "local",
            "SUBMITIT_LOCAL_NTASKS": str(tasks),
            "SUBMITIT_LOCAL_COMMAND": command,
            "SUBMITIT_LOCAL_TIMEOUT_S": str(60 * LOCAL_MINUTES),
            "SUBMITIT_LOCAL_SIGNAL_DELAY_S": "30",
            "SUBMITIT_LOCAL_NODEID": "0",
            "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
            "SUBMITIT_STDERR_TO_STDOUT": "",
            "SUBMITIT_LOCAL_WITH_SHELL": "",
        }
        with open(Path(self.folder) / "controller.log", "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "submitit.local._local", str(self.folder)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return LocalJob(self.folder, str(process.pid), list(range(tasks)), process)


class LocalBackend(_Files):
    """Processes of this machine."""

    launcher = "local"
    job_class = LocalJob

    def __init__(self, config: LaunchConfig) -> None:
        self.config = config
        self.own: dict[str, Any] = {}

    def submit(self, job: Job, name: str) -> str:
        """Start the controller and, through it, the ranks."""
        tasks = self.config.tasks_per_node
        threads = self.config.threads or max(1, free_cores() // tasks)
        executor = _SessionExecutor(job.logs)
        executor.environment = {
            **QUIET,
            "OMP_NUM_THREADS": str(threads),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(_free_port()),
            **_import_environment(),
        }
        executor.update_parameters(tasks_per_node=tasks, timeout_min=LOCAL_MINUTES)
        submitted = executor.submit(job)
        self.own[submitted.job_id] = submitted
        return str(submitted.job_id)

    def alive(self, handle: Handle) -> bool:
        """Whether the controller runs, or a rank it has left behind."""
        if handle.job_id in self.own:
            self.own[handle.job_id].done()  # reaps the process
        if handle.host != socket.gethostname():
            return _beats_elsewhere(handle)
        return is_alive({"pid": handle.pid, "start": handle.start}) or any(
            is_alive(identity) for identity in self._ranks(handle)
        )

    def lost_rank(self, handle: Handle) -> bool:
        """Whether a rank failed, or died without a word, while the controller waits for the
        others."""
        return self._has_failed(handle) or any(
            not is_alive(identity) and not self._job(handle).task(rank).paths.result_pickle.exists()
            for rank, identity in enumerate(self._ranks(handle))
            if identity
        )

    def kill(self, handle: Handle) -> None:
        """SIGKILL to the process group of the session, then to ranks that left it."""
        if not self.alive(handle):
            return
        doomed = [identity for identity in self._ranks(handle) if is_alive(identity)]
        with suppress(ProcessLookupError):
            os.killpg(handle.pid, signal.SIGKILL)  # the leader's id, also after the leader's death
        for identity in doomed:
            with suppress(psutil.Error):
                psutil.Process(int(identity["pid"])).kill()
        until = time.monotonic() + 5
        while self.alive(handle) and time.monotonic() < until:
            time.sleep(0.02)

    def _ranks(self, handle: Handle) -> list[dict[str, Any]]:
        """The processes of the ranks; an empty entry for one that has not started."""
        folder = Path(handle.folder)
        return [read_json(folder / f"task-{rank}.json") or {} for rank in range(handle.tasks)]


class SlurmBackend(_Files):
    """Batch jobs."""

    launcher = "slurm"

    def __init__(self, config: LaunchConfig) -> None:
        self.config = config
        self.job_class = submitit.SlurmJob
        self.asked, self.queued = 0.0, True

    def submit(self, job: Job, name: str) -> str:
        """Hand the job to sbatch."""
        config, self.asked = self.config, 0.0
        exports = {**QUIET, **_import_environment()}
        if config.threads:
            exports["OMP_NUM_THREADS"] = str(config.threads)
        parameters: dict[str, Any] = {
            "job_name": name,
            "nodes": config.nodes,
            "ntasks_per_node": config.tasks_per_node,
            "gpus_per_node": config.gpus_per_node,
            "cpus_per_task": config.threads,
            "time": config.timeout_minutes,
            "partition": config.partition,
            "account": config.account,
            "qos": config.qos,
            "constraint": config.constraint,
            "signal_delay_s": 120,
            "setup": [
                *(f"export {name}={shlex.quote(value)}" for name, value in exports.items()),
                *config.setup,
            ],
            "additional_parameters": dict(config.slurm),
        }
        try:
            executor = submitit.SlurmExecutor(job.logs, max_num_timeout=10_000)
            executor.update_parameters(**{k: v for k, v in parameters.items() if v is not None})
            return str(executor.submit(job).job_id)
        except (OSError, RuntimeError, ValueError) as error:
            raise ConfigError(f"{name} was not accepted by SLURM: {error}") from error

    def alive(self, handle: Handle) -> bool:
        """Whether the queue knows the job; asked every 15 seconds, whatever accounting there is."""
        if self._finished(handle):
            return False
        if time.monotonic() - self.asked < SLURM_SECONDS and self.asked:
            return self.queued
        self.asked = time.monotonic()
        command = ["squeue", "--noheader", "--format=%T", f"--jobs={handle.job_id}"]
        try:
            answer = subprocess.run(
                command, capture_output=True, text=True, timeout=60, check=False
            )
        except FileNotFoundError as error:
            raise StageError(
                "squeue is not installed here; submit from a node that has it"
            ) from error
        except subprocess.TimeoutExpired:
            return self.queued  # a controller too busy to answer says nothing about the job
        if answer.returncode == 0:
            self.queued = bool(answer.stdout.strip())
        elif "invalid job id" in answer.stderr.lower():
            self.queued = False
        return self.queued

    def lost_rank(self, handle: Handle) -> bool:
        """Whether a rank has noted a failure."""
        return self._has_failed(handle)

    def kill(self, handle: Handle) -> None:
        """scancel."""
        self.asked = 0.0
        if self.alive(handle):
            subprocess.run(["scancel", handle.job_id], check=False, capture_output=True)

    def _finished(self, handle: Handle) -> bool:
        return all(
            self._job(handle).task(rank).paths.result_pickle.exists()
            for rank in range(handle.tasks)
        )


def _beats_elsewhere(handle: Handle) -> bool:
    """A local job of another machine: False when its heartbeat has stopped, else an error, as we
    cannot reach it."""
    beat = Path(handle.folder) / HEARTBEAT_FILE
    if not beat.is_file() or time.time() - beat.stat().st_mtime > 60:
        return False
    raise StageError(
        f"{handle.folder}: this stage is running on {handle.host} (process {handle.pid}); "
        "stop it there first, or wait for it"
    )


def _import_environment() -> dict[str, str]:
    """What lets the job import what we can, and nothing by accident from the folder it is started
    in."""
    standard = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))
    extra = [os.path.abspath(path) for path in sys.path if not path.startswith(standard)]
    return {"PYTHONPATH": os.pathsep.join(extra), "PYTHONSAFEPATH": "1"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

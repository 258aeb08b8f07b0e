"""Jobs as processes of this machine, through submitit's local executor."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import submitit
from submitit.local.local import LocalJob

from pipeline.backends import Attempt, Handle, JobState, import_environment
from pipeline.environment import free_cores, free_port
from pipeline.errors import StageError
from pipeline.failure import read_ended
from pipeline.heartbeat import beats
from pipeline.job import Job
from pipeline.owner import boot_id, is_alive
from pipeline.settings import LaunchConfig
from pipeline.storage import read_json

CLOCK_SECONDS = 2.0
"""How far the start of a process and the clock may disagree."""
LOCAL_MINUTES = 60 * 24 * 365
"""submitit ends a local job after five minutes unless it is told otherwise."""
NAME_VARIABLE = "SAM2_JOB"
"""In the environment of a job and all that it starts: the name of the job."""


class _SessionExecutor(submitit.LocalExecutor):
    """submitit's local executor with its controller in a session of its own.

    So Ctrl-C at the terminal reaches only us, who ask the job to save first, and one signal to the
    session's process group ends controller, ranks and data workers alike. SIGINT, which a parent
    may have set to be ignored, is not needed.
    """

    environment: dict[str, str]

    @property
    def _submitit_command_str(self) -> str:
        return shlex.join([sys.executable, "-u", "-m", "pipeline.entry", str(self.folder)])

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


class LocalBackend(Attempt):
    """Processes of this machine."""

    launcher = "local"
    least_pause = 0.0
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
            "OMP_NUM_THREADS": str(threads),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
            NAME_VARIABLE: name,
            **import_environment(),
        }
        executor.update_parameters(tasks_per_node=tasks, timeout_min=LOCAL_MINUTES)
        submitted = executor.submit(job)
        self.own[submitted.job_id] = submitted
        return str(submitted.job_id)

    def find(self, name: str, since: float) -> str | None:
        """The session of the processes that carry the name: it has the number of the controller,
        also when that has ended."""
        for process in psutil.process_iter():
            with suppress(psutil.Error, ProcessLookupError):
                if process.create_time() < since - CLOCK_SECONDS:
                    continue
                if process.environ().get(NAME_VARIABLE) == name:
                    return str(os.getsid(process.pid))
        return None

    def alive(self, handle: Handle) -> bool:
        """Whether the controller runs, or a rank it has left behind."""
        if handle.job_id in self.own:
            self.own[handle.job_id].done()  # reaps the process
        if handle.host != socket.gethostname():
            return _beats_elsewhere(handle)
        if handle.boot and handle.boot != boot_id():
            return False
        return is_alive({"pid": handle.pid, "start": handle.start}) or any(
            is_alive(identity) for identity in self._ranks(handle)
        )

    def state(self, handle: Handle) -> JobState:
        """RUNNING or ENDED, and since when."""
        if self.alive(handle):
            return JobState("RUNNING", nodes=handle.host, since=handle.submitted)
        return JobState("ENDED", nodes=handle.host)

    def lost_ranks(self, handle: Handle) -> list[int]:
        """Ranks that noted a failure, or died without a word; not while the controller starts the
        job again."""
        ended = read_ended(handle.folder)
        if ended is not None and ended.kind == "requeue" and ended.logs == handle.logs:
            return super().lost_ranks(handle)
        silent = [
            rank
            for rank, identity in enumerate(self._ranks(handle))
            if identity
            and not is_alive(identity)
            and not self._job(handle).task(rank).paths.result_pickle.exists()
        ]
        return sorted({*super().lost_ranks(handle), *silent})

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


def _beats_elsewhere(handle: Handle) -> bool:
    """A local job of another machine: False when its heart does not beat, else an error, as we
    cannot reach it."""
    if not beats(handle.folder):
        return False
    raise StageError(
        f"{handle.folder}: this stage is running on {handle.host} (process {handle.pid}); "
        "stop it there first, or wait for it"
    )

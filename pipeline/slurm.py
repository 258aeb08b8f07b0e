"""Jobs in a SLURM queue, through submitit."""

from __future__ import annotations

import shlex
import subprocess
import time
from typing import Any

import submitit

from pipeline.backends import Attempt, Handle, import_environment
from pipeline.errors import ConfigError, StageError
from pipeline.job import Job
from pipeline.settings import LaunchConfig

SLURM_SECONDS = 15.0
"""How often the queue is asked."""


class SlurmBackend(Attempt):
    """Batch jobs."""

    launcher = "slurm"
    least_pause = 3.0

    def __init__(self, config: LaunchConfig) -> None:
        self.config = config
        self.job_class = submitit.SlurmJob
        self.asked, self.queued = 0.0, True

    def submit(self, job: Job, name: str) -> str:
        """Hand the job to sbatch."""
        config, self.asked = self.config, 0.0
        exports = import_environment()
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

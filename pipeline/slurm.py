"""Jobs in a SLURM queue, through submitit: single ones, and arrays of shards."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import submitit

from pipeline.backends import (
    Attempt,
    Handle,
    JobState,
    NoAnswerError,
    import_environment,
    is_secondary,
)
from pipeline.errors import ConfigError
from pipeline.failure import SHARDS, Failure, noted_failures
from pipeline.job import Job
from pipeline.queue import ENDED, QUEUE, call, find
from pipeline.settings import LaunchConfig
from pipeline.storage import read_json

SETTLING_SECONDS = 3.0
"""How old the queue's answer may be once every rank has left a result or a failure."""
LOST_PEER_SECONDS = 600.0
"""How long ranks may wait for SLURM to see that the node of another one is gone (SlurmdTimeout is
usually 300 s), whereupon it requeues the job; they themselves only see a closed connection."""
ENDLESS = 1_000_000
"""submitit's cap on requeues after a time limit; `pipeline.lives` says when it is enough."""
SBATCH_SECONDS = 120
"""How long sbatch may take to answer."""
DEAF = """sh -c 'trap "" USR2; exec "$@"' sh"""
"""Runs a command to which SLURM's signal does nothing until it says what to do: Python takes its
time to get there, and dies of it by default."""
UNSURE = (
    "timed out",
    "timeout",
    "zero bytes",
    "unable to contact",
    "connection refused",
    "connection reset",
    "communication",
    "temporarily",
    "try again",
    "could not make sense",
    "unexpected message",
    "in standby",
)
"""Words of an sbatch that failed without a verdict on the job: the controller may have taken it, or
may in a moment."""
HINTS = {
    "OUT_OF_MEMORY": "ask for more with launch.ram_gb",
    "TIMEOUT": "it did not save in time: raise launch.signal_seconds or launch.timeout_minutes",
    "CANCELLED": "somebody cancelled it",
    "NODE_FAIL": "its node went away and it was not requeued; run the same command again",
    "GONE": "if the log says nothing, ask `sacct` or the administrators",
}


class SlurmBackend(Attempt):
    """Batch jobs."""

    launcher = "slurm"
    least_pause = 3.0

    def __init__(self, config: LaunchConfig) -> None:
        self.config = config
        self.job_class = submitit.SlurmJob

    def submit(self, job: Job, name: str) -> str:
        """Hand the job to sbatch."""
        executor = self._executor(job, name)
        with _refusals():
            return str(executor.submit(job).job_id)

    def alive(self, handle: Handle) -> bool:
        """Whether the job waits, runs, or is about to be requeued: SLURM's word, unless every rank
        has left its result."""
        if self._finished(handle):
            return False
        within = SETTLING_SECONDS if self._told(handle) else None
        return any(one.state not in ENDED for one in self._states(handle, within))

    def state(self, handle: Handle) -> JobState:
        """What the queue says of the job; of an array, what it says of its tasks in sum."""
        return _summed(self._states(handle))

    def lost_ranks(self, handle: Handle) -> list[int]:
        """Ranks that noted a failure of their own. That another one is gone is no reason to end the
        job yet: SLURM may be about to requeue it."""
        found = []
        for rank in super().lost_ranks(handle):
            failure = Failure(**read_json(Path(handle.logs) / f"failure-{rank}.json") or {})
            if not is_secondary(failure) or time.time() - failure.time > LOST_PEER_SECONDS:
                found.append(rank)
        return found

    def find(self, name: str, since: float) -> str | None:
        """The job called `name` submitted at or after `since` (seconds since 1970), or None: for a
        submission whose answer was lost."""
        return find(name, since)

    def kill(self, handle: Handle) -> None:
        """scancel."""
        QUEUE.forget()
        if self.alive(handle):
            call(["scancel", handle.job_id])
        QUEUE.forget()

    def _states(self, handle: Handle, within: float | None = None) -> list[JobState]:
        """What the queue says of the job; not of another one that has its number by now."""
        states = QUEUE.states(handle.job_id, within)
        mine = [one for one in states if one.name in ("", handle.name) or not handle.name]
        return mine or [JobState("GONE", f"{states[0].name} has its number now")]

    def _executor(self, job: Job, name: str) -> Any:
        with _refusals():
            executor = _EntryExecutor(
                job.logs, max_num_timeout=ENDLESS, python=python_command(self.config)
            )
            executor.update_parameters(**parameters(self.config, name))
            return executor

    def _told(self, handle: Handle) -> bool:
        return all(
            self._job(handle).task(rank).paths.result_pickle.exists()
            for rank in range(handle.tasks)
        )

    def _finished(self, handle: Handle) -> bool:
        return self._told(handle) and all(
            self._succeeded(handle, rank) for rank in range(handle.tasks)
        )

    def _silent(self, handle: Handle, rank: int) -> Failure:
        verdict = _verdict(self.state(handle), handle)
        return replace(super()._silent(handle, rank), message=f"ended without a word; {verdict}")


class SlurmArrayBackend(SlurmBackend):
    """Arrays: the job's argument is a sequence of parts, each a task of the array."""

    launcher = "slurm-array"

    def submit(self, job: Job, name: str) -> str:
        """Hand the array to sbatch; a single part is a plain job."""
        executor = self._executor(job, name)
        jobs = [replace(job, argument=(part,), shard=part.folder) for part in job.argument]
        parallel = self.config.parallel or len(jobs)
        executor.update_parameters(array_parallelism=parallel)
        with _refusals():
            with executor.batch():
                submitted = [executor.submit(one) for one in jobs]
            return str(submitted[0].job_id).partition("_")[0]

    def result(self, handle: Handle) -> None:
        """Nothing: every part leaves its own."""

    def log(self, handle: Handle, rank: int) -> Path:
        """The folder of the logs: every part has its own, and is no rank of another."""
        return Path(handle.logs)

    def has_ended(self, handle: Handle) -> bool:
        """Whether all parts have left a result or a failure: one says nothing about the others."""
        return self._told(handle)

    def lost_ranks(self, handle: Handle) -> list[int]:
        """None: the others go on without it."""
        return []

    def failures(self, handle: Handle) -> list[Failure]:
        """That the array was asked to stop, if it was, or that SLURM ended one of its tasks; what
        the parts themselves say is in their folders."""
        for shard in Path(handle.folder).glob(SHARDS):
            for failure in noted_failures(shard).values():
                if failure.stopped:
                    return [failure]
        bad = [s for s in self._states(handle) if s.state in ENDED and s.state != "COMPLETED"]
        return [Failure(0, "", _verdict(bad[0], handle), time.time(), expected=True)] if bad else []

    def _told(self, handle: Handle) -> bool:
        jobs = list(Path(handle.logs).glob("*_submitted.pkl"))
        results = list(Path(handle.logs).glob("*_result.pkl"))
        return bool(jobs) and len(jobs) == len(results)

    def _finished(self, handle: Handle) -> bool:
        return False  # a part that failed may still be requeued: the queue knows


class _EntryExecutor(submitit.SlurmExecutor):
    """submitit's executor whose tasks begin in `pipeline.entry`, and whose sbatch has a time
    limit."""

    @property
    def _submitit_command_str(self) -> str:
        return f"{DEAF} {self.python} -u -m pipeline.entry {shlex.quote(str(self.folder))}"

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        return [
            "timeout",
            f"{SBATCH_SECONDS}",
            *super()._make_submission_command(submission_file_path),
        ]


def parameters(config: LaunchConfig, name: str) -> dict[str, Any]:
    """What is asked of sbatch, in submitit's words."""
    exports, cpus = import_environment(), config.cpus or config.threads
    if config.threads:
        exports["OMP_NUM_THREADS"] = str(config.threads)
    further = {"requeue": True, **{key.replace("_", "-"): v for key, v in config.slurm.items()}}
    if "no-requeue" in further:
        del further["requeue"]
    wanted = {
        "job_name": name,
        "nodes": config.nodes,
        "ntasks_per_node": config.tasks_per_node,
        "gpus_per_node": config.gpus_per_node,
        "cpus_per_task": cpus,
        "mem": f"{config.ram_gb}G" if config.ram_gb else None,
        "time": config.timeout_minutes,
        "partition": config.partition,
        "account": config.account,
        "qos": config.qos,
        "constraint": config.constraint,
        "exclude": config.exclude,
        "signal_delay_s": config.signal_seconds,
        "setup": [
            *(f"export {key}={shlex.quote(value)}" for key, value in exports.items()),
            *config.setup,
        ],
        "srun_args": [
            "--kill-on-bad-exit=0",  # a lost node has to be SLURM's finding: then it requeues
            *([f"--cpus-per-task={cpus}"] if cpus else []),  # since 22.05 not taken from sbatch
            *_pyxis(config),
        ],
        "additional_parameters": further,
    }
    return {key: value for key, value in wanted.items() if value is not None}


def python_command(config: LaunchConfig) -> str | None:
    """What starts Python in the job, as shell words; None for the interpreter of this process."""
    if config.container and _is_apptainer(config.container):
        binds = [word for mount in config.mounts for word in ("--bind", mount)]
        gpu = ["--nv"] if config.gpus_per_node else []
        command = ["apptainer", "exec", *gpu, *binds, config.container]
        return shlex.join([*command, config.python or "python"])
    if config.python:
        return shlex.quote(os.path.expanduser(config.python))
    return "python" if config.container else None


def _pyxis(config: LaunchConfig) -> list[str]:
    if not config.container or _is_apptainer(config.container):
        return []
    mounts = [f"--container-mounts={','.join(config.mounts)}"] if config.mounts else []
    return [f"--container-image={config.container}", *mounts]


def _is_apptainer(image: str) -> bool:
    return image.endswith(".sif")


def _verdict(state: JobState, handle: Handle) -> str:
    """The scheduler's last word on a job, and what helps."""
    hint = f"; {HINTS[state.state]}" if state.state in HINTS else ""
    return f"SLURM says {state.text} of job {handle.job_id}{hint}"


def _summed(states: Sequence[JobState]) -> JobState:
    """One state for an array: that of a task that is not done yet, and how many there are of
    each."""
    if len(states) == 1:
        return states[0]
    counts: dict[str, int] = {}
    for one in states:
        counts[one.state] = counts.get(one.state, 0) + 1
    order = ("RUNNING", "COMPLETING", "PENDING")
    chief = min(states, key=lambda s: (s.state in ENDED, s.state not in order, s.state))
    summary = ", ".join(f"{count} {state.lower()}" for state, count in counts.items())
    return replace(chief, reason=f"{summary}{f'; {chief.reason}' if chief.reason else ''}")


@contextmanager
def _refusals() -> Iterator[None]:
    """What sbatch does not accept is a wrong setting, unless nobody knows whether it does."""
    try:
        yield
    except (OSError, RuntimeError, ValueError, submitit.core.utils.FailedJobError) as error:
        said = " ".join(str(error).split())
        killed = getattr(error.__cause__, "returncode", 0) in (124, 137, -9)
        if killed or any(word in said.lower() for word in UNSURE):
            words = said or f"no answer in {SBATCH_SECONDS} s"
            raise NoAnswerError(f"sbatch gave no clear answer: {words}") from error
        raise ConfigError(f"was not accepted by SLURM: {said}") from error

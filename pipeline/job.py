"""A stage as a job: what runs in every task that submitit starts, around the stage's own function.

Signals set the stop flag, instead of submitit's habit of ignoring SIGTERM. A watcher thread
(`pipeline.watcher`) sets it for other reasons, keeps the heartbeat and ends what hangs. How the job
ended is left in `ended.json`. SIGUSR2, SLURM's word before a time limit or preemption, and the
time limit itself, which the job knows, requeue the job once it has stopped; as often as it takes.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.environment import quiet
from pipeline.errors import StageError
from pipeline.failure import ENDED_FILE, failure_path, note_end, note_failure
from pipeline.heartbeat import reset_pulse
from pipeline.lives import enough
from pipeline.stop import StopRequested, reset_stop, set_deadline, signals_request_stop
from pipeline.watcher import Watcher


@dataclass(frozen=True)
class Job:
    """The pickled unit of work. submitit calls it in every task."""

    function: Callable[[Any], Any]
    argument: Any
    folder: str
    """The stage's folder."""
    logs: str
    """The folder of this attempt."""
    leased: bool
    """Whether to end when the launching process is gone."""
    minutes: float | None = None
    """The time limit that was asked for, where the scheduler does not tell how much is left."""
    shard: str = ""
    """Of an array's task: the folder in which it says how far it is and how it ended, so that the
    tasks do not write over each other's words."""

    def __call__(self) -> Any:
        """Run the function; a failure leaves `failure-RANK.json` with its cause before it is
        raised."""
        quiet()
        import submitit

        environment = submitit.JobEnvironment()
        rank, local = environment.global_rank, environment.cluster == "local"
        leftovers = [failure_path(self._notes, rank), environment.paths.result_pickle]
        if rank == 0:
            leftovers += [self._place / ENDED_FILE, *self._half_written(environment)]
        for leftover in leftovers:  # of earlier lives
            Path(leftover).unlink(missing_ok=True)
        reset_stop()
        reset_pulse()
        set_deadline(self._seconds_left(slurm=environment.cluster == "slurm"))
        watcher = Watcher(
            Path(self.folder),
            self._notes,
            rank,
            environment.num_tasks,
            local=local,
            leased=self.leased,
        )
        with signals_request_stop(signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            watcher.start()
            try:
                result = self.function(self.argument)
                self._note_end(rank, None)
                return result
            except BaseException as error:
                note_failure(self._notes, rank, error)
                self._note_end(rank, error)
                if isinstance(error, StopRequested) and error.requeue and rank == 0:
                    self._requeue(environment, error)
                raise
            finally:
                watcher.close()

    @property
    def _place(self) -> Path:
        """Where progress and end are told."""
        return Path(self.shard or self.folder)

    @property
    def _notes(self) -> Path:
        """Where failures, stacks and lives are noted."""
        return Path(self.shard or self.logs)

    def checkpoint(self) -> Any:
        """What submitit submits again when a signal comes before we listen: the same, because the
        stage itself finds where it stopped."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)

    def _half_written(self, environment: Any) -> list[Path]:
        """What lives before this attempt were killed in the middle of writing."""
        submitted = environment.paths.submitted_pickle.stat().st_mtime
        found = []
        for path in self._place.glob(".*.part"):
            with suppress(FileNotFoundError):  # the launcher's, which is complete by now
                if path.stat().st_mtime < submitted:
                    found.append(path)
        return found

    def _requeue(self, environment: Any, stop: StopRequested) -> None:
        """Have the job started again, and end this process. Where the scheduler refuses, the note
        of the stop stays, and whoever launched the job may submit it again."""
        if trouble := enough(self._place, self._notes, environment.job_id, str(stop)):
            note_failure(self._notes, 0, StageError(trouble))
            note_end(self._place, self.logs, StageError(trouble))
            return
        failure_path(self._notes, 0).unlink()  # a job that waits has no failure
        try:
            environment._requeue(0)  # not counted: submitit's limit is on its own handler
            sys.exit(0)
        except (OSError, subprocess.SubprocessError) as error:
            note_failure(self._notes, 0, stop)
            print(f"the scheduler did not requeue the job: {error}", file=sys.stderr)

    def _note_end(self, rank: int, error: BaseException | None) -> None:
        if rank == 0:
            note_end(self._place, self.logs, error)

    def _seconds_left(self, slurm: bool) -> float | None:
        """Until the scheduler ends this job; None where it does not."""
        if not slurm:
            return None
        if os.environ.get("SLURM_JOB_END_TIME", "").isdigit():
            return int(os.environ["SLURM_JOB_END_TIME"]) - time.time()
        command = ["squeue", "--noheader", "--format=%L", f"--jobs={os.environ['SLURM_JOB_ID']}"]
        try:
            answer = subprocess.run(
                command, capture_output=True, text=True, timeout=30, check=True
            ).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            answer = ""
        if answer == "UNLIMITED":
            return None
        left = slurm_seconds(answer)
        if left is None and self.minutes is not None:
            return 60 * self.minutes
        return left


def slurm_seconds(text: str) -> float | None:
    """SLURM's way of writing a time, `[[days-]hours:]minutes:seconds`, in seconds; None where it is
    not one."""
    found = re.fullmatch(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+)", text)
    if found is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)

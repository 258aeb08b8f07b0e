"""Checkpoints written in the background: training waits only until its state is copied.

At most one is being written at a time. What is not finite is never written. Where writing fails,
training goes on with the previous checkpoint and tries again at the next one; `late` says when too
much work would be lost. The first rank decides for all, at boundaries of steps; nothing is asked of
the others in between.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType

from pipeline import checkpoint
from pipeline.checkpoint import TrainState
from pipeline.checkpoint_list import Entry, Keep, listed
from pipeline.distributed import World
from pipeline.errors import PipelineError, StageError
from pipeline.settings import LoopConfig
from pipeline.staging import HostCopy, all_finite
from pipeline.storage import size_text

HUNG_SECONDS = 900.0
"""A checkpoint may take this long to write, whatever `unsaved_minutes` says."""
MIRROR_SECONDS = 300.0
"""How long a stage that is done waits for the mirror to take what it lacks."""
CLOSE_SECONDS = 10.0
"""How long a failing run waits for the checkpoint that is being written."""
logger = logging.getLogger(__name__)


def patience(config: LoopConfig) -> float:
    """Seconds a checkpoint may take to be written before it counts as one that never ends."""
    return max(60 * config.unsaved_minutes, HUNG_SECONDS)


class Saver:
    """Writes a run's checkpoints; all ranks have one and call it alike."""

    def __init__(self, folder: str | Path, config: LoopConfig, world: World, step: int = 0) -> None:
        """step: where training stands, which needs no saving."""
        self.folder, self.config, self.world = Path(folder), config, world
        self.keep = Keep(config.keep, config.keep_every, config.keep_best)
        self.host, self.writing = HostCopy(), _Writing()
        self.safe_step = step
        """The step that a restart would continue from, also on another machine where there is a
        mirror."""
        self.written_step = step
        """The step of the newest checkpoint in the folder."""
        self.safe_at = self.tried_at = time.monotonic()
        self.problem = ""
        """Why the last checkpoint could not be written; empty where it could."""
        self.save_seconds = 0.0
        """What the longest of the last saves took, from the copy until it was listed."""
        self.stall_seconds = 0.0
        """How long training waited for the last one."""
        self.best = self._best_so_far() if config.keep_best else None

    def due(self, step: int) -> bool:
        """Whether this rank wants a checkpoint after `step`; it counts where any rank does.

        By steps always; by age not while one is being written.
        """
        if step % self.config.save_every == 0:
            return True
        if self.config.keep_every and step % self.config.keep_every == 0:
            return True
        age = time.monotonic() - self.tried_at
        return self.world.is_first and not self.writing.busy and age >= self.config.save_seconds

    def late(self) -> bool:
        """Whether this rank knows that more work would be lost than the settings allow; it counts
        where any rank does."""
        self._note()
        now, allowed = time.monotonic(), 60 * self.config.unsaved_minutes
        if self.writing.busy:
            return now - self.tried_at > patience(self.config)
        # the others hear of outcomes only in `wait`, and do not know when the last good one was
        return self.world.is_first and bool(self.problem) and now - self.safe_at > allowed

    def is_best(self, state: TrainState) -> bool:
        """Whether validation just found these weights the best so far, and the best are kept."""
        step, score = state.scored
        if not self.config.keep_best or step != state.step:
            return False
        return self.best is None or score > self.best

    def save(
        self,
        state: TrainState,
        *,
        wait: bool = False,
        late: bool = False,
        needed: tuple[int, ...] = (),
    ) -> None:
        """Copy `state` and write it in the background, once the one before is written; every rank
        calls it.

        wait: until it is written, or has failed; so for the best so far. late: the last attempt;
        raises StageError where it fails, naming what is safe. needed: as in `Keep`.
        """
        began = time.monotonic()
        self.wait()
        if self.is_best(state):
            self.best, wait = state.scored[1], True
        self.tried_at = began
        keep = replace(self.keep, needed=needed)
        write = self._prepared(state, keep)
        if write is not None:
            self.writing.begin(state.step, partial(self._write, write, keep))
        self.stall_seconds = time.monotonic() - began
        if wait or late:
            self.wait()
        if late and self.safe_step != state.step:
            raise StageError(self._loss(state.step))

    def wait(self) -> None:
        """Until nothing is being written; every rank calls it, and then knows the outcome. Raises
        StageError for a checkpoint that never ends."""
        while True:
            self.writing.join(0.2)
            busy, hung = self.world.any_of([self.writing.busy, self.writing.busy and self.late()])
            if hung:
                raise StageError(
                    f"writing a checkpoint to {self.folder} has not ended for "
                    f"{patience(self.config) / 60:.0f} minutes; look at "
                    f"the storage. Step {self.safe_step} is safe, a restart continues there"
                )
            if not busy:
                break
        self._note()
        told = (self.safe_step, self.written_step, self.problem, self.save_seconds)
        self.safe_step, self.written_step, self.problem, self.save_seconds = self.world.share(told)

    def require(self, step: int) -> None:
        """Raise StageError unless the folder has `step`, its last; every rank calls it after `wait`."""
        if self.written_step != step:
            raise StageError(self._loss(step))
        if self.config.mirror and self.world.is_first:
            self._complete_mirror(step)

    def roll_back(self, state: TrainState, before: int) -> int | None:
        """Put the newest intact checkpoint of a step before `before` into `state` on every rank;
        returns its step, or None, having changed nothing, where there is none.

        Those of later steps are given up with the next save.
        """
        self.wait()
        mirror = self.config.mirror
        if not checkpoint.resume(state, self.folder, self.world, mirror=mirror, before=before):
            return None
        self.safe_step = self.written_step = state.step
        self.safe_at = time.monotonic()
        return state.step

    def __enter__(self) -> Saver:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.writing.join(CLOSE_SECONDS)
        self._note()

    def _prepared(self, state: TrainState, keep: Keep) -> Callable[[], Entry | None] | None:
        """What writes a copy of `state`, or of this rank's part of it; None where it is not finite,
        and on ranks that have nothing to write."""
        shared = state.sharding
        if shared is None and not self.world.is_first:
            return None
        live = checkpoint.pack(state)
        finite = all_finite(live)
        if not finite if shared is None else self.world.any(not finite):
            self._failed(state.step, "its weights or moments are not finite", "")
            return None
        values = self.host.of(live)
        score = state.scored[1] if state.scored[0] == state.step else None
        size = self.world.size
        if shared is None:
            return partial(checkpoint.write, values, self.folder, keep, score=score, world=size)
        from pipeline.checkpoint_parts import write_parts

        return partial(
            write_parts, values, shared.rows_of(state.optimizer), self.folder, keep,
            rank=self.world.rank, group=shared.background, score=score, world=size,
        )  # fmt: skip

    def _write(self, write: Callable[[], Entry | None], keep: Keep) -> Entry | None:
        """In the background: to the folder, and from there to the mirror."""
        entry = write()
        if entry is not None:
            self.written_step = entry.step
            if self.config.mirror:
                from pipeline.mirror import upload

                upload(self.folder, self.config.mirror, keep)
        return entry

    def _complete_mirror(self, step: int) -> None:
        """A last attempt to copy what a mirror lacks: it failed, or another life of the job was
        killed before it came to it."""
        from pipeline.mirror import lacks, upload

        if not lacks(self.folder, self.config.mirror):
            return
        self.writing.begin(step, partial(upload, self.folder, self.config.mirror, self.keep))
        self.writing.join(MIRROR_SECONDS)
        problem = (
            f"no answer in {MIRROR_SECONDS:.0f} s" if self.writing.busy else self.writing.outcome()
        )
        if problem is not None:
            logger.warning(
                "the mirror lacks the last step, %d: %s. It is in %s; the same command again, or "
                "`sam2-pipeline sync`, copies it",
                step, problem, self.folder,
            )  # fmt: skip

    def _note(self) -> None:
        """Take in how the writing ended, if it did."""
        outcome = self.writing.outcome()
        if isinstance(outcome, Entry):
            if self.problem:
                logger.warning("checkpoints are written again: step %d is safe", outcome.step)
            self.problem = ""
            self.safe_step, self.safe_at = outcome.step, self.tried_at
            self.save_seconds = max(0.5 * self.save_seconds, self.writing.ended_at - self.tried_at)
        elif outcome is not None:
            self._failed(self.writing.step, str(outcome), f" ({self._free()})")

    def _failed(self, step: int, problem: str, more: str) -> None:
        if not self.problem and self.world.is_first:
            logger.warning(
                "step %d was not saved: %s%s. Training goes on; step %d is safe in %s. It is tried "
                "again at the next checkpoint, and training stops when %g minutes would be lost",
                step, problem, more, self.safe_step, self.folder, self.config.unsaved_minutes,
            )  # fmt: skip
        self.problem = problem

    def _loss(self, step: int) -> str:
        return (
            f"step {step} could not be saved: {self.problem}. {self._free()}. Step {self.safe_step} is "
            f"safe in {self.folder}; mend the cause and start again, training continues from there"
        )

    def _free(self) -> str:
        try:
            return f"{size_text(shutil.disk_usage(self.folder).free)} are free in {self.folder}"
        except OSError as error:
            return f"{self.folder} cannot be looked at: {error.strerror}"

    def _best_so_far(self) -> float | None:
        found = None
        if self.world.is_first:
            scores = [entry.score for entry in listed(self.folder) if entry.score is not None]
            found = max(scores, default=None)
        found = self.world.share(found)
        return None if found is None else float(found)


class _Writing:
    """The one checkpoint that is being written, and how that ended."""

    def __init__(self) -> None:
        self.step, self.ended_at = 0, 0.0
        self._thread: threading.Thread | None = None
        self._outcome: Entry | Exception | None = None

    def begin(self, step: int, write: Callable[[], Entry | None]) -> None:
        """Run `write` in the background. A process that ends does not wait for it."""

        def work() -> None:
            try:
                self._outcome = write()
            except Exception as error:
                if not isinstance(error, PipelineError):
                    logger.exception("writing a checkpoint failed")
                self._outcome = error
            self.ended_at = time.monotonic()

        self.step = step
        self._thread = threading.Thread(target=work, name="checkpoint", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def join(self, seconds: float) -> None:
        """Wait for its end, but no longer than that."""
        if self._thread is not None:
            self._thread.join(seconds)

    def outcome(self) -> Entry | Exception | None:
        """What was written, or why not; None while that is open, and when it was told before."""
        if self.busy:
            return None
        self._thread, found = None, self._outcome
        self._outcome = None
        return found

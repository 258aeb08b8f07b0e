"""What follows from steps whose loss or gradient was not finite.

Each is left out on all ranks, which changes nothing, and recorded with its samples. After
`bad_steps` of them in a row the weights themselves are under suspicion, and training goes back: to
the weights of the last checkpoint from before the first of them, but not to its place in the data.
The steps in between are left out for good, so that what led there does not lead there again, and
the same run always does the same. After `roll_backs` times it stops and names the samples.

All of it is decided where `step` is a multiple of `every`, from what the state's `notes` say; they
are saved with it. So a run that was interrupted anywhere decides like one that was not.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pipeline.checkpoint import TrainState
from pipeline.distributed import World
from pipeline.errors import StageError
from pipeline.heartbeat import pulse
from pipeline.saving import Saver
from pipeline.settings import LoopConfig
from pipeline.storage import atomic_file
from pipeline.window import Outcome

RECORD_FILE = "skipped.jsonl"
RUN, FIRST, DUE = "bad/run", "bad/first", "bad/due"
"""In the notes: bad steps in a row until now, the first of them, and that of a row that was too
long."""
BACK, SINCE = "bad/rolled_back", "bad/since"
"""How often training went back, and the step where it last did."""
MOST_NAMED = 50
ADVICE = "look at these samples, lower the learning rate, or train in fp32"
logger = logging.getLogger(__name__)


class BadSteps:
    """Counts the bad steps of a run, records them and says when to go back."""

    def __init__(
        self, config: LoopConfig, state: TrainState, world: World, folder: str | Path
    ) -> None:
        """folder: that of the checkpoints, where the record is kept."""
        self.config, self.world = config, world
        self.every = min(config.log_every, config.bad_steps)
        self.path = Path(folder) / RECORD_FILE
        self.samples: dict[int, list[str]] = {}
        if world.is_first:
            self._forget_from(state.step)

    def see(self, state: TrainState, outcomes: Sequence[Outcome]) -> None:
        """Take in how steps went; every rank calls it. Raises StageError where too many were bad."""
        for outcome in outcomes:
            state.skipped += outcome.bad
            if not outcome.broken:
                state.notes[RUN] = 0.0
                continue
            run = state.notes[RUN] = state.notes.get(RUN, 0.0) + 1
            if run == 1:
                state.notes[FIRST] = float(outcome.step)
            if run == self.config.bad_steps:
                state.notes.setdefault(DUE, state.notes[FIRST])
        self._record([outcome for outcome in outcomes if outcome.bad])

    def decides(self, step: int) -> bool:
        """Whether what happened until `step` has to be known there."""
        return step % self.every == 0

    def roll_back(self, state: TrainState, saver: Saver) -> bool:
        """Go back where it is due; whether it was. `state` then has earlier weights and the step it
        had. Every rank calls it. Raises StageError where that has not helped, or cannot."""
        if not self.decides(state.step) or DUE not in state.notes:
            return False
        step, notes = state.step, dict(state.notes)
        first, run = int(notes.pop(DUE)), max(notes[RUN], self.config.bad_steps)
        times = notes.get(BACK, 0.0)
        problem = (
            f"the loss or gradient was not finite for {run:.0f} steps in a row until step {step}; "
            f"samples: {self._named(first)}"
        )
        if times >= self.config.roll_backs:
            tried = f"Training went back to an earlier checkpoint {times:.0f} times already"
            raise StageError(f"{problem}. {tried if times else 'loop.roll_backs is 0'}; {ADVICE}")
        pulse.phase("going back")
        found = saver.roll_back(state, before=self._goal(first, notes) + 1)
        if found is None:
            found = saver.roll_back(state, before=first + 1)
        if found is None:
            raise StageError(
                f"{problem}. There is no checkpoint of step {first} or before to go back to; {ADVICE}"
            )
        logger.warning(
            "%s. Training goes on from step %d with the weights of step %d; %d steps are left out",
            problem, step, found, step - found,
        )  # fmt: skip
        state.step, state.skipped = step, state.skipped + step - found
        state.notes = {**notes, RUN: 0.0, BACK: times + 1, SINCE: float(step)}
        self._write([{"step": step - 1, "went_back_to": found, "time": time.time()}])
        return True

    def needed(self, state: TrainState) -> tuple[int, ...]:
        """The newest checkpoint at or before each of these steps has to stay, so that every run,
        interrupted or not, finds the same one to go back to."""
        firsts = [float(state.step)]  # of a row that is still to come
        if state.notes.get(RUN):
            firsts.append(state.notes[FIRST])
        if DUE in state.notes:
            firsts.append(state.notes[DUE])
        return tuple(sorted({self._goal(int(first), state.notes) for first in firsts}))

    def _goal(self, first: int, notes: Mapping[str, float]) -> int:
        """The last step, `first` at the latest, that every run has a checkpoint of: by steps, or of
        where it went back. Those written for their age or at a stop are of some runs only."""
        return max(first - first % self.config.save_every, int(notes.get(SINCE, 0)))

    def _named(self, first: int) -> str:
        names = [name for step in sorted(self.samples) if step >= first
                 for name in self.samples[step]]  # fmt: skip
        names = list(dict.fromkeys(names))
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        return ", ".join(names[:MOST_NAMED]) + more or "unnamed"

    def _record(self, bad: Sequence[Outcome]) -> None:
        """Note steps with the samples and losses of all ranks."""
        if not bad:
            return
        ranks = self.world.gather([(list(outcome.names), outcome.loss) for outcome in bad])
        rows = []
        for index, outcome in enumerate(bad):
            samples = [name for rank in ranks for name in rank[index][0]]
            self.samples[outcome.step] = samples
            rows.append(
                {
                    "step": outcome.step,
                    "samples": samples,
                    "losses": [str(rank[index][1]) for rank in ranks],
                    "time": time.time(),
                }
            )
        self._write(rows)

    def _write(self, rows: Iterable[dict[str, object]]) -> None:
        if not self.world.is_first:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8") as file:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            logger.warning("%s cannot be written: %s", self.path, error)

    def _forget_from(self, step: int) -> None:
        """Leave out of the record what is about to be done again."""
        if not self.path.is_file():
            return
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if _step_of(line) < step]
        if len(kept) < len(lines):
            with atomic_file(self.path, "w") as file:
                file.writelines(kept)


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):  # cut off when the process was killed
        return float("inf")

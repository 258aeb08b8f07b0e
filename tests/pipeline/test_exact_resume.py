"""A run that is interrupted anywhere ends with the checkpoint of one that is not, bit for bit.

Everything a checkpoint can hold takes part: dropout, accumulated batches, fp16's loss scale, averaged
weights, skipped steps, notes, a validation that writes them.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import checkpoint, stop
from pipeline.average import WeightAverage
from pipeline.checkpoint import TrainState
from pipeline.loop import Hooks, fit
from pipeline.precision import LossScale
from pipeline.settings import LoopConfig
from tests.pipeline import toy
from tests.pipeline.toy import TOTAL

ACCUMULATE = 2


class CrashError(Exception):
    """Stands for anything that ends a process in the middle of a step."""


class Task(toy.ToyTask):
    """The toy's; before the losses of batch number `at` it calls `event`."""

    at, event = -1, staticmethod(lambda: None)

    def losses(self, batch: toy.Batch, step: int, whole: float) -> toy.Losses:
        if step == self.at:
            self.event()
        return super().losses(batch, step, whole)


def validate(state: TrainState) -> None:
    """Remembers the best, as a stage's validation does, and leaves random numbers used up."""
    value = float(state.model.head.weight.detach().sum()) + float(torch.rand(7).sum()) * 0
    state.notes["best"] = max(value, state.notes.get("best", value))


def run(folder: Path, at: int = -1, event: Any = None, **settings: Any) -> dict[str, Any] | None:
    """Train on from what is in `folder`; the last checkpoint, or None where `event` ended it."""
    stop.reset_stop()
    model, state = toy.fresh(dropout=0.5)
    state.scale, state.average = LossScale(), WeightAverage(model, 0.9)
    checkpoint.resume(state, folder)
    task = Task(model, bad=("clip6",))
    task.at, task.event = at, event
    config = LoopConfig(log_every=3, accumulate=ACCUMULATE, **settings)
    hooks = Hooks(every=[(4, validate)])
    batches = toy.batches(state.step * ACCUMULATE, TOTAL * ACCUMULATE)
    try:
        fit(task, batches, state, config, total=TOTAL, clip=1.0, folder=folder, hooks=hooks)
    except (CrashError, stop.StopRequested):
        return None
    return checkpoint.read(folder / checkpoint.file_name(TOTAL))


def same(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found = run(tmp_path_factory.mktemp("straight"))
    assert found is not None and found["skipped"] == 1
    assert found["scale"]["factor"] != LossScale().factor and "best" in found["notes"]
    return found


def test_another_run_differs(straight: dict[str, Any], tmp_path: Path) -> None:
    """So that equality below means something."""
    other = run(tmp_path, at=9, event=lambda: torch.manual_seed(1))
    assert other is not None and not same(other["model"], straight["model"])


@pytest.mark.parametrize("batch", range(0, TOTAL * ACCUMULATE - ACCUMULATE, 3))
def test_a_stop_during_any_batch(straight: dict[str, Any], tmp_path: Path, batch: int) -> None:
    """The first or second of its step, before, at and after a validation, at the bad step."""
    assert run(tmp_path, batch, lambda: stop.request_stop("a test")) is None
    found = run(tmp_path)
    assert found is not None and same(found, straight)


@pytest.mark.parametrize("batch", range(1, TOTAL * ACCUMULATE, 4))
def test_a_crash_during_any_batch(straight: dict[str, Any], tmp_path: Path, batch: int) -> None:
    """What was done since the last checkpoint is done again."""

    def crash() -> None:
        raise CrashError

    assert run(tmp_path, batch, crash, save_every=3) is None
    found = run(tmp_path, save_every=5)
    assert found is not None and same(found, straight)


def test_many_interruptions(straight: dict[str, Any], tmp_path: Path) -> None:
    """In every step one."""
    lives = 0
    while (found := run(tmp_path, 2 * lives + 1, lambda: stop.request_stop("again"))) is None:
        lives += 1
    assert lives == TOTAL - 1 and same(found, straight)


def test_after_a_broken_newest_checkpoint(straight: dict[str, Any], tmp_path: Path) -> None:
    assert run(tmp_path, 15, lambda: stop.request_stop("a test"), save_every=3) is None
    newest = checkpoint.latest_valid(tmp_path)
    assert newest is not None
    newest.write_bytes(newest.read_bytes()[:-100])
    found = run(tmp_path)
    assert found is not None and same(found, straight)

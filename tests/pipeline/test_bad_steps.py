"""Values that are not finite: left out, recorded, gone back from, and the end of it; the same however
often the run was interrupted."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import checkpoint, stop
from pipeline.checkpoint import TrainState
from pipeline.errors import StageError
from pipeline.loop import Hooks, fit
from pipeline.settings import LoopConfig
from pipeline.staging import all_finite
from tests.pipeline import toy
from tests.pipeline.toy import TOTAL, ToyTask, batches, equal, fresh, weights

CONFIG = LoopConfig(log_every=2, save_every=3, keep=1, bad_steps=3)


@pytest.fixture(autouse=True)
def forget_stops() -> None:
    stop.reset_stop()


class Diverging(ToyTask):
    """One step, `step`, ruins a weight; from then on no loss is a number, until earlier weights are
    back. With `always` the losses stay bad whatever the weights are."""

    def __init__(self, model: toy.Toy, step: int, always: bool = False) -> None:
        super().__init__(model)
        self.step, self.always = step, always

    def losses(self, batch: toy.Batch, step: int, whole: float) -> toy.Losses:
        found = super().losses(batch, step, whole)
        if step == self.step:
            self.model.body[0].weight.data[0, 0] = float("nan")
        if self.always and step >= self.step:
            found = toy.Losses(found.total * float("nan"), found.parts)
        return found


def train(folder: Path, state: TrainState, task: ToyTask, **more: Any) -> TrainState:
    options = {"total": TOTAL, "clip": 1.0, "folder": folder, **more}
    supply = batches(state.step, options["total"])
    return fit(task, supply, state, options.pop("config", CONFIG), **options)


def record(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "skipped.jsonl").read_text().splitlines()]


def interrupted(
    folder: Path, at: tuple[int, ...], config: LoopConfig = CONFIG, **task: Any
) -> TrainState:
    """The state after a run that was stopped and resumed after each of the steps `at`."""
    for number in (*at, None):
        model, state = fresh(dropout=0.5)
        checkpoint.resume(state, folder)
        hook = (1, lambda s, n=number: stop.request_stop("a test") if s.step == n else None)
        try:
            task_ = Diverging(model, **task)
            train(folder, state, task_, hooks=Hooks(every=(hook,)), config=config)
        except stop.StopRequested:
            stop.reset_stop()
    return state


def test_weights_that_are_not_finite_are_gone_back_from(tmp_path: Path) -> None:
    """Those of step 3 are kept, those of step 6 refused, and the steps until 8 are left out."""
    model, state = fresh(dropout=0.5)
    train(tmp_path, state, Diverging(model, 3))
    assert state.step == TOTAL and all_finite(weights(model))
    assert state.notes["bad/rolled_back"] == 1
    rows = record(tmp_path)
    assert [row["step"] for row in rows] == [4, 5, 6, 7, 7]
    assert rows[0]["samples"] == ["clip4"] and rows[0]["losses"] == ["nan"]
    assert rows[-1]["went_back_to"] == 3
    assert state.skipped == 5, "3 to 7: what was good among them is lost, too"
    found = checkpoint.latest_valid(tmp_path)
    assert found is not None and found.name.startswith("step-00000012")


@pytest.mark.parametrize("at", [(4,), (6,), (7,), (4, 7, 9), (1, 2, 3, 4, 8, 10)])
def test_an_interrupted_run_goes_back_to_the_same_step(tmp_path: Path, at: tuple[int, ...]) -> None:
    straight = interrupted(tmp_path / "a", (), step=4)
    other = interrupted(tmp_path / "b", at, step=4)
    assert straight.notes["bad/rolled_back"] == 1
    assert equal(weights(other.model), weights(straight.model))
    assert other.notes == straight.notes and other.skipped == straight.skipped
    drop = [{k: v for k, v in row.items() if k != "time"} for row in record(tmp_path / "a")]
    assert drop == [{k: v for k, v in row.items() if k != "time"} for row in record(tmp_path / "b")]


def test_what_is_needed_to_go_back_outlives_checkpoints_written_for_their_age(
    tmp_path: Path,
) -> None:
    """One after every step, of which the newest is kept: finite weights whose losses are not."""

    class Bad(ToyTask):
        def losses(self, batch: toy.Batch, step: int, whole: float) -> toy.Losses:
            found = super().losses(batch, step, whole)
            return toy.Losses(found.total * float("nan" if 5 <= step < 8 else 1), found.parts)

    ends = []
    for name, seconds in (("by steps", 600.0), ("by age", 0.0)):
        model, state = fresh(dropout=0.5)
        config = replace(CONFIG, save_every=4, save_seconds=seconds)
        train(tmp_path / name, state, Bad(model), config=config)
        assert record(tmp_path / name)[-1]["went_back_to"] == 4
        ends.append(weights(model))
    assert equal(*ends)


def test_going_back_again_is_not_to_weights_that_were_given_up(tmp_path: Path) -> None:
    """Step 6 is saved, being finite; the row that began at 4 ends at 8 with the weights of 3. What is
    bad from 8 on leads back to those of 8, not to those of 6."""

    class Bad(ToyTask):
        def losses(self, batch: toy.Batch, step: int, whole: float) -> toy.Losses:
            found = super().losses(batch, step, whole)
            return toy.Losses(found.total * float("nan" if 4 <= step < 11 else 1), found.parts)

    model, state = fresh(total=20)
    train(tmp_path, state, Bad(model), total=20)
    back = [row["went_back_to"] for row in record(tmp_path) if "went_back_to" in row]
    assert back == [3, 8]


def test_what_keeps_happening_ends_training_and_names_the_samples(tmp_path: Path) -> None:
    model, state = fresh(total=40)
    with pytest.raises(StageError, match=r"went back .* 2 times already.*learning rate") as raised:
        train(tmp_path, state, Diverging(model, 4, always=True), total=40)
    assert "clip3" not in str(raised.value)
    names = str(raised.value).split("samples: ")[1].split(".")[0].split(", ")
    assert len(names) >= 3 and all(name.startswith("clip") for name in names)
    model, state = fresh()
    config = LoopConfig(log_every=2, save_every=3, bad_steps=3, roll_backs=0)
    with pytest.raises(StageError, match=r"roll_backs is 0"):
        train(tmp_path / "never", state, Diverging(model, 4, always=True), config=config)


def test_single_bad_steps_are_recorded_and_nothing_else(tmp_path: Path) -> None:
    model, state = fresh()
    train(tmp_path, state, ToyTask(model, bad=("clip2", "clip4", "clip9")))
    assert [row["samples"] for row in record(tmp_path)] == [["clip2"], ["clip4"], ["clip9"]]
    assert state.skipped == 3 and "bad/rolled_back" not in state.notes
    assert torch.isfinite(model.head.weight).all()

"""fp16's loss scale and the average of the weights: exact where they should be, saved and resumed."""

from pathlib import Path

import pytest
import torch

from pipeline import checkpoint, precision, stop
from pipeline.average import WeightAverage
from pipeline.errors import CheckpointError
from pipeline.loop import Hooks, StepLog, fit
from pipeline.precision import LossScale
from pipeline.settings import LoopConfig
from tests.pipeline.toy import TOTAL, ToyTask, batches, equal, fresh, weights


def train(folder: Path, state, task=None, until=TOTAL, **more):
    task = task or ToyTask(state.model)
    config = more.pop("config", LoopConfig(log_every=4))
    return fit(
        task,
        batches(state.step, until),
        state,
        config,
        total=until,
        clip=1.0,
        folder=folder,
        **more,
    )


def test_the_scale_halves_at_an_overflow_and_doubles_after_good_steps(monkeypatch) -> None:
    monkeypatch.setattr(precision, "PATIENCE", 3)
    scale = LossScale()
    found = []
    for bad in (1, 0, 0, 0, 0, 1, 0):
        scale.update(torch.tensor(float(bad)))
        found.append(float(scale.factor))
    assert found == [32768, 32768, 32768, 65536, 65536, 32768, 32768]
    for _ in range(30):
        scale.update(torch.tensor(1.0))
    assert float(scale.factor) == 1 and bool(scale.exhausted)


def test_a_scaled_step_is_the_plain_step(tmp_path: Path) -> None:
    """The factor is a power of two: multiplying and dividing by it is exact in fp32."""
    plain, state = fresh()
    train(tmp_path / "plain", state)
    scaled, state = fresh()
    state.scale = LossScale()
    train(tmp_path / "scaled", state)
    assert equal(weights(plain), weights(scaled))


class Overflowing(ToyTask):
    """The gradient of the first batches does not fit, whatever the loss."""

    def losses(self, batch, step, whole):
        losses = super().losses(batch, step, whole)
        losses.total.register_hook(lambda g: g * (float("inf") if self.scale.factor > 2**12 else 1))
        return losses


def test_overflows_are_left_out_but_are_no_reason_to_give_up(tmp_path: Path) -> None:
    logs: list[StepLog] = []
    model, state = fresh()
    state.scale = LossScale()
    task = Overflowing(model)
    task.scale = state.scale
    train(
        tmp_path,
        state,
        task,
        config=LoopConfig(log_every=1, bad_steps=2),
        hooks=Hooks(log=logs.append),
    )
    assert state.skipped == 4
    assert [log.metrics["loss_scale"] for log in logs[:5]] == [2**15, 2**14, 2**13, 2**12, 2**12]
    assert all(torch.isfinite(value).all() for value in weights(model).values())


def test_the_average_follows_its_formula_and_skips_bad_steps(tmp_path: Path) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    model, state = fresh()
    state.average = WeightAverage(model, decay=0.5)
    expected = weights(model)
    hooks = Hooks(every=((1, lambda s: seen.append(weights(s.model))),))
    fit(
        ToyTask(model, bad=("clip3",)), batches(0, 8), state, LoopConfig(), total=8, clip=1.0,
        folder=tmp_path, hooks=hooks,
    )  # fmt: skip
    for step, now in enumerate(seen):
        decay = min(0.5, (1 + step) / (10 + step))
        if step != 3:
            expected = {
                name: decay * old + (1 - decay) * now[name] for name, old in expected.items()
            }
    before = weights(model)
    with state.average.in_place():
        for name, value in weights(model).items():
            torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=1e-5)
    assert equal(weights(model), before)


def test_scale_and_average_survive_a_restart(tmp_path: Path) -> None:
    def started():
        model, state = fresh(dropout=0.5)
        state.scale, state.average = LossScale(), WeightAverage(model, decay=0.9)
        return state

    straight = train(tmp_path / "straight", started())
    stop.reset_stop()
    half = Hooks(every=((7, lambda s: stop.request_stop("half way")),))
    with pytest.raises(stop.StopRequested):
        train(tmp_path / "two", started(), hooks=half)
    stop.reset_stop()
    resumed = started()
    assert checkpoint.resume(resumed, tmp_path / "two")
    train(tmp_path / "two", resumed)
    assert equal(resumed.average.values, straight.average.values)
    assert resumed.scale.state_dict() == straight.scale.state_dict()

    _, other = fresh()
    other.average = WeightAverage(torch.nn.Linear(2, 2), decay=0.9)
    with pytest.raises(CheckpointError, match="does not fit"):
        checkpoint.resume(other, tmp_path / "two")

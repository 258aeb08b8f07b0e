"""A step is all or nothing, stopping loses nothing, and resuming changes not a bit."""

import os
import signal
from itertools import chain
from pathlib import Path

import pytest
import torch

from pipeline import checkpoint, stop
from pipeline.checkpoint import TrainState
from pipeline.errors import StageError
from pipeline.loop import Hooks, StepLog, fit
from pipeline.settings import LoopConfig
from tests.pipeline import toy
from tests.pipeline.toy import TOTAL, ToyTask, batches, equal, fresh, weights


@pytest.fixture(autouse=True)
def forget_stops() -> None:
    stop.reset_stop()


def train(folder: Path, state: TrainState, bad: tuple[str, ...] = (), **more: object) -> TrainState:
    task = ToyTask(state.model, bad)
    options = {"total": TOTAL, "clip": 1.0, "folder": folder, **more}
    config = options.pop("config", LoopConfig(log_every=5))
    return fit(task, batches(state.step, TOTAL), state, config, **options)


def test_resuming_changes_not_a_bit(tmp_path: Path) -> None:
    """Dropout on, one bad step, stopped by a signal in the middle: the same weights and optimiser
    state."""
    model, state = fresh(dropout=0.5)
    before = weights(model)
    train(tmp_path / "straight", state, bad=("clip4",))
    assert not equal(weights(model), before)

    _, state = fresh(dropout=0.5)
    interrupt = Hooks(every=((7, lambda state: os.kill(os.getpid(), signal.SIGTERM)),))
    with stop.signals_request_stop(), pytest.raises(stop.StopRequested, match="SIGTERM"):
        train(tmp_path / "two", state, bad=("clip4",), hooks=interrupt)
    stop.reset_stop()
    assert 7 <= state.step < TOTAL

    resumed, state = fresh(dropout=0.5)
    assert checkpoint.resume(state, tmp_path / "two")
    assert state.skipped == 1
    train(tmp_path / "two", state, bad=("clip4",))
    assert equal(weights(resumed), weights(model))
    names = ("straight", "two")
    files = [checkpoint.latest_valid(tmp_path / name) for name in names]
    states = [checkpoint.read(path)["optimizer"]["state"] for path in files if path]
    for left, right in zip(states[0].values(), states[1].values(), strict=True):
        assert equal(left, right)


def test_dropout_follows_from_the_step_not_from_history(tmp_path: Path) -> None:
    model, state = fresh(dropout=0.5)
    train(tmp_path / "a", state)
    other, state = fresh(dropout=0.5)
    torch.rand(17)
    train(tmp_path / "b", state)
    assert equal(weights(model), weights(other))
    third, state = fresh(dropout=0.5)
    train(tmp_path / "c", state, seed=1)
    assert not equal(weights(model), weights(third))


def test_a_bad_step_changes_nothing_and_is_counted(tmp_path: Path) -> None:
    logs: list[StepLog] = []
    snapshots: dict[int, dict[str, torch.Tensor]] = {}
    model, state = fresh()
    hooks = Hooks(
        log=logs.append, every=((1, lambda s: snapshots.update({s.step: weights(model)})),)
    )
    train(tmp_path, state, bad=("clip3",), hooks=hooks)
    assert equal(snapshots[3], snapshots[4])
    assert not equal(snapshots[4], snapshots[5])
    assert state.skipped == 1
    assert all(torch.isfinite(value).all() for value in weights(model).values())
    assert [log.step for log in logs] == [5, 10, TOTAL]
    assert logs[-1].metrics["skipped"] == 1
    assert set(logs[0].metrics) == {
        "loss", "loss/square", "grad_norm", "lr", "skipped", "steps_per_second", "data_wait",
        "memory_bytes",
    }  # fmt: skip


def test_too_many_bad_steps_end_training_and_name_the_samples(tmp_path: Path) -> None:
    _, state = fresh()
    bad = tuple(f"clip{index}" for index in range(4, TOTAL))
    with pytest.raises(StageError, match=r"3 steps in a row.*clip4, clip5, clip6") as raised:
        train(tmp_path, state, bad=bad, config=LoopConfig(log_every=1, bad_steps=3))
    assert "clip3" not in str(raised.value)


def test_accumulated_batches_make_the_step_of_one_large_one(tmp_path: Path) -> None:
    model, state = fresh()
    fit(
        ToyTask(model),
        batches(0, 4, size=6),
        state,
        LoopConfig(),
        total=4,
        clip=1.0,
        folder=tmp_path / "a",
    )
    other, state = fresh()
    small = chain.from_iterable(
        [toy.Batch(batch.x[:3], batch.names), toy.Batch(batch.x[3:], batch.names)]
        for batch in batches(0, 4, size=6)
    )
    config = LoopConfig(accumulate=2)
    fit(ToyTask(other), small, state, config, total=4, clip=1.0, folder=tmp_path / "b")
    for name, value in weights(model).items():
        torch.testing.assert_close(weights(other)[name], value, atol=1e-6, rtol=1e-5)


def test_checkpoints_come_by_steps_and_by_seconds(tmp_path: Path) -> None:
    saved: list[int] = []
    hooks = Hooks(every=((1, lambda state: saved.append(len(list((tmp_path).glob("step-*"))))),))
    _, state = fresh()
    config = LoopConfig(save_every=4, keep=10)
    train(tmp_path, state, config=config, hooks=hooks)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == [
        "step-00000004.pt", "step-00000008.pt", "step-00000012.pt"
    ]  # fmt: skip
    _, state = fresh()
    train(tmp_path / "fast", state, config=LoopConfig(save_seconds=0.0, keep=100))
    fast = sorted(path.name for path in (tmp_path / "fast").glob("step-*"))
    assert fast[0] == "step-00000001.pt" and fast[-1] == "step-00000012.pt"


def test_data_that_ends_early_is_an_error(tmp_path: Path) -> None:
    model, state = fresh()
    with pytest.raises(StageError, match="data ended at step 3"):
        fit(ToyTask(model), batches(0, 3), state, LoopConfig(), total=9, clip=1.0, folder=tmp_path)


def test_parameters_nobody_used_stay_as_they_are(tmp_path: Path) -> None:
    """Weight decay would move them otherwise."""
    model, state = fresh()
    before = weights(model)
    train(tmp_path, state)
    after = weights(model)
    assert torch.equal(before["idle.weight"], after["idle.weight"])
    assert not torch.equal(before["side.weight"], after["side.weight"])

"""Stopping in time, in the middle of a validation, and asking to be started again."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline import checkpoint, job, stop
from pipeline.checkpoint import TrainState
from pipeline.failure import note_end, read_ended
from pipeline.job import Job, slurm_seconds
from pipeline.loop import Hooks, fit
from pipeline.settings import LoopConfig
from pipeline.stop import Margin, StopRequested, request_stop, reset_stop, set_deadline
from tests.pipeline.toy import TOTAL, ToyTask, batches, equal, fresh, weights


@pytest.fixture(autouse=True)
def forget_stops() -> Iterator[None]:
    reset_stop()
    yield
    reset_stop()
    set_deadline(None)


def train(folder: Path, hooks: Hooks, config: LoopConfig | None = None) -> TrainState:
    _, state = fresh(dropout=0.5)
    checkpoint.resume(state, folder)
    supply = batches(state.step, TOTAL)
    return fit(
        ToyTask(state.model), supply, state, config or LoopConfig(),
        total=TOTAL, clip=1.0, folder=folder, hooks=hooks,
    )  # fmt: skip


def until_done(folder: Path, make: Any) -> TrainState:
    for life in range(5):
        try:
            return train(folder, make(life))
        except StopRequested:
            reset_stop()
    raise AssertionError("it does not come to an end")


def counting(life: int) -> Hooks:
    """Two hooks at the same steps, of which the second is stopped in the middle in the first two
    lives: at step 4, and at the last one."""

    def first(state: TrainState) -> None:
        state.notes["first"] = state.notes.get("first", 0) + state.step

    def second(state: TrainState) -> str:
        if (life, state.step) in ((0, 4), (1, TOTAL)):
            request_stop("received SIGTERM")
            stop.check_stop()
        state.notes["second"] = state.notes.get("second", 0) + state.step
        return ""

    return Hooks(every=((4, first), (4, second)))


def test_a_validation_that_was_stopped_is_done_when_training_goes_on(tmp_path: Path) -> None:
    straight = until_done(tmp_path / "a", lambda life: counting(9))
    other = until_done(tmp_path / "b", counting)
    assert other.notes == straight.notes
    assert straight.notes["second"] == 4 + 8 + 12
    assert equal(weights(other.model), weights(straight.model))


def test_a_stop_does_not_wait_for_a_validation(tmp_path: Path) -> None:
    called: list[int] = []
    ask = (1, lambda state: request_stop("a test") if state.step == 3 else None)
    validate = (4, lambda state: called.append(state.step))
    with pytest.raises(StopRequested, match="saved at step 4"):
        train(tmp_path, Hooks(every=(ask, validate)))
    assert called == [], "it is put off"
    reset_stop()
    train(tmp_path, Hooks(every=(ask, validate)))
    assert called == [4, 8, 12]


def test_it_stops_before_the_time_limit_and_wants_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step and a save have been measured; what they take, half as much again and some seconds are
    left."""
    monkeypatch.setattr(stop, "UNMEASURED_SAVE", 0.0)
    limit = (5, lambda state: set_deadline(stop.EXIT_SECONDS))
    with pytest.raises(StopRequested, match=r"the time limit is \d s away.*step 6") as raised:
        train(tmp_path, Hooks(every=(limit,)), LoopConfig(save_every=3))
    assert raised.value.requeue
    found = checkpoint.latest_valid(tmp_path)
    assert found is not None and found.name.startswith("step-00000006")


def test_the_margin_is_what_was_measured() -> None:
    margin = Margin()
    assert margin.seconds == 1.5 * stop.UNMEASURED_SAVE + stop.EXIT_SECONDS and margin.needed == 0
    for seconds in (2.0, 9.0, 3.0):
        margin.add("step", seconds)
    margin.add("save", 4.0)
    assert margin.needed == 1.5 * (9.0 + 2 * 4.0), "one save may be under way already"
    margin.add("hook 0", 100.0)
    assert margin.seconds == 1.5 * (9.0 + 2 * 4.0 + 100.0) + stop.EXIT_SECONDS
    for _ in range(100):
        margin.add("step", 1.0)
    assert margin.needed == 1.5 * (1.0 + 2 * 4.0), "only the last hundred count"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1-02:03:04", 93784), ("02:03:04", 7384), ("3:04", 184), ("0:09", 9), ("INVALID", None)],
)
def test_times_as_slurm_writes_them(text: str, seconds: float | None) -> None:
    assert slurm_seconds(text) == seconds


def test_a_job_knows_how_much_time_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the environment, from the queue on older versions, or from what was asked for."""
    work = Job(abs, 0, "", "", leased=False, minutes=30.0)
    assert work._seconds_left(slurm=False) is None
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    answers = {"17:00": 1020.0, "UNLIMITED": None, "": 1800.0}
    for answer, expected in answers.items():
        found = SimpleNamespace(stdout=f"{answer}\n")
        monkeypatch.setattr(job.subprocess, "run", lambda *_, found=found, **__: found)
        assert work._seconds_left(slurm=True) == expected
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 600))
    assert work._seconds_left(slurm=True) == pytest.approx(600, abs=2)


def test_how_a_life_ended_is_left_for_the_launcher(tmp_path: Path) -> None:
    assert read_ended(tmp_path) is None
    ends = [(None, "done"), (StopRequested("SIGTERM"), "stopped"), (ValueError("x"), "failed"),
            (StopRequested("SIGUSR2", requeue=True), "requeue")]  # fmt: skip
    for error, kind in ends:
        note_end(tmp_path, tmp_path / "logs", error)
        found = read_ended(tmp_path)
        assert found is not None and found.kind == kind and found.reason == str(error or "")
    os.truncate(tmp_path / "ended.json", 5)
    assert read_ended(tmp_path) is None

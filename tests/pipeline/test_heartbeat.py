"""What a rank says of itself, what counts as a hang, and whose fault it is."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import heartbeat
from pipeline.hang import find_hang
from pipeline.heartbeat import Beat, Pulse, read_beat, write_beat


class Clock:
    """Stands for `time.monotonic`."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(heartbeat.time, "monotonic", found)
    return found


def steps(pulse: Pulse, clock: Clock, count: int, forward: float) -> None:
    for step in range(count):
        pulse.phase("data", step)
        pulse.phase("forward")
        clock.now += forward
    pulse.phase("data", count)


def test_a_beat_says_step_phase_sample_and_collective(tmp_path: Path, clock: Clock) -> None:
    pulse = Pulse()
    assert read_beat(tmp_path) is None
    pulse.explain("data", lambda: "davis/cows")
    pulse.phase("data", 12)
    clock.now = 47.0
    write_beat(tmp_path, pulse.now(0))
    found = read_beat(tmp_path)
    assert found is not None and found.text == "step 12, data for 47 s (davis/cows)"
    assert (tmp_path / "heartbeat").read_text().startswith('{"rank": 0, "step": 12')
    with pulse.collective("sum of the gradients"):
        write_beat(tmp_path, pulse.now(1))
    found = read_beat(tmp_path, 1)
    assert found is not None and "sum of the gradients (collective 1)" in found.text
    assert pulse.now(1).collective == "" and pulse.now(1).number == 1


def test_the_first_steps_may_take_long_and_later_ones_ten_times_the_longest(clock: Clock) -> None:
    pulse = Pulse()
    assert pulse.limit() == float("inf"), "only training is watched"
    with pulse.watched(45.0, 1800.0, 3600.0):
        steps(pulse, clock, 1, forward=300.0)
        pulse.phase("forward")
        assert pulse.limit() == 1800.0
        steps(pulse, clock, 2, forward=1.0)
        pulse.phase("forward")
        assert pulse.limit() == 1800.0, "one that counts is not enough to know"
        steps(pulse, clock, 2, forward=1.0)
        pulse.phase("forward")
        assert pulse.limit() == 45.0, "the first ones compiled and do not count"
        clock.now += 20.0
        pulse.phase("backward")
        steps(pulse, clock, 3, forward=20.0)
        pulse.phase("forward")
        assert pulse.limit() == 200.0
        pulse.phase("validation")
        assert pulse.limit() == 1800.0
        pulse.phase("save")
        assert pulse.limit() == 5400.0, "storage has its own time, and the saver its own rule"
    assert pulse.limit() == float("inf")


def test_steps_that_take_long_from_the_first_are_no_hang(clock: Clock) -> None:
    """60 s each, on a CPU; batches in bursts, where eight workers are equally slow."""
    pulse = Pulse()
    with pulse.watched(45.0, 1800.0, 0.0):
        for step in range(20):
            pulse.phase("data", step)
            clock.now += 0.0 if step % 8 else 100.0
            assert not pulse.now(0).overdue, step
            pulse.phase("forward")
            clock.now += 60.0
            assert not pulse.now(0).overdue, step


def test_what_is_being_compiled_may_take_long_and_what_was_compiled_not() -> None:
    """Also in the backward pass, which has a thread of its own on a GPU."""
    seen: dict[str, bool] = {}

    def look(name: str) -> None:
        with ThreadPoolExecutor(1) as other:  # as the watcher does
            seen[name] = other.submit(heartbeat._compiling).result()

    def compiler(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> Callable[..., Any]:
        look("compiling")

        def run(*given: torch.Tensor) -> Any:
            look("running")
            return graph(*given)

        return run

    function = torch.compile(lambda x: x + 1, backend=compiler)
    function(torch.ones(2))
    assert seen == {"compiling": True, "running": False}
    seen.clear()
    with ThreadPoolExecutor(1) as backward:
        torch._dynamo.reset()
        backward.submit(function, torch.ones(3)).result()
    assert seen == {"compiling": True, "running": False}


def test_time_in_which_the_process_did_not_run_does_not_count(clock: Clock) -> None:
    pulse = Pulse()
    with pulse.watched(45.0, 100.0, 0.0):
        pulse.phase("data", 0)
        clock.now += 500.0
        assert pulse.now(0).overdue
        pulse.forgive(450.0)
        assert not pulse.now(0).overdue


def beat(rank: int, number: int, inside: bool, seconds: float = 50.0, age: float = 0.0) -> Beat:
    return Beat(
        rank=rank, step=7, phase="reduce" if inside else "data", seconds=seconds, limit=45.0,
        collective="sum" if inside else "", number=number, time=time.time() - age,
        detail="" if inside else "clip 3",
    )  # fmt: skip


def test_who_is_to_blame() -> None:
    waiting = beat(0, 9, inside=True)
    alone = find_hang(beat(0, 9, inside=False), {}, 1)
    assert alone is not None and (alone.rank, alone.message) == (
        0, "hangs: step 7, data for 50 s (clip 3)"
    )  # fmt: skip
    found = find_hang(waiting, {1: beat(1, 8, inside=False)}, 2)
    assert found is not None and found.rank == 1 and "data" in found.message
    patient = find_hang(waiting, {1: beat(1, 8, inside=False, seconds=40.0)}, 2)
    assert patient is None, "the other one may still be within its time"
    frozen = find_hang(waiting, {1: beat(1, 8, inside=False, seconds=1.0, age=40.0)}, 2)
    assert frozen is not None and frozen.rank == 1 and "no sign of life for 40 s" in frozen.message
    network = find_hang(waiting, {1: beat(1, 9, inside=True)}, 2)
    assert network is not None and "all 2 ranks are in a collective" in network.message
    absent = find_hang(waiting, {}, 2)
    assert absent is not None and absent.rank == 1 and "has not begun" in absent.message

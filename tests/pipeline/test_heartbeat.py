"""What a rank says of itself, what counts as a hang, and whose fault it is."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import failure, heartbeat
from pipeline import watcher as watching
from pipeline.errors import StageError
from pipeline.failure import note_failure
from pipeline.hang import Peer, Peers, find_hang
from pipeline.heartbeat import Beat, Pulse, beats, read_beat, write_beat
from pipeline.watcher import Watcher


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


def beat(rank: int, number: int, inside: bool, seconds: float = 50.0) -> Beat:
    return Beat(
        rank=rank, step=7, phase="reduce" if inside else "data", seconds=seconds, limit=45.0,
        collective="sum" if inside else "", number=number, detail="" if inside else "clip 3",
    )  # fmt: skip


def test_who_is_to_blame() -> None:
    waiting = beat(0, 9, inside=True)
    alone = find_hang(beat(0, 9, inside=False), {}, 1)
    assert alone is not None and (alone.rank, alone.message) == (
        0, "hangs: step 7, data for 50 s (clip 3)"
    )  # fmt: skip
    found = find_hang(waiting, {1: Peer(beat(1, 8, inside=False))}, 2)
    assert found is not None and found.rank == 1 and "data" in found.message
    patient = find_hang(waiting, {1: Peer(beat(1, 8, inside=False, seconds=40.0))}, 2)
    assert patient is None, "the other one may still be within its time"
    frozen = find_hang(waiting, {1: Peer(beat(1, 8, inside=False, seconds=1.0), 40.0)}, 2)
    assert frozen is not None and frozen.rank == 1 and "no sign of life for 40 s" in frozen.message
    network = find_hang(waiting, {1: Peer(beat(1, 9, inside=True))}, 2)
    assert network is not None and "all 2 ranks are in a collective" in network.message
    absent = find_hang(waiting, {}, 2)
    assert absent is not None and absent.rank == 1 and "has not begun" in absent.message


@pytest.mark.parametrize("wrong", [-3600.0, 0.0, 3600.0])
def test_the_clocks_of_other_machines_do_not_matter(
    tmp_path: Path, clock: Clock, wrong: float
) -> None:
    """Rank 1 lives, rank 2 froze, rank 3 left its word in an earlier life; all by a wrong clock."""
    said = time.time() + wrong

    def speak(rank: int) -> None:
        write_beat(tmp_path, replace(beat(rank, 8, inside=False, seconds=1.0), time=said + clock()))

    speak(3)
    peers = Peers(tmp_path, 0, 4)
    assert peers.look() == {}
    speak(2)
    for clock.now in range(0, 45, 5):
        speak(1)
        found = peers.look()
    assert {rank: peer.silent for rank, peer in found.items()} == {1: 0.0, 2: 40.0}
    waiting = beat(0, 9, inside=True)
    hang = find_hang(waiting, {1: found[1], 2: found[2]}, 3)
    assert hang is not None and "no sign of life for 40 s" in hang.message and hang.rank == 2
    hang = find_hang(waiting, {1: found[1]}, 2)
    assert hang is None, "it is not overdue, and speaks"


@pytest.mark.parametrize("wrong", [-3600.0, 3600.0])
def test_a_failure_of_an_earlier_life_ends_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: float
) -> None:
    now = time.time()
    monkeypatch.setattr(failure.time, "time", lambda: now + wrong)
    note_failure(tmp_path, 1, StageError("connection closed by peer"))
    watcher = Watcher(tmp_path, tmp_path, 0, 2, local=False, leased=False)
    watcher._look_at_failures(0.0)
    assert watcher.peer_end_at == float("inf")
    note_failure(tmp_path, 1, StageError("connection closed by peer again"))
    watcher._look_at_failures(0.0)
    assert watcher.peer_end_at == watching.PEER_SECONDS


def test_a_heart_beats_when_its_file_changes_whatever_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 1.2)
    assert not beats(tmp_path)
    file = tmp_path / "heartbeat"
    file.touch()
    os.utime(file, (0, time.time() - 1800))
    assert not beats(tmp_path)
    with ThreadPoolExecutor(1) as job:
        job.submit(lambda: (time.sleep(0.2), os.utime(file, (0, time.time() - 1795))))
        assert beats(tmp_path)

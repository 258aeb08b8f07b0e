"""Saving beside the training: what it waits for, what is kept, and what happens where nothing can be
written."""

import errno
import logging
import os
import re
import resource
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import checkpoint, saving
from pipeline.checkpoint import TrainState
from pipeline.checkpoint_list import COPY, Entry, Keep, listed
from pipeline.distributed import World
from pipeline.errors import ConfigError, StageError
from pipeline.loop import Hooks, fit
from pipeline.saving import Saver
from pipeline.settings import LoopConfig
from tests.pipeline import toy
from tests.pipeline.toy import TOTAL

NO_ROOM = os.strerror(errno.ENOSPC)


def train(folder: Path, hooks: Hooks | None = None, **settings: Any) -> TrainState:
    _, state = toy.fresh()
    config = LoopConfig(log_every=5, **{"save_every": 2, **settings})
    task, batches = toy.ToyTask(state.model), toy.batches(0, TOTAL)
    return fit(task, batches, state, config, total=TOTAL, clip=1.0, folder=folder, hooks=hooks)


def at(step: int, call: Any) -> tuple[int, Any]:
    """A hook that calls once, after that step."""
    return 1, lambda state: call() if state.step == step else None


def steps(folder: Path) -> list[int]:
    return [entry.step for entry in listed(folder)]


class Gate:
    """Holds `checkpoint.write` up until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.inside, self.most = threading.Event(), 0, 0
        write = checkpoint.write

        def held(*arguments: Any, **options: Any) -> Entry:
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.open.wait(60)
            self.inside -= 1
            return write(*arguments, **options)

        monkeypatch.setattr(checkpoint, "write", held)


def test_training_waits_for_the_copy_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    _, state = toy.fresh()
    state.step = 1
    with Saver(tmp_path, LoopConfig(save_seconds=0.0), World()) as saver:
        assert saver.due(1)
        saver.save(state)
        assert saver.writing.busy and not saver.due(2), "by age none is begun meanwhile"
        before = toy.weights(state.model)
        for parameter in state.model.parameters():
            parameter.data.add_(1.0)
        assert steps(tmp_path) == [] and saver.safe_step == 0
        gate.open.set()
        saver.wait()
        assert saver.safe_step == 1 and saver.save_seconds >= saver.stall_seconds
    assert toy.equal(checkpoint.read(tmp_path / "step-00000001.pt")["model"], before)


def test_one_at_a_time_in_buffers_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    threading.Timer(0.3, gate.open.set).start()
    _, state = toy.fresh()
    with Saver(tmp_path, LoopConfig(), World()) as saver:
        places = []
        for state.step in (1, 2, 3):
            saver.save(state)
            places.append({name: item.data_ptr() for name, item in saver.host.buffers.items()})
        saver.wait()
    assert gate.most == 1 and places[0] == places[1] == places[2]
    assert steps(tmp_path) == [2, 3]


def test_a_run_that_fails_lets_the_last_one_be_written(tmp_path: Path) -> None:
    def fail() -> None:
        raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        train(tmp_path, Hooks(every=[at(5, fail)]))
    assert steps(tmp_path)[-1] == 4


@pytest.mark.parametrize("place", ["weights", "moments"])
def test_what_is_not_finite_is_never_written(
    tmp_path: Path, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    _, state = toy.fresh()

    def spoil(value: float) -> None:
        if place == "weights":
            state.model.idle.weight.data[0, 0] = value
        else:
            state.optimizer.state[state.model.head.bias]["exp_avg"].fill_(value)

    loss = toy.ToyTask(state.model).losses(next(toy.batches(0, 1)), 0, 1.0)
    loss.total.backward()
    state.optimizer.step()
    with Saver(tmp_path, LoopConfig(keep=9), World()) as saver:
        for state.step, value in ((1, 0.0), (2, float("nan")), (3, float("inf")), (4, 0.0)):
            spoil(value)
            saver.save(state, wait=True)
            assert saver.safe_step == (state.step if value == 0.0 else 1)
    assert steps(tmp_path) == [1, 4] and all(entry.finite for entry in listed(tmp_path))
    assert caplog.text.count("not finite") == 1 and "written again" in caplog.text


def test_the_end_of_training_has_to_be_saved(tmp_path: Path) -> None:
    def spoil(state: TrainState) -> None:
        state.model.idle.weight.data.fill_(float("nan"))

    with pytest.raises(
        StageError, match=r"step 12 could not be saved.*not finite.*Step 10 is safe"
    ):
        train(tmp_path, Hooks(every=[(11, spoil)]))


def entry(step: int, score: float | None = None) -> Entry:
    return Entry(f"step-{step:08d}.pt", step, {}, score=score)


def test_what_is_kept() -> None:
    entries = [entry(1), entry(2, 0.9), entry(3, 0.5), entry(4), entry(5, 0.1), entry(6)]

    def chosen(**settings: Any) -> list[int]:
        return [item.step for item in Keep(**settings).chosen(entries)]

    assert chosen() == [5, 6]
    assert chosen(last=1, every=3) == [3, 6]
    assert chosen(last=1, best=True) == [2, 6]
    assert chosen(last=3, every=2, best=True) == [2, 4, 5, 6]
    assert chosen(last=0) == [6], "the newest always is"
    assert chosen(last=1, needed=(0, 3, 4)) == [3, 4, 6]
    entries.pop(2)
    assert chosen(last=1, needed=(3,)) == [2, 6], "the newest at or before it"


def test_kept_by_steps_and_by_score(tmp_path: Path) -> None:
    """The best so far is saved when it is found, and kept until there is a better one."""
    scores = {1: 0.2, 3: 0.7, 5: 0.4, 9: 0.7}

    def validate(state: TrainState) -> None:
        if state.step in scores:
            state.scored = (state.step, scores[state.step])

    hooks = Hooks(every=[(1, validate)])
    train(tmp_path, hooks, save_every=100, keep=1, keep_every=5, keep_best=True)
    assert steps(tmp_path) == [3, 5, 10, 12]
    assert [item.score for item in listed(tmp_path)] == [0.7, 0.4, None, None]
    with Saver(tmp_path, LoopConfig(keep_best=True), World()) as saver:
        assert saver.best == 0.7, "a restart remembers"


def test_only_the_rank_that_writes_knows_how_much_would_be_lost(tmp_path: Path) -> None:
    """The others hear that one has failed, not when the last good one was written."""
    for rank, late in ((0, True), (1, False)):
        saver = Saver(tmp_path, LoopConfig(unsaved_minutes=1.0), World(rank=rank, size=2))
        saver.safe_at -= 90.0
        saver.problem = "No space left"
        assert saver.late() == late


def test_settings_that_make_no_sense_are_refused() -> None:
    for settings in ({"keep_every": -1}, {"unsaved_minutes": -1.0}, {"mirror": "file:///x"}):
        with pytest.raises(ConfigError, match=next(iter(settings))):
            LoopConfig(**settings)


def test_going_back(tmp_path: Path) -> None:
    """To the newest intact one before a step; what comes later is given up at the next save."""
    _, state = toy.fresh()
    with Saver(tmp_path, LoopConfig(keep=9), World()) as saver:
        assert saver.roll_back(state, before=9) is None
        for state.step in (2, 4, 6):
            state.model.head.bias.data.fill_(float(state.step))
            saver.save(state)
        saver.wait()
        (tmp_path / "step-00000004.pt").write_bytes(b"")
        assert saver.roll_back(state, before=6) == 2 and saver.safe_step == 2
        assert state.step == 2 and state.model.head.bias.item() == 2.0
        state.step = 3
        saver.save(state, wait=True)
    assert steps(tmp_path) == [2, 3]


def settled(folder: Path, step: int) -> None:
    """Wait until that checkpoint is there, and all that is written with it."""
    until = time.monotonic() + 60
    while not (folder / COPY).exists() or f'"step": {step},' not in (folder / COPY).read_text():
        assert time.monotonic() < until
        time.sleep(0.01)
    time.sleep(0.05)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real disk of 128 kB; checkpoints of the toy take 15."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting needs root")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path) -> None:
    """After step 2 is saved."""
    settled(disk / "run", 2)
    with pytest.raises(OSError, match=NO_ROOM), open(disk / "ballast", "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def test_a_full_disk_that_is_mended(
    small_disk: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    straight = train(tmp_path / "straight")
    mended = (small_disk / "ballast").unlink
    folder, found = small_disk / "run", []
    hooks = [
        at(3, lambda: fill(small_disk)),
        at(9, lambda: found.append(steps(folder))),
        at(9, mended),
    ]
    state = train(folder, Hooks(every=hooks))
    assert toy.equal(toy.weights(state.model), toy.weights(straight.model))
    assert found == [[2]] and steps(folder) == [10, TOTAL]
    warnings = [item.getMessage() for item in caplog.records if item.levelno == logging.WARNING]
    assert len(warnings) == 2, "once when it begins and once when it is over"
    assert NO_ROOM in warnings[0] and "step 4 was not saved" in warnings[0]
    assert "step 2 is safe" in warnings[0] and "free in" in warnings[0]
    assert re.search("written again: step (8|10) is safe", warnings[1])
    assert not list(folder.glob(".*"))


def test_a_full_disk_that_is_not_mended(small_disk: Path) -> None:
    """Training stops before it would lose more than allowed, and says what it left."""
    folder = small_disk / "run"
    with pytest.raises(StageError) as raised:
        train(folder, Hooks(every=[at(3, lambda: fill(small_disk))]), unsaved_minutes=0.0)
    said = str(raised.value)
    assert NO_ROOM in said and str(folder) in said and "Step 2 is safe" in said
    assert "are free in" in said and "\n" not in said
    _, state = toy.fresh()
    assert checkpoint.resume(state, folder) and state.step == 2


def test_a_folder_that_becomes_read_only(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def remount(how: str) -> None:
        settled(small_disk / "run", 2)
        command = ["mount", "-o", f"remount,{how}", str(small_disk)]
        while subprocess.run(command, capture_output=True, check=False).returncode:
            time.sleep(0.05)  # while a file is open for writing

    hooks = [at(3, lambda: remount("ro")), at(9, lambda: remount("rw"))]
    train(small_disk / "run", Hooks(every=hooks))
    assert steps(small_disk / "run") == [10, TOTAL]
    assert os.strerror(errno.EROFS) in caplog.text and "written again" in caplog.text


def test_a_quota(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Files may not grow beyond 4 kB for a while, as far as the system is concerned."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size: int) -> None:
        settled(tmp_path, 2)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))

    try:
        train(tmp_path, Hooks(every=[at(3, lambda: limit(4096)), at(9, lambda: limit(limits[0]))]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert steps(tmp_path) == [10, TOTAL]
    assert os.strerror(errno.EFBIG) in caplog.text and "written again" in caplog.text


def test_storage_that_never_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    monkeypatch.setattr(saving, "HUNG_SECONDS", 0.2)
    monkeypatch.setattr(saving, "CLOSE_SECONDS", 0.1)
    with pytest.raises(StageError, match=r"has not ended.*Step 0 is safe"):
        train(tmp_path, unsaved_minutes=0.0)
    gate.open.set()


def test_the_copy_is_of_everything_and_on_the_cpu() -> None:
    from pipeline.staging import HostCopy, all_finite

    whole = torch.arange(6.0).reshape(2, 3)
    values = {"a": whole.t(), "b": [{"c": torch.ones(0)}, (1, "x")], "d": torch.ones(2, dtype=int)}
    copied = HostCopy().of(values)
    assert torch.equal(copied["a"], whole.t()) and copied["b"][1] == (1, "x")
    whole.zero_()
    assert copied["a"].sum() == 15 and copied["a"].untyped_storage().nbytes() == 24
    assert all_finite(values) and not all_finite({"x": [torch.tensor([1.0, float("nan")])]})
    assert not all_finite({"x": torch.tensor(float("-inf"), dtype=torch.bfloat16)})
    assert all_finite({"x": torch.full((9,), 3e38)}), "though their sum is not"
    assert not all_finite({"x": torch.tensor([float("inf"), -float("inf")])})

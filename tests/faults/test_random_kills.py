"""Killed at fifty moments and started again each time, a run ends with the weights of one that was
not."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.checkpoint import latest_valid
from pipeline.launch import read_handle
from pipeline.owner import is_alive
from pipeline.storage import read_json
from tests.faults.conftest import Run, same

KILLS = 50
GIVEN = {"steps": 150, "pause": 0.004, "loop": {"save_every": 3, "log_every": 3}}


class Killer(threading.Thread):
    """SIGKILL, some time after a run has begun, to all its processes or to one of its ranks."""

    def __init__(self, run: Run, seconds: float, target: int | None, saving: bool) -> None:
        """target: the rank; None for the whole job. saving: wait for a checkpoint that is being
        written."""
        super().__init__(daemon=True)
        self.run_, self.seconds, self.target, self.saving = run, seconds, target, saving
        self.struck, self.in_a_save = False, False
        self.over = threading.Event()
        self.before = read_handle(run.folder)

    def run(self) -> None:
        """Strike, unless the job is over first."""
        while not self._at_work() and not self.over.is_set():
            time.sleep(0.005)
        self.over.wait(self.seconds)
        until = time.monotonic() + 1.0
        while self.saving and not self._parts() and time.monotonic() < until:
            if self.over.is_set():
                return
        self.in_a_save = bool(self._parts())
        self._strike()

    def _at_work(self) -> bool:
        identities = [read_json(self.run_.folder / f"task-{rank}.json") for rank in range(2)]
        return read_handle(self.run_.folder) not in (None, self.before) and all(
            identity and is_alive(identity) for identity in identities
        )

    def _parts(self) -> list[Path]:
        return list((self.run_.folder / "checkpoints").glob(".*.part"))

    def _strike(self) -> None:
        handle = read_handle(self.run_.folder)
        if self.over.is_set() or handle is None or handle == self.before:
            return
        try:
            if self.target is None:
                os.killpg(handle.pid, signal.SIGKILL)
            else:
                identity = read_json(self.run_.folder / f"task-{self.target}.json") or {}
                psutil.Process(int(identity["pid"])).kill()
            self.struck = True
        except (ProcessLookupError, psutil.NoSuchProcess, KeyError):
            pass


@pytest.mark.slow
@pytest.mark.timeout(300, func_only=True)
def test_killed_at_fifty_moments_it_ends_with_the_same_weights(start: Any) -> None:
    straight = start(name="straight", **GIVEN)
    straight.to_its_end()
    run, draw = start(**GIVEN), random.Random(6)
    kills, in_saves, reached, runs = 0, 0, 0, 0
    while kills < KILLS:
        target = draw.choice((None, None, None, 0, 1))
        killer = Killer(run, draw.uniform(0.0, 0.25), target, saving=draw.random() < 0.4)
        killer.start()
        done = run.launch()
        killer.over.set()
        killer.join()
        kills, in_saves = kills + killer.struck, in_saves + (killer.struck and killer.in_a_save)
        if done:  # it was quicker: the same once more, until all kills are spent
            assert same(run, straight)
            run.check_leftovers()
            runs += 1
            run = start(name=f"run-{runs}", **GIVEN)
            reached = 0
            continue
        run.check_checkpoints()
        found = _newest(run)
        assert found >= reached, "a checkpoint was lost"
        reached = found
    assert run.launch()
    assert same(run, straight)
    assert run.result["notes"] == straight.result["notes"]
    run.check_leftovers()
    assert in_saves >= 5, f"only {in_saves} of {KILLS} kills fell into a save"


def _newest(run: Run) -> int:
    found = latest_valid(run.folder / "checkpoints")
    return 0 if found is None else int(found.stem.split("-")[1])

"""Requeues are not counted while there is progress; ten in a row without any are enough."""

import os
from pathlib import Path
from typing import Any

import pytest
import submitit

from pipeline.failure import SHARDS, noted_failures, wants_another_life
from pipeline.job import Job
from pipeline.lives import IDLE_LIVES, enough
from pipeline.progress import ProgressWriter
from pipeline.stop import StopRequested


def test_progress_buys_another_life(tmp_path: Path) -> None:
    for step in range(30):  # far more than submitit would allow
        ProgressWriter(tmp_path, total=1000, start=step)
        assert enough(tmp_path, tmp_path, "7", "received SIGUSR2") == ""
    for _ in range(IDLE_LIVES - 1):
        assert enough(tmp_path, tmp_path, "7", "received SIGUSR2") == ""
    trouble = enough(tmp_path, tmp_path, "7", "received SIGUSR2")
    assert "10 times in a row without getting beyond step 29 (received SIGUSR2)" in trouble
    assert "launch.timeout_minutes" in trouble
    assert enough(tmp_path, tmp_path, "8", "received SIGUSR2") == ""  # another task of an array


def advance(work: tuple[str, int]) -> None:
    """A life of a shard: it comes to a step, and is preempted before it is done."""
    folder, step = work
    if step < 0:
        return
    ProgressWriter(folder, total=1000, start=step)
    raise StopRequested("received SIGUSR2", requeue=True)


class Tasks:
    """The tasks of an array, one after the other in this process."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.logs = folder, folder / "logs" / "1"
        self.logs.mkdir(parents=True)
        self.environment = monkeypatch.setenv
        for name, value in {
            "SUBMITIT_EXECUTOR": "slurm", "SUBMITIT_FOLDER": str(self.logs), "SLURM_JOB_ID": "9",
            "SLURM_ARRAY_JOB_ID": "9", "SLURM_JOB_END_TIME": "9999999999",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)

    def shard(self, number: int) -> Path:
        return self.folder / f"{number}-of-2"

    def live(self, number: int, step: int) -> None:
        """A life of one of them."""
        self.environment("SLURM_ARRAY_TASK_ID", str(number))
        self.logs.joinpath(f"9_{number}_submitted.pkl").touch()
        shard = self.shard(number)
        shard.mkdir(exist_ok=True)
        work = (str(shard), step)
        Job(advance, work, str(self.folder), str(self.logs), leased=False, shard=str(shard))()


def test_every_task_of_an_array_has_its_own_lives_and_last_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = Tasks(tmp_path, monkeypatch)
    environment: Any = submitit.slurm.slurm.SlurmJobEnvironment
    monkeypatch.setattr(environment, "_requeue", lambda *_: None)
    for step in range(2 * IDLE_LIVES):  # preempted again and again, but it gets on
        with pytest.raises(SystemExit):
            tasks.live(1, step)
    assert wants_another_life(tmp_path, str(tasks.logs)) is not None

    def refuse(*_: object) -> None:
        raise OSError("no scontrol in this image")

    monkeypatch.setattr(environment, "_requeue", refuse)
    with pytest.raises(StopRequested):
        tasks.live(1, 99)
    tasks.live(2, -1)
    assert sorted(path.name for path in tmp_path.glob(SHARDS)) == ["1-of-2", "2-of-2"]
    assert noted_failures(tasks.shard(1))[0].stopped and not noted_failures(tasks.shard(2))
    again = wants_another_life(tmp_path, str(tasks.logs))
    assert again is not None and again.reason == "received SIGUSR2"
    assert wants_another_life(tmp_path, str(tmp_path / "logs" / "2")) is None
    tasks.live(1, -1)
    assert wants_another_life(tmp_path, str(tasks.logs)) is None
    assert not os.listdir(tmp_path / "logs" / "1")[2:], "what they say lies with the shards"

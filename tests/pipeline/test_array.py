"""Shards: each is run once, the one that fails is named, and all end together when asked to."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.array import launch_array, shard_folders
from pipeline.errors import StageError
from pipeline.progress import Progress
from pipeline.settings import LaunchConfig
from pipeline.stop import StopRequested
from tests.pipeline import jobs


def config(launcher: str, **values: int) -> LaunchConfig:
    return LaunchConfig(launcher=launcher, threads=1, poll_seconds=0.05, **values)


def ran(folder: Path, number: int) -> int:
    return len((folder / f"ran-{number}").read_text())


@pytest.mark.parametrize("launcher", ["inline", "local"])
def test_only_what_failed_is_run_again(tmp_path: Path, launcher: str) -> None:
    work = [(number, str(tmp_path)) for number in (2, -3, 4, 5)]

    def square(key: str = "") -> list[int]:
        chosen = config(launcher, parallel=2)
        return launch_array(jobs.square_once, work, tmp_path / "a", chosen, name="roots", key=key)

    with pytest.raises(StageError, match=r"roots: 1 of 4 shards failed \(shard 2: ValueError: -3"):
        square()
    assert [ran(tmp_path, number) for number in (2, -3, 4, 5)] == [1, 1, 1, 1]
    (tmp_path / "allowed").touch()
    assert square() == square() == [4, 9, 16, 25]
    assert [ran(tmp_path, number) for number in (2, -3, 4, 5)] == [1, 2, 1, 1]
    assert square("other weights") == [4, 9, 16, 25]
    assert ran(tmp_path, 4) == 2
    assert not list((tmp_path / "a").glob("claims-*"))


def test_equal_arguments_are_two_shards(tmp_path: Path) -> None:
    work = [(2, str(tmp_path))] * 3
    found = launch_array(jobs.square_once, work, tmp_path, config("local", parallel=1), name="x")
    assert found == [4, 4, 4] and ran(tmp_path, 2) == 3


def test_the_progress_of_the_whole_and_an_interrupt(tmp_path: Path) -> None:
    seen: list[str] = []

    def listen(progress: Progress | None) -> None:
        assert progress is not None
        seen.append(progress.text)
        if len(list(tmp_path.glob("began-*"))) == 2:  # two at a time
            raise KeyboardInterrupt

    work = [(number, str(tmp_path)) for number in range(3)]
    two = config("local", parallel=2)
    with pytest.raises(KeyboardInterrupt):
        launch_array(jobs.slow_square, work, tmp_path, two, name="x", on_poll=listen)
    assert not (tmp_path / "began-2").exists()
    assert seen[0] == "shard 0/3"
    (tmp_path / "finish").touch()
    assert launch_array(jobs.slow_square, work, tmp_path, two, name="x") == [0, 1, 4]


def test_two_calls_at_once_are_one_array(tmp_path: Path) -> None:
    work = [(number, str(tmp_path)) for number in range(3)]

    def call(listen: Callable[[Progress | None], None]) -> list[int]:
        two = config("local", parallel=2)
        return launch_array(jobs.slow_square, work, tmp_path, two, name="x", on_poll=listen)

    def finish(progress: Progress | None) -> None:
        if (tmp_path / "began-0").exists():
            (tmp_path / "finish").touch()

    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(call, finish) for _ in range(2)]
        assert [one.result() for one in calls] == [[0, 1, 4]] * 2
    assert len(list((tmp_path / "logs").iterdir())) == 1


def test_a_stop_is_no_failure(tmp_path: Path) -> None:
    work = [(number, str(tmp_path)) for number in range(3)]

    def listen(progress: Progress | None) -> None:
        if (tmp_path / "began-0").exists():
            (tmp_path / "stop").touch()

    with pytest.raises(StopRequested):
        one = config("local", parallel=1)
        launch_array(jobs.slow_square, work, tmp_path, one, name="x", on_poll=listen)
    assert not (tmp_path / "began-1").exists()


def test_folders_are_counted_from_one(tmp_path: Path) -> None:
    assert [path.name for path in shard_folders(tmp_path, 2)] == ["1-of-2", "2-of-2"]


def test_a_process_that_dies_is_told(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"x: 1 of 2 shards are not done \(1\): x failed on rank"):
        launch_array(jobs.die_if_odd, [1, 2], tmp_path, config("local", parallel=2), name="x")

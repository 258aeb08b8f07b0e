"""Two ranks that are processes: together they make the bytes of one, and one that has to stop takes
the other along."""

from pathlib import Path

import pytest

from pipeline.errors import StageError
from pipeline.launch import launch
from pipeline.settings import LaunchConfig
from tests.data import lookalikes as like
from tests.data import ranks

TWO = LaunchConfig(tasks_per_node=2, threads=1, poll_seconds=0.1)


@pytest.mark.slow
def test_two_processes_make_the_bytes_of_one(tiny_world: Path, tmp_path: Path):
    first, second = launch(ranks.bytes_of_ranks, str(tiny_world), tmp_path, TWO, name="ranks")
    alone = ranks.bytes_of(str(tiny_world))
    assert len(alone) == len(first) == len(second) == 4
    for whole, *halves in zip(alone, first, second, strict=True):
        assert tuple(sum(part, type(part[0])()) for part in zip(*halves, strict=True)) == whole


@pytest.mark.slow
def test_a_rank_with_too_many_broken_samples_ends_the_job(tmp_path: Path):
    """The other waits for it, with ten minutes of patience: the launcher does not."""
    for rank in (0, 1):
        like.sa1b(tmp_path / f"rank{rank}", count=10)
    for number in (4, 7):
        (tmp_path / f"rank1/sa_{number}.jpg").write_bytes(b"")
    with pytest.raises(StageError, match=r"^images on rank 1: sa1b: 2 of 10 samples are broken"):
        launch(ranks.meet_broken_pictures, str(tmp_path), tmp_path / "job", TWO, name="images")

"""Requeues are not counted while there is progress; ten in a row without any are enough."""

from pathlib import Path

from pipeline.lives import IDLE_LIVES, enough
from pipeline.progress import ProgressWriter


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

"""Functions that run as jobs in the launch tests; importable by name, as submitit needs it."""

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pipeline.progress import ProgressWriter
from pipeline.stop import check_stop


def square(number: int) -> int:
    return number * number


def rank_and_sum(number: int) -> tuple[int, float, str]:
    """Two gloo ranks add their rank + number."""
    from pipeline import distributed

    world = distributed.init("cpu", timeout_seconds=60)
    total = world.mean({"x": float(world.rank + number)})["x"] * world.size
    distributed.shutdown()
    return world.size, total, os.environ["OMP_NUM_THREADS"]


def wait_politely(folder: str) -> str:
    """Work until asked to stop, then leave a mark, as the training loop leaves a checkpoint."""
    Path(folder, f"started-{os.environ['SUBMITIT_LOCAL_GLOBALID']}").write_text(str(os.getpid()))
    progress = ProgressWriter(folder, total=10_000)
    for step in range(10_000):
        progress.update(step)
        if Path(folder, "finish").exists():
            return f"finished in {os.getpid()}"
        try:
            check_stop()
        except Exception:
            Path(folder, f"saved-{os.environ['SUBMITIT_LOCAL_GLOBALID']}").write_text(str(step))
            raise
        time.sleep(0.02)
    raise AssertionError("never asked to stop")


def wait_stubbornly(folder: str) -> None:
    """Ignore every request."""
    Path(folder, "started-0").write_text(str(os.getpid()))
    time.sleep(600)


def fail_on_rank_one(words: str) -> None:
    """Rank 1 fails; rank 0 waits for it in a collective."""
    from pipeline import distributed
    from pipeline.errors import DataError

    world = distributed.init("cpu", timeout_seconds=60)
    if world.rank == 1:
        raise DataError(words)
    world.barrier()


def die_on_rank_one(words: str) -> None:
    """Rank 1 is killed without a word; rank 0 does not notice."""
    if os.environ["SUBMITIT_LOCAL_GLOBALID"] == "1":
        time.sleep(1)  # long enough to have noted its process
        os.kill(os.getpid(), 9)
    time.sleep(600)


def stumble(words: str) -> None:
    raise RuntimeError(words)

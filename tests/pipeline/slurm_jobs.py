"""Functions that run as SLURM jobs in the tests; importable by name, as submitit needs it."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.stop import check_stop
from pipeline.workers import call_each


@dataclass(frozen=True)
class Training:
    """A toy network on all ranks of the job, for so many steps, each of which takes its time."""

    folder: str
    steps: int
    seconds: float


def train(wanted: Training) -> dict[str, Any]:
    """Train, or continue where the life before saved; the weights at the end, as lists."""
    import torch

    from pipeline import checkpoint, distributed
    from pipeline.loop import Hooks, fit
    from pipeline.progress import ProgressWriter
    from pipeline.settings import LoopConfig
    from tests.pipeline import toy

    torch.set_num_threads(1)
    world = distributed.init("cpu", timeout_seconds=60)
    folder = Path(wanted.folder)
    progress = ProgressWriter(folder, wanted.steps)
    model, state = toy.fresh(total=wanted.steps)
    if world.rank == 1:
        model.head.bias.data.add_(5.0)  # the loop starts from rank 0's weights
    checkpoint.resume(state, folder / "checkpoints", world)
    if world.is_first:
        life = len(lives(folder))
        (folder / f"life-{life}").write_text(os.environ.get("SLURM_JOB_NODELIST", ""))
    halves = (
        toy.Batch(batch.x[world.rank : world.rank + 1], batch.names)
        for batch in toy.batches(state.step, wanted.steps, size=2)
    )

    def slowly(now: Any) -> None:
        progress.update(now.step)
        if world.is_first:
            (folder / f"life-{life}-step").write_text(str(now.step))
        time.sleep(wanted.seconds)

    fit(
        toy.ToyTask(model),
        halves,
        state,
        LoopConfig(log_every=5, save_every=4),
        total=wanted.steps,
        clip=1.0,
        folder=folder / "checkpoints",
        world=world,
        hooks=Hooks(every=((1, slowly),)),
    )
    distributed.shutdown()
    return {name: value.tolist() for name, value in toy.weights(model).items()}


def lives(folder: Path) -> list[Path]:
    """One file for every life of a job in `folder`, in order."""
    found = [path for path in folder.glob("life-*") if not path.name.endswith("-step")]
    return sorted(found, key=lambda path: int(path.name.removeprefix("life-")))


def two_lives(folder: str) -> str:
    """The first life goes on until it is asked to stop, the second ends by itself."""
    life = len(lives(Path(folder)))
    Path(folder, f"life-{life}").touch()
    for _ in range(1000 if life == 0 else 1):
        try:
            check_stop()
        except Exception:
            Path(folder, f"saved-{life}").touch()
            raise
        time.sleep(0.1)
    return f"life {life}"


def share_with_workers(folder: str) -> None:
    """Go on with two worker processes until asked to stop; they have to outlive the question."""
    for number, answer in call_each(nap, ((0.3,) for _ in range(1000)), workers=2):
        answer()
        Path(folder, "life-0").touch()
        try:
            check_stop()
        except Exception:
            Path(folder, "saved-0").write_text(str(number))
            raise


def nap(seconds: float) -> None:
    time.sleep(seconds)


def use_up_memory(_: None) -> None:
    """Die as the kernel kills what takes too much memory."""
    os.kill(os.getpid(), 9)


def granted(_: None) -> tuple[str, ...]:
    """GPUs, CPUs of this task and main memory, as SLURM says."""
    names = ("CUDA_VISIBLE_DEVICES", "SLURM_CPUS_PER_TASK", "SLURM_MEM_PER_NODE")
    return tuple(os.environ.get(name, "") for name in names)


def where_am_i(_: None) -> tuple[str, ...]:
    """What the prologue and the prefix of the interpreter left in the environment."""
    return tuple(os.environ.get(name, "") for name in ("FROM_SETUP", "FROM_CONTAINER"))

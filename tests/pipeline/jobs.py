"""Functions that run as jobs in the launch tests; importable by name, as submitit needs it."""

import os
import threading
import time
from pathlib import Path
from typing import Any

from pipeline.environment import env_rank
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
    Path(folder, f"started-{env_rank()}").write_text(str(os.getpid()))
    progress = ProgressWriter(folder, total=10_000)
    for step in range(10_000):
        progress.update(step)
        if Path(folder, "finish").exists():
            return f"finished in {os.getpid()}"
        try:
            check_stop()
        except Exception:
            Path(folder, f"saved-{env_rank()}").write_text(str(step))
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
    world.any(False)  # wait for the others


def die_on_rank_one(words: str) -> None:
    """Rank 1 is killed without a word; rank 0 does not notice."""
    if os.environ["SUBMITIT_LOCAL_GLOBALID"] == "1":
        time.sleep(1)  # long enough to have noted its process
        os.kill(os.getpid(), 9)
    time.sleep(600)


def leave_a_thread(value: int) -> int:
    """Done, but for a thread that Python waits for."""
    threading.Thread(target=time.sleep, args=(600,)).start()
    return value


def stumble(words: str) -> None:
    raise RuntimeError(words)


def train_on_two_ranks(folder: str) -> dict[str, Any]:
    """What test_distributed asks of two gloo ranks, in one job to save start-ups."""
    import torch

    from pipeline import distributed, stop
    from pipeline.loop import Hooks, fit
    from pipeline.settings import LoopConfig
    from tests.pipeline import toy

    torch.set_num_threads(1)
    world = distributed.init("cpu", timeout_seconds=60)
    found: dict[str, Any] = {"size": world.size, "gathered": world.gather(world.rank)}
    found["shared"] = world.share(f"from {world.rank}")
    found["mean"] = world.mean({"both": float(world.rank), f"only {world.rank}": 7.0})
    found["any"] = [world.any(world.rank == 1), world.any(False)]

    def fit_half(
        name: str, bad: tuple[str, ...] = (), hooks: Hooks | None = None, shared: bool = False
    ) -> Any:
        """Rank r takes row r of every batch of two."""
        model, state = toy.shared(world) if shared else toy.fresh()
        if world.rank == 1:
            model.head.bias.data.add_(5.0)  # the loop starts from rank 0's weights
        halves = (
            toy.Batch(batch.x[world.rank : world.rank + 1], batch.names)
            for batch in toy.batches(0, toy.TOTAL, size=2)
        )
        task = toy.ToyTask(model, bad if world.rank == 1 else ())
        options = {"total": toy.TOTAL, "clip": 1.0, "folder": f"{folder}/{name}", "world": world}
        try:
            fit(task, halves, state, LoopConfig(log_every=5), hooks=hooks, **options)
        except stop.StopRequested as error:
            found[f"{name}.stopped"] = world.gather((state.step, str(error)))
        whole = dict(state.sharding.whole(model)) if state.sharding else toy.weights(model)
        found[name] = {key: value.tolist() for key, value in whole.items()}
        found[f"{name}.equal"] = len({str(part) for part in world.gather(found[name])}) == 1
        return state

    fit_half("plain")
    fit_half("sharded", shared=True)
    for name, shared in (("bad", False), ("bad sharded", True)):
        state = fit_half(name, bad=("clip4",), shared=shared)
        found[f"{name}.skipped"] = world.gather(state.skipped)
    found["gradients"] = gradients_of_two_ranks(world)

    def stop_rank_one(state: Any) -> None:
        if world.rank == 1:
            stop.request_stop("rank 1 was told")

    fit_half("stop", hooks=Hooks(every=((4, stop_rank_one),)))
    stop.reset_stop()
    distributed.shutdown()
    return found


def gradients_of_two_ranks(world: Any) -> list[tuple[Any, Any]]:
    """Ours and DistributedDataParallel's, for batches that use `side` on rank 1, on both, on none."""
    import torch
    from torch import nn

    from pipeline import distributed
    from tests.pipeline import toy

    class Forward(nn.Module):
        """The loss of a batch as a module's forward, as the wrapper wants it."""

        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, batch: toy.Batch) -> torch.Tensor:
            return toy.ToyTask(self.model).losses(batch, 0, float(len(batch.x))).total

    found = []
    for numbers in ((1, 3), (0, 3), (1, 2)):
        batch = toy.Batch(toy.sample(world.rank)[None], (f"clip{numbers[world.rank]}",))
        ours, theirs = Forward(toy.Toy()), Forward(toy.Toy())
        ours(batch).backward()
        parameters = list(ours.parameters())
        distributed.average_gradients(world, parameters, torch.zeros(()))
        wrapper = nn.parallel.DistributedDataParallel(theirs, find_unused_parameters=True)
        wrapper(batch).backward()
        pair = [
            {
                name: None if item.grad is None else item.grad.tolist()
                for name, item in module.model.named_parameters()
            }
            for module in (ours, theirs)
        ]
        found.append((pair[0], pair[1]))
    return found


def preempted(folder: str) -> tuple[int, int]:
    """Counts its lives; in the first it is told SIGUSR2, as SLURM does, and saves."""
    import signal

    life = len(list(Path(folder).glob("life-*")))
    Path(folder, f"life-{life}").touch()
    if life == 0:
        os.kill(os.getpid(), signal.SIGUSR2)
        time.sleep(0.05)
        check_stop()
    return life, os.getpid()


def square_once(work: tuple[int, str]) -> int:
    """Notes that it ran; fails for a number that has no `allowed` file beside it."""
    number, folder = work
    with open(Path(folder, f"ran-{number}"), "a") as file:
        file.write("x")
    if number < 0 and not Path(folder, "allowed").exists():
        raise ValueError(f"{number} has no root")
    return number * number


def slow_square(work: tuple[int, str]) -> int:
    """Works until it is asked to stop, unless `finish` lies in the folder."""
    number, folder = work
    Path(folder, f"began-{number}").touch()
    progress = ProgressWriter(Path(folder, f"{number + 1}-of-3"), total=10)
    progress.update(5)
    for _ in range(3000):
        if Path(folder, "finish").exists():
            return number * number
        check_stop()
        time.sleep(0.02)
    raise AssertionError("never asked to stop")


def die_if_odd(number: int) -> int:
    """Killed without a word, as by the kernel."""
    if number % 2:
        time.sleep(1)  # long enough to have noted its process
        os.kill(os.getpid(), 9)
    return number

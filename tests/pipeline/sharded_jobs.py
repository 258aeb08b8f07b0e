"""What the ranks of the tests of sharded checkpoints do."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from pipeline import checkpoint, checkpoint_parts, distributed
from pipeline.average import WeightAverage
from pipeline.checkpoint import TrainState
from pipeline.distributed import World
from pipeline.loop import fit
from pipeline.precision import LossScale
from pipeline.saving import Saver
from pipeline.settings import LoopConfig
from tests.pipeline import toy

ROWS = 6
"""Samples of a step, over all ranks."""


def state_of(world: World, kind: str) -> TrainState:
    """kind: `sharded` or `replicated`; with everything a checkpoint can hold."""
    model, state = toy.shared(world) if kind == "sharded" else toy.fresh()
    shards = state.sharding.shards if state.sharding else None
    state.scale, state.average = LossScale(), WeightAverage(model, 0.9, shards)
    return state


def data(world: World, start: int, stop: int) -> Iterator[toy.Batch]:
    own = slice(world.rank * ROWS // world.size, (world.rank + 1) * ROWS // world.size)
    for batch in toy.batches(start, stop, size=ROWS):
        yield toy.Batch(batch.x[own], batch.names)


def train(world: World, kind: str, folder: str | Path, steps: int, **settings: Any) -> TrainState:
    """Begin, or continue what is in `folder`, until `steps` are done."""
    state = state_of(world, kind)
    checkpoint.resume(state, folder, world)
    config = LoopConfig(log_every=1, **{"keep": 9, **settings})
    task = toy.ToyTask(state.model)
    batches = data(world, state.step, steps)
    return fit(task, batches, state, config, total=steps, clip=1.0, folder=folder, world=world)


def ranks_train(plan: str) -> None:
    """plan: JSON list of [kind, folder, steps, settings]; each is trained in turn."""
    torch.set_num_threads(1)
    world = distributed.init("cpu", timeout_seconds=60)
    for kind, folder, steps, settings in json.loads(plan):
        train(world, kind, folder, steps, **settings)
    distributed.shutdown()


def one_rank_cannot_write(folder: str) -> None:
    """Rank 1's disk has no room for its part of step 4."""
    torch.set_num_threads(1)
    world = distributed.init("cpu", timeout_seconds=60)
    write_plain = checkpoint_parts.write_plain

    def full(values: Any, path: Path) -> Any:
        if world.rank == 1 and "00000004" in str(path):
            raise OSError("no room")
        return write_plain(values, path)

    checkpoint_parts.write_plain = full
    state = train(world, "sharded", folder, 8, save_every=2)
    assert len({str(part) for part in world.gather(state.step)}) == 1
    distributed.shutdown()


def one_rank_is_not_finite(folder: str) -> None:
    """The rows of rank 1 go bad between steps 2 and 4."""
    torch.set_num_threads(1)
    world = distributed.init("cpu", timeout_seconds=60)
    state = state_of(world, "sharded")
    assert state.sharding is not None
    with Saver(folder, LoopConfig(), world) as saver:
        for state.step in (2, 4):
            saver.save(state, wait=True)
            assert saver.safe_step == 2
            if world.rank == 1:
                state.sharding.shards["body.0.weight"].data[0, 0] = float("inf")
    distributed.shutdown()

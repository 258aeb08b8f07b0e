"""A network of a few numbers, its data and its task: enough for the loop to show what it
promises."""

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.checkpoint import TrainState
from pipeline.distributed import World
from pipeline.optim import build_optimizer
from pipeline.settings import OptimConfig

TOTAL = 12


@dataclass(frozen=True)
class Batch:
    x: Tensor
    names: tuple[str, ...]


@dataclass(frozen=True)
class Losses:
    total: Tensor
    parts: dict[str, Tensor]


class Toy(nn.Module):
    """`side` is used by every third batch only, `idle` never."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Dropout(dropout))
        self.head, self.side, self.idle = nn.Linear(8, 1), nn.Linear(8, 1), nn.Linear(8, 1)


class ToyTask:
    """Mean square of the output over all samples of a step; not a number for the batches named in `bad`."""

    def __init__(self, model: Toy, bad: Collection[str] = ()) -> None:
        self.model, self.bad = model, bad

    def weight(self, batch: Batch) -> float:
        return float(len(batch.x))

    def losses(self, batch: Batch, step: int, whole: float) -> Losses:
        hidden = self.model.body(batch.x)
        output = self.model.head(hidden)
        if any(int(name[4:]) % 3 == 0 for name in batch.names):
            output = output + self.model.side(hidden)
        loss = output.square().sum() / whole
        if set(batch.names) & set(self.bad):
            loss = loss * float("nan")
        return Losses(loss, {"square": loss.detach()})


def sample(index: int) -> Tensor:
    return torch.randn(4, generator=torch.Generator().manual_seed(index))


def batches(start: int, stop: int, size: int = 1) -> Iterator[Batch]:
    """Batch k holds the samples k*size .. (k+1)*size; its name is that of the batch."""
    for index in range(start, stop):
        rows = [sample(index * size + row) for row in range(size)]
        yield Batch(torch.stack(rows), (f"clip{index}",))


def fresh(dropout: float = 0.0, total: int = TOTAL) -> tuple[Toy, TrainState]:
    model = Toy(dropout).train()
    optimizer, rates = build_optimizer(model, OptimConfig(lr=1e-2), total)
    return model, TrainState(model, optimizer, rates)


def shared(world: World) -> tuple[Toy, TrainState]:
    """As `fresh`, its body shared out over the ranks."""
    from pipeline.sharding import Sharding

    model = Toy().train()
    sharding = Sharding(world, model, [model.body[0], model.body])
    optimizer, rates = build_optimizer(model, OptimConfig(lr=1e-2), TOTAL, shards=sharding.shards)
    return model, TrainState(model, optimizer, rates, sharding=sharding)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return all(torch.equal(left[name], right[name]) for name in left)


class Bomb:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (os.environ["BOMB_MARK"],)

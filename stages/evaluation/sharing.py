"""Items scored on all ranks, each on one of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from tqdm import tqdm

from pipeline.distributed import World

T = TypeVar("T")


def share_out(
    count: int,
    score: Callable[[int], T],
    world: World | None = None,
    *,
    label: str = "",
    unit: str = "item",
    progress: bool = False,
) -> list[T]:
    """`score(index)` of every index below `count`, in order; the same list on every rank.

    label: of the progress bar that the first rank shows of its share.
    """
    world = world or World()
    own = range(world.rank, count, world.size)
    shown = progress and world.is_first
    bar = tqdm(own, desc=label, unit=unit, disable=not shown)
    part = {index: score(index) for index in bar}
    everything = {index: value for each in world.gather(part) for index, value in each.items()}
    return [everything[index] for index in range(count)]

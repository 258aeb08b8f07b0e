"""Items scored on all ranks, each on one of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from tqdm import tqdm

from pipeline.distributed import World
from pipeline.heartbeat import pulse
from pipeline.stop import StopRequested, stop_requeues, until_stopped
from stages.evaluation.kept import Kept

T = TypeVar("T")


def share_out(
    count: int,
    score: Callable[[int], T],
    world: World | None = None,
    *,
    label: str = "",
    unit: str = "item",
    progress: bool = False,
    kept: Kept | None = None,
) -> list[T]:
    """`score(index)` of every index below `count`, in order; the same list on every rank.

    label: of the progress bar that the first rank shows of its share. kept: where answers are kept;
    those that are there already are not asked for again. Raises StopRequested, on every rank, when
    any of them is asked to stop before it is through.
    """
    world = world or World()
    own = range(world.rank, count, world.size)
    part: dict[int, T] = kept.answers(own) if kept else {}
    left = [index for index in own if index not in part]
    shown = progress and world.is_first
    bar = tqdm(left, label, len(own), initial=len(part), unit=unit, disable=not shown)
    told = kept.begin(count, unit) if kept and world.is_first else None
    stop = None
    try:
        for index in until_stopped(bar):
            pulse.phase(label or "evaluation", detail=f"{unit} {index + 1} of {count}")
            part[index] = score(index)
            if kept:
                kept.keep(index, part[index])
            if told:
                told.update(min(told.step + world.size, told.total))
    except StopRequested as asked:  # the others wait for this rank's part
        stop = asked
    gathered = world.gather((part, stop and str(stop), stop_requeues()))
    if reason := next((reason for _, reason, _ in gathered if reason), None):
        raise StopRequested(reason, requeue=any(requeue for *_, requeue in gathered))
    everything = {index: value for found, *_ in gathered for index, value in found.items()}
    return [everything[index] for index in range(count)]

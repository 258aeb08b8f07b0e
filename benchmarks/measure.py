"""Two ways of doing the same thing, timed against each other in one process.

A machine is never equally busy twice, so a pair is run in turns (A B B A A B …) and the answer is the median of the
ratios of neighbours. Only ratios are worth comparing between machines.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from stages.speed import peak_bytes as peak_bytes


@dataclass(frozen=True)
class Row:
    """One line of the table: `better` against `plain`, in milliseconds of one call each."""

    what: str
    better: str
    plain: str
    better_ms: float
    plain_ms: float
    ratio: float
    """Median of plain / better: above 1 means that `better` is faster."""
    note: str = ""

    def noted(self, note: str) -> Row:
        """The same with another note."""
        return replace(self, note=note)


def compare(
    what: str,
    better: tuple[str, Callable[[], object]],
    plain: tuple[str, Callable[[], object]],
    *,
    pairs: int = 9,
    seconds: float = 10.0,
    note: str = "",
    clock: Callable[[], float] = time.perf_counter,
) -> Row:
    """Time both in turns after one warm-up each; on a slow machine fewer than `pairs` fit into `seconds`.

    clock: by default that on the wall; `time.process_time` counts the processor's work alone, which other
    processes disturb less, and suits one thread.
    """
    better[1]()
    plain[1]()
    until = time.monotonic() + seconds
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(pairs):
        order = (0, 1) if turn % 2 == 0 else (1, 0)
        for which in order:
            times[which].append(milliseconds((better, plain)[which][1], clock))
        if time.monotonic() > until:
            break
    ratio = statistics.median(b / a for a, b in zip(*times, strict=True))
    ours, theirs = (statistics.median(values) for values in times)
    return Row(what, better[0], plain[0], ours, theirs, ratio, note)


def milliseconds(
    call: Callable[[], object], clock: Callable[[], float] = time.perf_counter
) -> float:
    """What one call takes by the clock, by default the one on the wall."""
    began = clock()
    call()
    return 1000 * (clock() - began)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Torch computes with `count` threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def saved_bytes(forward: Callable[[], torch.Tensor]) -> int:
    """Bytes that autograd keeps between a forward pass and its backward pass."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = forward()
        total = sum(kept.values())
    del loss
    return total


def megabytes(count: int) -> str:
    return f"{count / 2**20:.1f} MB"

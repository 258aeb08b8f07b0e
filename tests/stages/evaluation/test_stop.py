"""An evaluation that is asked to stop ends between two frames, on all ranks, and can be run again."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from model.config import preset
from model.sam2 import build_sam2
from pipeline.distributed import World
from pipeline.stop import StopRequested, request_stop, reset_stop
from stages.evaluation.sharing import share_out
from stages.evaluation.video import Task, sam2_tracker


def test_it_ends_between_two_items_and_starts_over() -> None:
    scored: list[int] = []

    def score(index: int) -> int:
        scored.append(index)
        if scored == [0, 1]:
            request_stop("received SIGINT")
        return index * index

    with pytest.raises(StopRequested, match="received SIGINT"):
        share_out(5, score)
    assert scored == [0, 1]
    reset_stop()
    assert share_out(5, score) == [0, 1, 4, 9, 16]


def test_it_ends_in_the_middle_of_a_video() -> None:
    read: list[int] = []

    def frames() -> Iterator[np.ndarray]:
        for number in range(20):
            read.append(number)
            if number == 3:
                request_stop("received SIGTERM")
            yield np.zeros((32, 32, 3), np.uint8)

    mask = np.zeros((32, 32), bool)
    mask[8:16, 8:16] = True
    task = Task("film", (1,), 0, frames(), {0: {0: mask}})
    tracker = sam2_tracker(build_sam2(preset("micro")).eval())
    with torch.inference_mode(), pytest.raises(StopRequested):
        list(tracker(task))
    assert len(read) <= 5


@dataclass(frozen=True)
class Pair(World):
    """This rank, and another that was asked to stop before it began."""

    size: int = 2

    def gather(self, value: Any) -> list[Any]:
        return [value, ({}, "received SIGUSR2", True)]


def test_a_stop_on_one_rank_ends_it_on_all() -> None:
    with pytest.raises(StopRequested, match="received SIGUSR2") as raised:
        share_out(4, float, Pair())
    assert raised.value.requeue

"""Long videos need the memory of short ones."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
import pytest
import torch
from numpy.typing import NDArray

from model.config import preset
from model.sam2 import SAM2, build_sam2
from model.video_predictor import VideoPredictor

T = TypeVar("T")
MEGABYTE = 1 << 20


def network() -> SAM2:
    torch.manual_seed(0)
    return build_sam2(preset("micro", image_size=32))


def alone(function: Callable[..., T], *given: Any) -> T:
    """What `function` returns in a process of its own, whose memory nobody else has touched."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *given).result()


class Waves(Sequence[NDArray[np.uint8]]):
    """A video of any length of which no frame is kept."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: Any) -> Any:
        if not 0 <= number < self.length:
            raise IndexError
        return np.full((24, 32, 3), number % 256, np.uint8)


def square() -> NDArray[np.bool_]:
    mask = np.zeros((24, 32), bool)
    mask[4:16, 6:20] = True
    return mask


def memory() -> tuple[int, int]:
    """Bytes of this process, and of all tensors that Python knows; not of those without content
    that compiled code leaves behind."""
    gc.collect()
    tensors = {
        part.untyped_storage().data_ptr(): part.untyped_storage().nbytes()
        for part in gc.get_objects()
        if type(part) in (torch.Tensor, torch.nn.Parameter)
    }
    return psutil.Process().memory_info().rss, sum(tensors.values())


def stream_growth() -> tuple[int, int]:
    """Growth of `memory` from frame 500 to 5,000."""

    def stream() -> Iterator[NDArray[np.uint8]]:
        yield from Waves(5010)

    tracked = VideoPredictor(network(), frames_at_once=10).track(stream(), square()[None])
    found = {t: memory() for t, _ in enumerate(tracked) if t in (500, 5000)}
    resident, tensors = np.subtract(found[5000], found[500])
    return int(resident), int(tensors)


def session_growth(folder: Path) -> tuple[int, int]:
    """The same of a session, from frame 300 to 1,400, while the store keeps to its budget."""
    predictor = VideoPredictor(
        network(), memory_budget=MEGABYTE // 4, spill_folder=folder, frames_at_once=16
    )
    with predictor.session(Waves(1500)) as session:
        for number in range(3):
            session.add_mask(number, number, square())
        found = {}
        for answer in session.propagate():
            assert session.store.used <= MEGABYTE // 4
            if answer.frame in (300, 1400):
                found[answer.frame] = memory()
        assert session.masks(20).low.isfinite().all()
        assert session.add_points(700, 1, [[10, 10]], [1]).frame == 700
    resident, tensors = np.subtract(found[1400], found[300])
    return int(resident), int(tensors)


@pytest.mark.slow
def test_memory_of_a_stream_is_flat_from_frame_500_to_5000() -> None:
    resident, tensors = alone(stream_growth)
    assert tensors == 0
    assert resident < 2 * MEGABYTE


@pytest.mark.slow
def test_memory_of_a_session_stays_within_its_budget(tmp_path: Path) -> None:
    resident, tensors = alone(session_growth, tmp_path)
    assert abs(tensors) < MEGABYTE // 4
    assert resident < 4 * MEGABYTE  # where 3300 answers lie in the file

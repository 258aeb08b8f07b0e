"""Batches of training clips for one rank, made in this process or in workers: the same bytes
either way."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from functools import partial
from multiprocessing.sharedctypes import RawArray
from typing import TYPE_CHECKING, NamedTuple

import cv2
import torch
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data import Dataset as TorchDataset

from data.collate import PackedBatch, collate
from data.quarantine import Broken, Quarantine
from data.types import ClipBatch
from pipeline.errors import ConfigError, DataError, StorageError
from pipeline.heartbeat import pulse
from pipeline.stop import leave_signals_to_parent

if TYPE_CHECKING:
    from data.mixture import TrainingClips

CELL = 256
"""Bytes for the name of an item."""


class _Made(NamedTuple):
    """What a worker sends: the batch of a step, or what is wrong; and the items that could not be
    read on the way to it."""

    step: int
    batch: ClipBatch | PackedBatch | None
    error: DataError | StorageError | None
    """Sent rather than raised: an exception from a worker arrives wrapped in a traceback."""
    broken: list[Broken]


class _Reading:
    """Which item each worker has in hand, in memory that all of them and the training process
    see."""

    def __init__(self, workers: int) -> None:
        self.cells = RawArray("c", CELL * max(1, workers))

    def note(self, text: str) -> None:
        """This worker has begun with an item; with an empty text, it has none."""
        info = get_worker_info()
        place = CELL * (info.id if info else 0)
        content = text.encode()[: CELL - 1]
        self.cells[place : place + CELL] = content + bytes(CELL - len(content))

    def text(self) -> str:
        """All that is in somebody's hand."""
        cells = bytes(self.cells)
        parts = (cells[place : place + CELL] for place in range(0, len(cells), CELL))
        words = (part.split(b"\0")[0].decode(errors="replace") for part in parts)
        return ", ".join(sorted(word for word in words if word))


class _Steps(TorchDataset):
    """step -> this rank's part of its batch."""

    def __init__(self, clips: TrainingClips, rank: int, world: int, reading: _Reading) -> None:
        self.clips = clips
        self.rank = rank
        self.world = world
        self.reading = reading

    def __getitem__(self, step: int) -> _Made:
        share = self.clips.batch_size(step) // self.world
        slots = range(self.rank * share, (self.rank + 1) * share)
        made, broken = [], []
        try:
            for slot in slots:
                self.reading.note(f"step {step}")
                clip, left_out = self.clips.make(
                    step, slot, lambda item: self.reading.note(f"step {step}: {item}")
                )
                made.append(clip)
                broken += left_out
            batch = collate(made, self.clips.kind(step), slots)
            return _Made(step, PackedBatch.of(batch) if get_worker_info() else batch, None, broken)
        except (DataError, StorageError) as error:
            return _Made(step, None, error, broken)
        finally:
            self.reading.note("")


def loader(
    clips: TrainingClips,
    *,
    start_step: int,
    stop_step: int,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    quarantine: Quarantine | None = None,
) -> Iterator[ClipBatch]:
    """This rank's batch of every step from `start_step` to before `stop_step`.

    Rank r gets slots r*b .. (r+1)*b of a step of world*b. Starting late costs nothing. Closing the
    iterator ends its workers. quarantine: where broken samples are recorded, in the order of steps
    whatever the number of workers.
    Raises ConfigError when a batch cannot be shared evenly, DataError when too many samples are
    broken, StorageError when a storage stays out of reach.
    """
    for group in clips.groups:
        if group.batch % world:
            raise ConfigError(
                f"mixture: a step of {', '.join(group.members)} has {group.batch} {group.kind}s; "
                f"it has to be a multiple of the {world} ranks"
            )
    steps = range(start_step, stop_step)
    return _batches(clips, steps, rank, world, workers, quarantine or clips.quarantine())


def _batches(
    clips: TrainingClips, steps: range, rank: int, world: int, workers: int, quarantine: Quarantine
) -> Iterator[ClipBatch]:
    reading = _Reading(workers)
    pulse.explain("data", reading.text)
    batches = DataLoader(
        _Steps(clips, rank, world, reading),
        sampler=steps,
        batch_size=None,
        num_workers=workers,
        timeout=0,  # with one, a killed worker is noticed only after it; hangs end in pipeline.watcher
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=partial(_start_worker, dict(os.environ)) if workers else None,
        multiprocessing_context=_context() if workers else None,
    )
    for made in _told(batches, reading):
        quarantine.note(made.step, made.broken)
        if made.error is not None:
            raise made.error
        assert made.batch is not None
        yield made.batch.unpack() if isinstance(made.batch, PackedBatch) else made.batch


def _told(batches: DataLoader[_Made], reading: _Reading) -> Iterator[_Made]:
    """The batches. Raises DataError naming what the workers had in hand when one was killed."""
    supply = iter(batches)
    while True:
        try:
            made = next(supply)
        except StopIteration:
            return
        except RuntimeError as error:
            if "DataLoader" not in str(error):
                raise
            raise DataError(
                f"a data worker gave up ({str(error).splitlines()[0]}); the workers had in hand: "
                f"{reading.text() or 'nothing'}. A killed worker is often one too many for the "
                "memory: set a smaller `workers`"
            ) from error
        yield made


def _context() -> multiprocessing.context.BaseContext:
    """Processes that start clean: no copies of the parent's threads, GPU context or sockets."""
    if "forkserver" in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["data.mixture"])
        return context
    return multiprocessing.get_context("spawn")


def _start_worker(environment: dict[str, str], _: int) -> None:
    """One thread each, and signals are left to the parent, which ends its workers.

    environment: the parent's. The server that workers are forked from has that of its own start,
    without credentials that were set later.
    """
    os.environ.update(environment)
    leave_signals_to_parent()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)

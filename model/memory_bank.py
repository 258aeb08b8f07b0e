"""What is remembered of a group of objects while their clip is being processed."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from model.memory_choice import MemoryWindow, select_reading
from model.sam2 import SAM2
from model.types import ImageFeatures, Memory


class Remembered(NamedTuple):
    """One frame of the bank."""

    memory: Memory | None
    """None where it is known that no later frame reads it."""
    pointer: Tensor
    """[N, C]."""


class MemoryBank:
    """Two shelves, conditioning and tracked frames, by frame number; N objects share it.

    frame_count: length of the clip, or None when it is not known (a stream); pointer positions
    depend on it when it is below 16.
    """

    def __init__(self, model: SAM2, window: MemoryWindow, frame_count: int | None = None) -> None:
        self.model = model
        self.window = window
        self.frame_count = window.pointers if frame_count is None else frame_count
        self.conditioning: dict[int, Remembered] = {}
        self.tracked: dict[int, Remembered] = {}

    def keep(
        self, frame: int, memory: Memory | None, pointer: Tensor, *, conditioning: bool
    ) -> None:
        """Remember `frame`, in place of what was remembered of it before."""
        shelf, other = self.conditioning, self.tracked
        if not conditioning:
            shelf, other = other, shelf
        other.pop(frame, None)
        shelf[frame] = Remembered(memory, pointer)

    def recall(self, frame: int, features: ImageFeatures) -> Tensor:
        """The features of `frame` (one row per object) in the light of the bank: [N, C, h, w]."""
        prompted = list(self.conditioning)
        read = select_reading(frame, prompted, self.tracked, self.window, self.frame_count)
        return self.model.recall(
            features,
            [(self._memory(t), row) for t, row in read.memories],
            [(self._at(t).pointer, float(distance)) for t, distance in read.pointers],
            max_pointer_distance=float(read.unit),
        )

    def _at(self, frame: int) -> Remembered:
        return self.conditioning[frame] if frame in self.conditioning else self.tracked[frame]

    def _memory(self, frame: int) -> Memory:
        memory = self._at(frame).memory
        assert memory is not None, f"frame {frame} is read, but its memory was not encoded"
        return memory

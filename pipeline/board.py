"""TensorBoard curves and pictures of one stage; written on rank 0, by a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from pipeline.outbox import Outbox

ROOM = 4000
"""Steps and pictures that may wait for the disk."""
Write = Callable[[SummaryWriter], object]


class Board:
    """The TensorBoard files of a stage. A disk that is full or slow costs curves at worst, never training (law 6)."""

    def __init__(self, folder: str | Path, start: int = 0) -> None:
        """start: the step training continues from; what an earlier attempt wrote beyond it is hidden."""
        self.folder, self._hide_from = str(folder), start or None
        self._writer: SummaryWriter | None = None
        self._outbox = Outbox(f"TensorBoard in {folder}", self._write, ROOM)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One point on every named curve."""
        points = dict(values)

        def write(writer: SummaryWriter) -> None:
            for name, value in points.items():
                writer.add_scalar(name, value, step)

        self._outbox.put(write)

    def image(self, name: str, pixels: np.ndarray, step: int) -> None:
        """A picture, uint8 [H, W, 3]."""
        self._outbox.put(lambda writer: writer.add_image(name, pixels, step, dataformats="HWC"))

    def close(self, wait_seconds: float = 10.0) -> None:
        """Write what is left, for at most `wait_seconds`."""
        self._outbox.put(_end, keep=True)
        self._outbox.close(wait_seconds)

    def _write(self, writes: list[Write]) -> None:
        """After an error a new file is begun: the writer of the old one has died of it. Points that are in both are
        drawn over each other."""
        writer = self._writer or SummaryWriter(self.folder, purge_step=self._hide_from)
        self._writer, self._hide_from = writer, None
        try:
            for write in writes:
                write(writer)
            writer.flush()
        except Exception:
            self._writer = None
            with suppress(Exception):
                writer.close()
            raise


def _end(writer: SummaryWriter) -> None:
    writer.close()

"""TensorBoard curves and pictures of one stage; written on rank 0."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger(__name__)


class Board:
    """The TensorBoard files of a stage. A disk that is full costs curves, never the training (law
    6)."""

    def __init__(self, folder: str | Path, start: int = 0) -> None:
        """start: the step training continues from; what an earlier attempt wrote beyond it is
        hidden."""
        self.writer: SummaryWriter | None = None
        try:
            self.writer = SummaryWriter(str(folder), purge_step=start or None, flush_secs=10)
        except OSError as error:
            logger.warning("no TensorBoard files in %s: %s", folder, error)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One point on every named curve."""
        for name, value in values.items():
            self._write(lambda w, n=name, v=value: w.add_scalar(n, v, step))

    def image(self, name: str, pixels: np.ndarray, step: int) -> None:
        """A picture, uint8 [H, W, 3]."""
        self._write(lambda w: w.add_image(name, pixels, step, dataformats="HWC"))

    def close(self) -> None:
        """Write what is left."""
        self._write(lambda w: w.close())
        self.writer = None

    def _write(self, call: object) -> None:
        if self.writer is None:
            return
        try:
            call(self.writer)  # type: ignore[operator]
        except OSError as error:
            logger.warning("TensorBoard stops: %s", error)
            self.writer = None

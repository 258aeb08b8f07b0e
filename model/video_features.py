"""What the image encoder says about the frames of a video, as they are needed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from model.frames import Frame, Frames
from model.sam2 import SAM2
from model.types import ImageFeatures

BATCHES_KEPT = 4


@torch.inference_mode()
def encode_frames(model: SAM2, frames: Sequence[Frame]) -> list[ImageFeatures]:
    """Features of each frame (uint8 [H, W, 3], RGB), encoded as one batch.

    Frames are squeezed to the model's square input as the published predictor does it for videos.
    """
    side = model.config.image_size
    squares = [
        np.asarray(Image.fromarray(frame).resize((side, side), Image.Resampling.BICUBIC))
        for frame in frames
    ]
    pixels = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)
    seen = model.encode(model.normalise(pixels.to(model.device)))
    return [
        seen._replace(s4=seen.s4[row, None], s8=seen.s8[row, None], s16=seen.s16[row, None])
        for row in range(len(frames))
    ]


class FeatureWindow:
    """Features of the frames looked at last, and of as many as `budget` bytes hold for good.

    Frames are encoded in fixed groups of `at_once`: the first so many, the next, and so on. What a
    frame looks like therefore does not depend, not even in rounding, on where a propagation began.
    """

    def __init__(self, model: SAM2, frames: Frames, at_once: int, budget: int) -> None:
        self.model = model
        self.frames = frames
        self.at_once = at_once
        self.budget = budget
        self._lasting: dict[tuple[int, int], list[ImageFeatures]] = {}
        self._kept: OrderedDict[tuple[int, int], list[ImageFeatures]] = OrderedDict()

    def of(self, frame: int, *, alone: bool) -> ImageFeatures:
        """The features of one frame; alone: not with its group, to answer a click sooner."""
        size = 1 if alone else self.at_once
        first = frame // size * size
        batch = self._lasting.get((first, size)) or self._kept.pop((first, size), None)
        if batch is None:
            last = min(first + size, len(self.frames))
            batch = encode_frames(self.model, [self.frames[t] for t in range(first, last)])
            # The first ones that fit stay: of what was used last, going round a longer video would
            # find nothing.
            if (room := self.budget - _nbytes(batch)) >= 0:
                self.budget, self._lasting[first, size] = room, batch
        if (first, size) not in self._lasting:
            self._kept[first, size] = batch
            if len(self._kept) > BATCHES_KEPT:
                self._kept.popitem(last=False)
        return batch[frame - first]

    def clear(self) -> None:
        """Forget all features."""
        self.budget += sum(_nbytes(batch) for batch in self._lasting.values())
        self._lasting.clear()
        self._kept.clear()


def _nbytes(batch: Sequence[ImageFeatures]) -> int:
    """Memory that a group holds; the encoding of positions is everybody's."""
    own = sum(seen.s4.nbytes + seen.s8.nbytes + seen.s16.nbytes for seen in batch)
    return own + batch[0].grid.nbytes

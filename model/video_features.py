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
    """Features of the frames looked at last.

    Frames are encoded in fixed groups of `at_once`: the first so many, the next, and so on. What a
    frame looks like therefore does not depend, not even in rounding, on where a propagation began.
    """

    def __init__(self, model: SAM2, frames: Frames, at_once: int) -> None:
        self.model = model
        self.frames = frames
        self.at_once = at_once
        self._kept: OrderedDict[tuple[int, int], list[ImageFeatures]] = OrderedDict()

    def of(self, frame: int, *, alone: bool) -> ImageFeatures:
        """The features of one frame; alone: not with its group, to answer a click sooner."""
        size = 1 if alone else self.at_once
        first = frame // size * size
        batch = self._kept.get((first, size))
        if batch is None:
            last = min(first + size, len(self.frames))
            batch = encode_frames(self.model, [self.frames[t] for t in range(first, last)])
            self._kept[first, size] = batch
            if len(self._kept) > BATCHES_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end((first, size))
        return batch[frame - first]

    def clear(self) -> None:
        """Forget all features."""
        self._kept.clear()

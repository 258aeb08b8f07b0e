"""Small videos for the tests of the video predictor."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.golden.reader import Golden

VIDEO = Golden("micro_l_video_predictor.npz")


def stored_video() -> list[NDArray[np.uint8]]:
    """The twelve frames of the reference's answers, 90 x 160."""
    sizes = VIDEO.array("in:jpeg_sizes").tolist()
    ends = np.cumsum(sizes)
    packed = VIDEO.array("in:jpeg_bytes").tobytes()
    files = [packed[end - size : end] for size, end in zip(sizes, ends, strict=True)]
    return [np.asarray(Image.open(BytesIO(file)).convert("RGB")) for file in files]


def noise(frames: int, height: int = 40, width: int = 60) -> list[NDArray[np.uint8]]:
    """Frames without anything in them."""
    random = np.random.default_rng(1)
    return [random.integers(0, 255, (height, width, 3), dtype=np.uint8) for _ in range(frames)]


def box_shape(x: int, y: int) -> NDArray[np.bool_]:
    """A rectangle of 20 x 15 pixels in a frame of 60 x 40."""
    mask = np.zeros((40, 60), bool)
    mask[y : y + 15, x : x + 20] = True
    return mask

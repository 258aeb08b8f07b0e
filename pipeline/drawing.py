"""What every picture of masks is drawn with: colours, fills, outlines, lettering.

Everything is drawn at the size it will be seen at, not enlarged afterwards, so that small frames
stay crisp.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from PIL import ImageFont

PALETTE = (
    (255, 92, 92),
    (64, 186, 255),
    (255, 203, 61),
    (108, 222, 140),
    (190, 140, 255),
    (255, 150, 66),
    (72, 226, 208),
    (255, 122, 200),
)
INK, PAPER = (232, 234, 240), (19, 22, 30)
"""Lettering and ground of strips and films, which are dark in any theme."""
FILL = 0.5
"""Opacity of a mask."""


def colour(index: int) -> tuple[int, int, int]:
    """The colour of object number `index`, RGB; colours repeat after the palette's eight."""
    return PALETTE[index % len(PALETTE)]


def filled(picture: np.ndarray, planes: Sequence[np.ndarray]) -> np.ndarray:
    """The picture, darker and paler where nothing is, tinted where an object is. Overlaps mix."""
    grey = picture.mean(2, keepdims=True)
    dimmed = (0.6 * (0.5 * picture + 0.5 * grey)).astype(np.float32)
    weight = np.zeros((*picture.shape[:2], 1), np.float32)
    tint = np.zeros(picture.shape, np.float32)
    for row, plane in enumerate(planes):
        weight += plane[..., None]
        tint += plane[..., None] * np.array(colour(row), np.float32)
    inside = np.minimum(weight, 1)
    tinted = (1 - FILL) * picture + FILL * tint / np.maximum(weight, 1)
    return (inside * tinted + (1 - inside) * dimmed).round().astype(np.uint8)


def enlarged(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask at another size with a smooth edge instead of stairs: float32 [height, width], 0 to
    1."""
    scale = max(size[1] / mask.shape[0], 1.0)
    soft = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    soft = cv2.GaussianBlur(soft, (0, 0), 0.35 * scale) if scale > 1 else soft
    return np.clip((soft - 0.5) * 2.5 * scale + 0.5, 0, 1)


def outline(
    picture: np.ndarray, plane: np.ndarray, ink: tuple[int, int, int], thickness: int
) -> None:
    """Draw the edge of a mask into `picture`, with a dark line under it that keeps it visible on
    any ground."""
    contours, _ = cv2.findContours(
        (plane > 0.5).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
    )
    cv2.drawContours(picture, contours, -1, (10, 10, 14), thickness + 2, cv2.LINE_AA)
    cv2.drawContours(picture, contours, -1, ink, thickness, cv2.LINE_AA)


@lru_cache(maxsize=8)
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own face at a height in pixels."""
    return ImageFont.load_default(size)


def text_width(text: str, size: int) -> int:
    """Pixels that `text` takes in `font(size)`."""
    return int(font(size).getlength(text)) + 1

"""Answers drawn on their pictures: objects in their colours with an outline and their number, the
rest a little darker, and the prompts where they were given."""

from __future__ import annotations

import colorsys
from functools import lru_cache

import cv2
import numpy as np

from pipeline.drawing import PALETTE, enlarged, outline
from stages.prediction.answer import Answer
from stages.prediction.prompts import Asked

LEAST, MOST = 360, 1080
"""Heights between which a film is shown, in pixels. Small pictures are enlarged as well, large ones
are drawn at their own size."""
FILL = 0.45
"""Opacity of an object's colour."""
AROUND = 0.72
"""Brightness of what is no object."""
MOST_NUMBERED = 24
"""With more objects the numbers would hide the picture."""
INSIDE, BESIDE, DARK, LIGHT = (64, 220, 96), (255, 64, 64), (14, 14, 18), (255, 255, 255)


def draw(answer: Answer, *, film: bool = False) -> np.ndarray:
    """The picture of one answer, uint8 [H, W, 3], at a size that is good to look at."""
    size = _size(*answer.picture.shape[:2], film=film)
    picture, rows = _resized(answer.picture, answer.rows, size)
    scale = picture.shape[0] / answer.picture.shape[0]
    drawn = _tinted(picture, rows, len(answer.numbers))
    thickness = max(2, round(min(picture.shape[:2]) / 300))
    for index in range(len(answer.numbers)):
        outline(drawn, (rows == index + 1).view(np.uint8), colour(index), thickness)
    if 1 < len(answer.numbers) <= MOST_NUMBERED:
        for index, number in enumerate(answer.numbers):
            _numbered(drawn, rows, index, str(number), thickness)
    for asked in (answer.asked or {}).values():
        _prompted(drawn, asked, scale, thickness)
    return drawn


def colour(index: int) -> tuple[int, int, int]:
    """RGB of the object in row `index`: eight chosen ones, then hues that keep away from each
    other (steps of the golden ratio)."""
    if index < len(PALETTE):
        return PALETTE[index]
    red, green, blue = colorsys.hsv_to_rgb(index * 0.618034 % 1, 0.55 + index % 3 * 0.15, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def _size(height: int, width: int, *, film: bool) -> tuple[int, int]:
    """(height, width) of a drawing; of a film both even, as h264 wants them."""
    scale = max(1.0, min(LEAST / height, MOST / width))
    if not film:
        return round(height * scale), round(width * scale)
    scale = min(scale, MOST / height)
    return 2 * max(1, round(height * scale / 2)), 2 * max(1, round(width * scale / 2))


def _resized(
    picture: np.ndarray, rows: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Picture and map at another size (H, W), with smooth edges where they grow."""
    if picture.shape[:2] == size:
        return picture, rows
    shape = (size[1], size[0])
    grows = size[0] > picture.shape[0]
    larger = cv2.resize(picture, shape, interpolation=cv2.INTER_CUBIC if grows else cv2.INTER_AREA)
    if not grows:
        return larger, cv2.resize(rows, shape, interpolation=cv2.INTER_NEAREST)
    smooth = np.zeros(size, np.uint16)
    most = np.full(size, 0.5, np.float32)
    for row in np.unique(rows[rows > 0]):
        soft = enlarged(rows == row, shape)
        smooth[soft > most] = row
        most = np.maximum(most, soft)
    return larger, smooth


@lru_cache(maxsize=8)
def _tints(count: int) -> np.ndarray:
    """What is added to each pixel, by row of the map: uint8 [count + 1, 3]."""
    shades = [(0, 0, 0), *(colour(index) for index in range(count))]
    return (np.array(shades, np.float32) * FILL).astype(np.uint8)


def _tinted(picture: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    around = cv2.convertScaleAbs(picture, alpha=AROUND)
    inside = cv2.convertScaleAbs(picture, alpha=1 - FILL)
    inside = cv2.add(inside, np.take(_tints(count), rows, axis=0))
    cv2.copyTo(inside, (rows > 0).view(np.uint8), around)
    return around


def _numbered(drawn: np.ndarray, rows: np.ndarray, index: int, text: str, thickness: int) -> None:
    """Write an object's number where the object is thickest, if there is room."""
    x, y, width, height = cv2.boundingRect((rows == index + 1).view(np.uint8))
    if not width:
        return
    mask = np.pad((rows[y : y + height, x : x + width] == index + 1).view(np.uint8), 1)
    _, depth, _, deepest = cv2.minMaxLoc(cv2.distanceTransform(mask, cv2.DIST_L2, 3))
    size = 0.3 * (1 + thickness / 2)
    stroke = thickness - 1
    (wide, high), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_DUPLEX, size, stroke)
    if depth < 0.5 * high:
        return
    centre = (x + deepest[0] - 1, y + deepest[1] - 1)
    radius = round(0.5 * float(np.hypot(wide, high))) + 2 * thickness
    cv2.circle(drawn, centre, radius, DARK, -1, cv2.LINE_AA)
    cv2.circle(drawn, centre, radius, colour(index), thickness, cv2.LINE_AA)
    corner = (centre[0] - wide // 2, centre[1] + high // 2)
    cv2.putText(drawn, text, corner, cv2.FONT_HERSHEY_DUPLEX, size, LIGHT, stroke, cv2.LINE_AA)


def _prompted(drawn: np.ndarray, asked: Asked, scale: float, thickness: int) -> None:
    """Draw clicks (green on the object, red beside it) and the box."""
    if asked.box is not None:
        x0, y0, x1, y1 = (round(float(value) * scale) for value in asked.box)
        cv2.rectangle(drawn, (x0, y0), (x1, y1), DARK, thickness + 2, cv2.LINE_AA)
        cv2.rectangle(drawn, (x0, y0), (x1, y1), LIGHT, thickness, cv2.LINE_AA)
    for (x, y), label in zip(asked.points, asked.labels, strict=True):
        place = (round(float(x) * scale), round(float(y) * scale))
        cv2.circle(drawn, place, 4 * thickness, LIGHT, -1, cv2.LINE_AA)
        cv2.circle(drawn, place, 3 * thickness, INSIDE if label else BESIDE, -1, cv2.LINE_AA)

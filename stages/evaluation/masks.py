"""J and F of two masks: IoU, and how much of each contour lies within a few pixels of the other.

With the share of the predicted contour near the true one (precision) and the reverse (recall),
F = 2PR / (P + R). The numbers equal the reference evaluator's to 1e-9, at a fraction of its time:
everything happens inside the box that holds both masks; of two contours that agree a rectangle shows
it, and around others a disk is drawn on the bits of a single large integer.

Only numpy and OpenCV are needed.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from math import ceil, hypot, isqrt
from typing import NamedTuple

import cv2
import numpy as np

CONTOUR_REACH = 0.008
"""How far apart two contours may be and still agree, as a share of the picture's diagonal."""


class MaskScore(NamedTuple):
    """One object on one frame."""

    region: float
    """J, 0 to 1."""
    contour: float
    """F, 0 to 1."""
    visible: bool
    """The truth shows the object."""
    claimed: bool
    """The prediction shows it."""


def score_masks(
    truth: np.ndarray, prediction: np.ndarray, size: tuple[int, int] | None = None
) -> MaskScore:
    """Score one object on one frame.

    truth, prediction: bool [H, W]. size: of the whole frame, where the masks are what
    `crop_to_both` left of it. Two empty masks agree perfectly. A mask that fills the frame has no
    contour.
    """
    reach = ceil(CONTOUR_REACH * hypot(*(size or truth.shape)))
    truth, prediction = crop_to_both(truth, prediction)
    in_truth, in_prediction = np.count_nonzero(truth), np.count_nonzero(prediction)
    common = np.count_nonzero(truth & prediction)
    union = in_truth + in_prediction - common
    region = common / union if union else 1.0
    contour = _contour_score(truth.view(np.uint8), prediction.view(np.uint8), reach)
    return MaskScore(region, contour, bool(in_truth), bool(in_prediction))


def crop_to_both(truth: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both masks or label maps ([H, W], bool or uint8), cut to the box around what is not 0 in
    either, with one empty pixel on each side.

    That pixel holds the contour, which lies half a pixel up and left, and keeps the far side from
    being mistaken for the edge of the picture. Contours outside the box do not exist, so nothing
    beyond it can be near one.
    """
    truth, prediction = np.ascontiguousarray(truth), np.ascontiguousarray(prediction)
    found = [cv2.boundingRect(mask.view(np.uint8)) for mask in (truth, prediction)]
    boxes = [box for box in found if box[2]]
    if not boxes:
        return truth[:1, :1], prediction[:1, :1]
    top = max(min(y for _, y, _, _ in boxes) - 1, 0)
    left = max(min(x for x, _, _, _ in boxes) - 1, 0)
    bottom = max(y + h for _, y, _, h in boxes) + 1
    right = max(x + w for x, _, w, _ in boxes) + 1
    return truth[top:bottom, left:right], prediction[top:bottom, left:right]


def _contour_score(truth: np.ndarray, prediction: np.ndarray, reach: int) -> float:
    """F of two cropped masks, uint8 [h, w] of 0 and 1."""
    true_contour, contour = _contour(truth), _contour(prediction)
    in_truth, in_prediction = cv2.countNonZero(true_contour), cv2.countNonZero(contour)
    if not in_truth or not in_prediction:
        return float(in_truth == in_prediction)
    missed, wrong = _far_apart(true_contour, contour, reach)
    precision = (in_prediction - wrong) / in_prediction
    recall = (in_truth - missed) / in_truth
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _contour(mask: np.ndarray) -> np.ndarray:
    """Pixels that differ from the one to the right, below, or diagonally below; beyond the edge the
    mask goes on."""
    padded = cv2.copyMakeBorder(mask, 0, 1, 0, 1, cv2.BORDER_REPLICATE)
    here = padded[:-1, :-1]
    return (here ^ padded[:-1, 1:]) | (here ^ padded[1:, :-1]) | (here ^ padded[1:, 1:])


def _far_apart(one: np.ndarray, other: np.ndarray, reach: int) -> tuple[int, int]:
    """How many pixels of either contour have none of the other within `reach` pixels (Euclidean).

    Where the largest rectangle in that disk reaches all of them there is none, which costs little to
    find out.
    """
    core = _steps(reach)[0]
    if not any(
        cv2.countNonZero(cv2.subtract(a, cv2.dilate(b, core)))
        for a, b in ((one, other), (other, one))
    ):
        return 0, 0
    stride = one.shape[1] + reach  # so much nothing ends a row: what leaves one enters no other
    first, second = _bits(one, reach), _bits(other, reach)
    return (
        (first & ~_around(second, reach, stride)).bit_count(),
        (second & ~_around(first, reach, stride)).bit_count(),
    )


def _bits(contour: np.ndarray, gap: int) -> int:
    """The pixels as the bits of one integer, row after row, each ended by `gap` zeros."""
    rows = cv2.copyMakeBorder(contour, 0, 0, 0, gap, cv2.BORDER_CONSTANT, value=0)
    return int.from_bytes(np.packbits(rows).tobytes())


def _around(pixels: int, reach: int, stride: int) -> int:
    """The disks around `pixels`, as `_bits` has them in rows of `stride`.

    A disk is a pile of bars, the wider ones less high. So the bars are widened step by step, and what
    is there before grows up and down as far as the next one is lower.
    """
    wide = near = pixels
    for across, down in _steps(reach)[1]:
        for _ in range(across):
            wide |= wide << 1 | wide >> 1
        for _ in range(down):
            near |= near << stride | near >> stride
        near |= wide
    return near


@lru_cache(maxsize=32)
def _steps(reach: int) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Of the disk x^2 + y^2 <= reach^2: the largest rectangle in it; and by how much each of its bars
    is wider to a side, and less high, than the narrower one before."""
    highest = {isqrt(reach * reach - y * y): y for y in range(reach + 1)}
    bars = sorted(highest.items())
    x, y = max(bars, key=lambda bar: (2 * bar[0] + 1) * (2 * bar[1] + 1))
    core = np.ones((2 * y + 1, 2 * x + 1), np.uint8)
    return core, [(wider - x, y - lower) for (x, y), (wider, lower) in pairwise(bars)]

"""Where the mask generator looks, and which of the boxes it finds are worth keeping.

Boxes are x0, y0, x1, y1 in pixels.
"""

from __future__ import annotations

from itertools import product
from math import ceil

import numpy as np

Box = tuple[int, int, int, int]

EDGE = 20
"""Pixels between a box and its crop's edge within which the object is taken to be cut off."""


def point_grid(per_side: int) -> np.ndarray:
    """The centres of per_side x per_side equal cells, float64 [per_side², 2]: x and y in 0..1, row
    by row."""
    centres = (np.arange(per_side) + 0.5) / per_side
    x, y = np.meshgrid(centres, centres)
    return np.stack([x, y], -1).reshape(-1, 2)


def crops(size: tuple[int, int], layers: int, overlap: float) -> list[tuple[Box, int]]:
    """The whole picture and, for each further layer i, 2^i x 2^i crops of it: boxes and layers.

    size: height and width. overlap: of neighbours in the first layer of crops, as a share of the
    picture's shorter side; halved with each layer.
    """
    height, width = size
    found: list[tuple[Box, int]] = [((0, 0, width, height), 0)]
    for layer in range(1, layers + 1):
        count = 2**layer
        shared = int(overlap * min(size) * 2 / count)
        columns, rows = _cuts(width, count, shared), _cuts(height, count, shared)
        for (x0, x1), (y0, y1) in product(columns, rows):
            if x0 < x1 and y0 < y1:  # a picture may be smaller than its crops are many
                found.append(((x0, y0, x1, y1), layer))
    return found


def _cuts(length: int, count: int, shared: int) -> list[tuple[int, int]]:
    """Begin and end of `count` equal pieces of a side that share so many pixels."""
    piece = ceil((shared * (count - 1) + length) / count)
    return [((piece - shared) * i, min((piece - shared) * i + piece, length)) for i in range(count)]


def in_picture(shapes: np.ndarray, crop: Box, size: tuple[int, int]) -> np.ndarray:
    """Bool masks [K, h, w] of a crop as masks of the picture, [K, H, W]."""
    if shapes.shape[1:] == size:
        return shapes
    x0, y0, x1, y1 = crop
    masks = np.zeros((len(shapes), *size), bool)
    masks[:, y0:y1, x0:x1] = shapes
    return masks


def mask_boxes(masks: np.ndarray) -> np.ndarray:
    """The boxes around bool masks [N, H, W], both corners included: int64 [N, 4]; zeros for an empty
    mask."""
    boxes = np.zeros((len(masks), 4), np.int64)
    for mask, box in zip(masks, boxes, strict=True):
        columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
        if len(rows):
            box[:] = columns[0], rows[0], columns[-1], rows[-1]
    return boxes


def is_cut_off(boxes: np.ndarray, crop: Box, size: tuple[int, int]) -> np.ndarray:
    """Which boxes [N, 4] (in the picture) end at an edge of their crop that is not one of the
    picture: bool [N]."""
    height, width = size
    at_crop = np.abs(boxes - np.array(crop)) <= EDGE
    at_picture = np.abs(boxes - np.array([0, 0, width, height])) <= EDGE
    return (at_crop & ~at_picture).any(1)


def suppress(boxes: np.ndarray, scores: np.ndarray, limit: float) -> np.ndarray:
    """Greedy non-maximum suppression: the indices of the boxes that stay, best score first.

    A box goes where its IoU with a better one that stays is above `limit`; of equal scores the
    earlier is better. Areas are those between the corners, as torchvision counts them, and a box
    without area suppresses nothing and stays (OpenCV's `NMSBoxes` would drop it, and refuses scores
    of 0).
    boxes: [N, 4]; scores: [N].
    """
    corners = boxes.astype(np.float64)
    areas = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    left = np.argsort(-scores, kind="stable")
    stay = []
    while len(left):
        best, left = left[0], left[1:]
        stay.append(best)
        low = np.maximum(corners[best, :2], corners[left, :2])
        high = np.minimum(corners[best, 2:], corners[left, 2:])
        shared = (high - low).clip(min=0).prod(1)
        left = left[shared <= limit * (areas[best] + areas[left] - shared)]
    return np.array(stay, np.int64)

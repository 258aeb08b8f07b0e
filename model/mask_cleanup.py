"""Fill small holes in masks and remove small islands.

A hole is a connected piece of background, an island a connected piece of the mask; pixels that
touch at a corner are connected. OpenCV counts them on the CPU, and torch alone on any device, with
the same result.
"""

from __future__ import annotations

from math import prod

import cv2
import numpy as np
import torch
from torch import Tensor

FILLED = 10.0
"""How far above the threshold a filled hole comes to lie, and a removed island below it: far enough
to survive being enlarged."""


def clean(
    logits: Tensor,
    *,
    max_hole_area: float = 0.0,
    max_sprinkle_area: float = 0.0,
    threshold: float = 0.0,
) -> Tensor:
    """Mask logits [..., H, W] without holes, then without islands, of up to so many pixels.

    Islands are looked for after holes were filled, so the result has neither: cleaning it again
    changes nothing. Other logits keep their value; an area of 0 turns its part off.
    """
    if max_hole_area > 0:
        holes = small_pieces(logits <= threshold, max_hole_area)
        logits = torch.where(holes, threshold + FILLED, logits)
    if max_sprinkle_area > 0:
        islands = small_pieces(logits > threshold, max_sprinkle_area)
        logits = torch.where(islands, threshold - FILLED, logits)
    return logits


def fill_holes(logits: Tensor, max_area: float, score: float = 0.1) -> Tensor:
    """Mask logits [..., H, W], where holes of up to `max_area` pixels have become `score`.

    The score is that of the reference's video predictor: just inside.
    """
    if max_area <= 0:
        return logits
    return torch.where(small_pieces(logits <= 0, max_area), score, logits)


def drop_small_regions(masks: Tensor, min_area: float) -> tuple[Tensor, Tensor]:
    """Bool masks [N, H, W] with holes, then islands, smaller than `min_area` pixels gone; and
    which of them changed, bool [N].

    A mask of small islands only keeps its largest one (of several, the first that is met row by
    row), so no mask vanishes.
    """
    filled = masks | small_pieces(~masks, min_area, inclusive=False)
    areas = piece_areas(filled)
    largest = areas.flatten(1).amax(1) if masks.numel() else areas.new_zeros(len(masks))
    kept = areas >= min_area
    nothing = ~kept.flatten(1).any(1) & (largest > 0)
    for row in nothing.nonzero()[:, 0].tolist():
        kept[row] = _first_piece(areas[row] == largest[row])
    kept &= filled
    return kept, (kept != masks).flatten(1).any(1)


def small_pieces(masks: Tensor, max_area: float, *, inclusive: bool = True) -> Tensor:
    """Which pixels of bool [..., H, W] belong to a piece of at most (or less than) `max_area`."""
    areas = piece_areas(masks)
    return masks & (areas <= max_area if inclusive else areas < max_area)


def piece_areas(masks: Tensor) -> Tensor:
    """For each pixel of bool [..., H, W] the pixels of the piece it belongs to, int32; 0 outside."""
    flat = masks.reshape(prod(masks.shape[:-2]), *masks.shape[-2:])
    count = _areas_by_opencv if masks.device.type == "cpu" else _areas_by_torch
    return count(flat).reshape(masks.shape)


def _areas_by_opencv(masks: Tensor) -> Tensor:
    """`piece_areas` of [N, H, W], one mask after the other."""
    areas = np.zeros(masks.shape, np.int32)
    for mask, area in zip(masks.contiguous().numpy().view(np.uint8), areas, strict=True):
        _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        sizes = stats[:, cv2.CC_STAT_AREA]
        sizes[0] = 0
        area[:] = sizes[labels]
    return torch.from_numpy(areas)


def _areas_by_torch(masks: Tensor) -> Tensor:
    """`piece_areas` of [N, H, W], all masks at once, on any device."""
    labels = _labels(masks).flatten()
    ones = masks.flatten().int()
    sizes = torch.zeros_like(ones).scatter_add_(0, labels, ones)
    return (sizes[labels] * ones).reshape(masks.shape)


def _labels(masks: Tensor) -> Tensor:
    """int64 [N, H, W]: the same number for the pixels of a piece, the highest index among them.

    Every pixel points at a higher one of its piece, at first itself. In each round it looks where
    its neighbours point, hooks what it pointed at so far onto the highest of these, and follows its
    pointer twice as far; rounds grow with the logarithm of a piece's length, where handing labels
    from pixel to pixel would take its whole length.
    """
    parent = torch.arange(masks.numel(), device=masks.device)
    inside = masks.flatten()
    while True:
        above = parent[parent]
        seen = _highest_around(above.view(masks.shape).masked_fill(~masks, -1)).flatten()
        seen = torch.where(inside, seen, above)
        following = parent.scatter_reduce(0, parent, seen, "amax")
        following = torch.maximum(torch.maximum(following, seen), above)
        if torch.equal(following, parent):
            return parent.view(masks.shape)
        parent = following


def _highest_around(values: Tensor) -> Tensor:
    """The highest of each pixel of [N, H, W] and its eight neighbours."""
    rows = values.clone()
    rows[:, 1:] = torch.maximum(rows[:, 1:], values[:, :-1])
    rows[:, :-1] = torch.maximum(rows[:, :-1], values[:, 1:])
    both = rows.clone()
    both[..., 1:] = torch.maximum(both[..., 1:], rows[..., :-1])
    both[..., :-1] = torch.maximum(both[..., :-1], rows[..., 1:])
    return both


def _first_piece(mask: Tensor) -> Tensor:
    """Of a bool mask [H, W], the piece with the first pixel row by row."""
    labels = _labels(mask[None])[0]
    return mask & (labels == labels[mask][0])

"""Sampling pictures and masks through one matrix, once, without aliasing.

Coordinates are continuous: the centre of the first pixel is (0.5, 0.5), the picture ends at (W, H).
"""

from __future__ import annotations

import cv2
import numpy as np

FILL = (123, 116, 103)
"""What lies outside the picture: the ImageNet mean, which is 0 after normalisation."""


def render(
    picture: np.ndarray,
    matrix: np.ndarray,
    side: int,
    fill: tuple[int, ...] = (0, 0, 0, 0),
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Sample a uint8 picture [H, W] or [H, W, 3] at side x side output pixels.

    matrix: float [3, 3], output points to picture points. Where it makes the picture much smaller,
    the picture is averaged first, each axis by its own factor. out: uint8, to write into.
    """
    return _sample(picture, matrix, (side, side), fill, out)


def _sample(
    picture: np.ndarray,
    matrix: np.ndarray,
    size: tuple[int, int],
    fill: tuple[int, ...] = (0, 0, 0, 0),
    out: np.ndarray | None = None,
) -> np.ndarray:
    """`render` for an output of any size (width, height)."""
    picture, matrix = _prefilter(picture, matrix)
    height, width = picture.shape[:2]
    # OpenCV puts pixel centres at whole numbers.
    pixels = matrix[:2].copy()
    pixels[:, 2] += matrix[:2, :2] @ (0.5, 0.5) - 0.5
    colour = picture.ndim == 3
    if colour:  # four channels are sampled at twice the speed of three
        picture = cv2.cvtColor(picture, cv2.COLOR_RGB2RGBA)
    # The outermost half pixel has no neighbour. Where nothing lies outside, repeat the edge rather
    # than mix in the fill.
    border = cv2.BORDER_REPLICATE if _covers(matrix, size, width, height) else cv2.BORDER_CONSTANT
    sampled = cv2.warpAffine(
        picture,
        pixels,
        size,
        dst=None if colour else out,
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=border,
        borderValue=fill,
    )
    return cv2.cvtColor(sampled, cv2.COLOR_RGBA2RGB, dst=out) if colour else sampled


def render_masks(
    masks: np.ndarray, matrix: np.ndarray, side: int, out: np.ndarray | None = None
) -> np.ndarray:
    """Bool masks [O, H, W] sampled as grey pictures and cut at one half: bool [O, side, side].

    Only the part of a picture where its mask lies is looked at. out: zeros to write into.
    """
    if out is None:
        out = np.zeros((len(masks), side, side), dtype=bool)
    for mask, target in zip(masks, out, strict=True):
        _render_mask(mask.view(np.uint8), matrix, target)
    return out


def _render_mask(mask: np.ndarray, matrix: np.ndarray, out: np.ndarray) -> None:
    x, y, width, height = cv2.boundingRect(mask)
    if not width:
        return
    # Sampling looks three output pixels far. Halving in `_prefilter` pairs the same pixels as in the
    # whole picture where a part of it begins and ends at multiples of 64.
    far_x, far_y = (int(3 * step) + 2 for step in np.hypot(matrix[:2, 0], matrix[:2, 1]))
    left, top = max(0, x - far_x) // 64 * 64, max(0, y - far_y) // 64 * 64
    right = min(mask.shape[1], -(-(x + width + far_x) // 64) * 64)
    bottom = min(mask.shape[0], -(-(y + height + far_y) // 64) * 64)

    forward = np.linalg.inv(matrix)
    corners = np.array([[x, x + width] * 2, [y, y, y + height, y + height], [1.0] * 4])
    points = (forward @ corners)[:2]
    low = np.maximum(np.floor(points.min(axis=1)).astype(int) - 1, 0)
    high = np.minimum(np.ceil(points.max(axis=1)).astype(int) + 1, len(out))
    if (low >= high).any():
        return
    to_part = np.array([[1.0, 0, -left], [0, 1, -top], [0, 0, 1]])
    from_window = np.array([[1.0, 0, low[0]], [0, 1, low[1]], [0, 0, 1]])
    grey = mask[top:bottom, left:right] * np.uint8(255)
    sampled = _sample(grey, to_part @ matrix @ from_window, (high[0] - low[0], high[1] - low[1]))
    out[low[1] : high[1], low[0] : high[0]] = sampled >= 128


def _prefilter(picture: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The picture averaged until bilinear sampling skips none of it, and the matrix that fits it.

    Halvings are exact averages and cheap; what is left, less than a factor of four, is one box
    filter. The widths give the variance of an antialiased bilinear resize, as at inference. An odd
    last row or column, less than half an output pixel, is cut off.
    """
    steps = np.hypot(matrix[:2, 0], matrix[:2, 1])
    blurred = np.zeros(2)  # 12 times the variance of what was done so far
    while steps.max() >= 4:
        x, y = (2 if step >= 4 else 1 for step in steps)
        height, width = picture.shape[0] // y, picture.shape[1] // x
        if not height or not width:
            break
        whole = picture[: height * y, : width * x]
        picture = cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)
        matrix = np.diag([1 / x, 1 / y, 1.0]) @ matrix
        blurred = np.where([x == 2, y == 2], (blurred + 3) / 4, blurred)
        steps = steps / (x, y)
    # The tent of an antialiased resize has 12 times the variance 2 step^2, bilinear sampling has 2.
    across, down = (_box(left) for left in 2 * steps**2 - 2 - blurred)
    if len(across) > 1 or len(down) > 1:
        picture = cv2.sepFilter2D(picture, -1, across, down, borderType=cv2.BORDER_REPLICATE)
    return picture, matrix


def _box(square: float) -> np.ndarray:
    """Taps that average sqrt(square) pixels, or a single one where that is about a pixel."""
    width = np.sqrt(max(square, 0.0))
    if width <= 1.2:
        return np.ones(1)
    whole = max(0, int(np.ceil((width - 1) / 2)) - 1)
    edge = (width - 1) / 2 - whole
    return np.array([edge, *[1.0] * (2 * whole + 1), edge]) / width


def _covers(matrix: np.ndarray, size: tuple[int, int], width: int, height: int) -> bool:
    """Whether all that is sampled lies inside the picture, up to half a pixel."""
    across, down = size
    corners = matrix[:2] @ np.array([[0, across, 0, across], [0, 0, down, down], [1, 1, 1, 1]])
    low, high = corners.min(axis=1), corners.max(axis=1)
    return bool((low >= -0.5).all() and (high <= np.array([width, height]) + 0.5).all())


def tile(
    frames: np.ndarray, masks: np.ndarray, side: int, corner: int
) -> tuple[np.ndarray, np.ndarray]:
    """The clip four times in a 2x2 grid of side x side; the masks only in the given corner, 0 to
    3."""
    half = frames.shape[1]
    grid = np.tile(frames, (1, 2, 2, 1))
    placed = np.zeros((*masks.shape[:2], side, side), dtype=bool)
    top, left = (corner // 2) * half, (corner % 2) * half
    placed[:, :, top : top + half, left : left + half] = masks
    return grid, placed

"""Sampling pictures and masks through one matrix, once, without aliasing.

Coordinates are continuous: the centre of the first pixel is (0.5, 0.5), the picture ends at (W, H).
"""

from __future__ import annotations

import cv2
import numpy as np


def render(
    picture: np.ndarray, matrix: np.ndarray, side: int, fill: tuple[int, ...] = (0, 0, 0, 0)
) -> np.ndarray:
    """Sample a uint8 picture [H, W] or [H, W, C], C up to 4, at side x side output pixels.

    matrix: float [3, 3], output points to picture points. Where it makes the picture much smaller,
    the picture is averaged first, each axis by its own factor.
    """
    picture, matrix = _prefilter(picture, matrix)
    height, width = picture.shape[:2]
    # OpenCV puts pixel centres at whole numbers.
    pixels = matrix[:2].copy()
    pixels[:, 2] += matrix[:2, :2] @ (0.5, 0.5) - 0.5
    colour = picture.ndim == 3 and picture.shape[2] == 3
    if colour:  # four channels are sampled at twice the speed of three
        picture = cv2.cvtColor(picture, cv2.COLOR_RGB2RGBA)
    # The outermost half pixel has no neighbour. Where nothing lies outside, repeat the edge rather
    # than mix in the fill.
    border = cv2.BORDER_REPLICATE if _covers(matrix, side, width, height) else cv2.BORDER_CONSTANT
    out = cv2.warpAffine(
        picture,
        pixels,
        (side, side),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=border,
        borderValue=fill,
    )
    return cv2.cvtColor(out, cv2.COLOR_RGBA2RGB) if colour else out


def render_masks(masks: np.ndarray, matrix: np.ndarray, side: int) -> np.ndarray:
    """Bool masks [O, H, W] sampled as grey pictures and cut at one half: bool [O, side, side]."""
    out = np.zeros((len(masks), side, side), dtype=bool)
    shown = [o for o, mask in enumerate(masks) if mask.any()]
    for start in range(0, len(shown), 4):
        group = shown[start : start + 4]
        # Up to four masks are the channels of one picture; three are slow, see `render`.
        planes = [
            masks[o].view(np.uint8) for o in (group + group[:1] if len(group) == 3 else group)
        ]
        grey = cv2.merge(planes) * np.uint8(255)
        sampled = render(grey, matrix, side).reshape(side, side, len(planes))
        for plane, o in enumerate(group):
            np.greater_equal(sampled[..., plane], 128, out=out[o])
    return out


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


def _covers(matrix: np.ndarray, side: int, width: int, height: int) -> bool:
    """Whether all that is sampled lies inside the picture, up to half a pixel."""
    corners = matrix[:2] @ np.array([[0, side, 0, side], [0, 0, side, side], [1, 1, 1, 1]])
    low, high = corners.min(axis=1), corners.max(axis=1)
    return bool((low >= -0.5).all() and (high <= np.array([width, height]) + 0.5).all())

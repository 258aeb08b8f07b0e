"""Colour changes of a frame as one matrix, and blur.

The stages (brightness, contrast, saturation, hue, grey) are not clipped or rounded in between,
which differs from a chain of separate operations only where they would saturate.
"""

from __future__ import annotations

import cv2
import numpy as np

from data.changes import OPERATIONS, FrameChange, Shades

LUMA = np.array([0.299, 0.587, 0.114])
TO_LUMA = np.ones((3, 1)) * LUMA
TO_YIQ = np.array([LUMA, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
FROM_YIQ = np.linalg.inv(TO_YIQ)


def change_colours(frame: np.ndarray, change: FrameChange, out: np.ndarray) -> None:
    """Write `frame`, uint8 [H, W, 3], with the colours and the blur of `change` into `out`."""
    matrix = colour_matrix(change, frame)
    if np.allclose(matrix, np.eye(3, 4), atol=1e-9):
        out[:] = frame
    else:
        cv2.transform(frame, matrix, dst=out)
    if change.blur:
        out[:] = blur(out, change.blur)


def blur(frame: np.ndarray, sigma: float) -> np.ndarray:
    """`frame` blurred by `sigma` pixels of a picture 256 high."""
    return cv2.GaussianBlur(frame, (0, 0), sigma * frame.shape[0] / 256)


def colour_matrix(change: FrameChange, frame: np.ndarray) -> np.ndarray:
    """float64 [3, 4], RGB and 1 to RGB. Contrast is about the mean brightness of `frame`, which is
    taken from every fourth pixel of every fourth row."""
    mean = frame[::4, ::4].reshape(-1, 3).mean(axis=0)
    matrix = _shade(np.eye(3, 4), change.shades, mean)
    if change.gray:
        matrix = TO_LUMA @ matrix
    return _shade(matrix, change.frame_shades, mean)


def _shade(matrix: np.ndarray, shades: Shades, mean: np.ndarray) -> np.ndarray:
    """`matrix` followed by a jitter; mean: of the original colours."""
    for position in shades.order:
        operation = OPERATIONS[position]
        amount = getattr(shades, operation)
        if operation == "brightness":
            matrix = matrix * amount
        elif operation == "contrast":
            level = LUMA @ (matrix[:, :3] @ mean + matrix[:, 3])
            matrix = matrix * amount
            matrix[:, 3] += (1 - amount) * level
        elif operation == "saturation":
            matrix = (amount * np.eye(3) + (1 - amount) * TO_LUMA) @ matrix
        elif amount:
            cos, sin = np.cos(2 * np.pi * amount), np.sin(2 * np.pi * amount)
            matrix = (
                FROM_YIQ @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]) @ TO_YIQ @ matrix
            )
    return matrix

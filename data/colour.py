"""Colour changes of a clip as one matrix per frame, and blur.

The stages (brightness, contrast, saturation, hue, grey) are not clipped in between, which differs
from a chain of separate operations only where they would saturate.
"""

from __future__ import annotations

import cv2
import numpy as np

from data.spec import Augment

LUMA = np.array([0.299, 0.587, 0.114])
TO_YIQ = np.array([LUMA, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
FROM_YIQ = np.linalg.inv(TO_YIQ)


def change_colours(frames: np.ndarray, augment: Augment, rng: np.random.Generator) -> np.ndarray:
    """uint8 [T, H, W, 3] with one colour change for the clip, a further one per frame, and maybe
    blur."""
    strengths = (augment.brightness, augment.contrast, augment.saturation)
    draws = rng.random(6)
    mean = _mean_luma(frames[0])
    change = _colour_matrix(
        [1 + (2 * draw - 1) * most for draw, most in zip(draws, strengths, strict=False)],
        angle=2 * np.pi * (2 * draws[3] - 1) * augment.hue,
        gray=bool(draws[4] < augment.gray),
        mean=mean,
    )
    jitter = 1 + (2 * rng.random((len(frames), 3)) - 1) * augment.frame_jitter
    if augment.frame_jitter:
        out = np.empty_like(frames)
        for frame, target, factors in zip(frames, out, jitter, strict=True):
            further = _colour_matrix(list(factors), angle=0.0, gray=False, mean=mean)
            cv2.transform(frame, _chain(change, further), dst=target)
    elif np.allclose(change, np.eye(3, 4), atol=1e-9):
        out = frames
    else:
        tall = frames.reshape(-1, frames.shape[2], 3)
        out = cv2.transform(tall, change).reshape(frames.shape)
    if draws[5] < augment.blur:
        sigma = float(rng.uniform(0.1, 1.0)) * frames.shape[1] / 256
        out = np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in out])
    return out


def _mean_luma(frame: np.ndarray) -> float:
    return float(frame[::2, ::2].mean(axis=(0, 1)) @ LUMA)


def _colour_matrix(factors: list[float], angle: float, gray: bool, mean: float) -> np.ndarray:
    """[3, 4] for brightness, contrast (about `mean`), saturation, hue and grey, in this order."""
    brightness, contrast, saturation = factors
    to_luma = np.ones((3, 1)) * LUMA
    colour = saturation * np.eye(3) + (1 - saturation) * to_luma
    if angle:
        cos, sin = np.cos(angle), np.sin(angle)
        colour = FROM_YIQ @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]) @ TO_YIQ @ colour
    if gray:
        colour = to_luma @ colour
    linear = colour * (brightness * contrast)
    offset = colour @ np.full(3, (1 - contrast) * brightness * mean)
    return np.hstack([linear, offset[:, None]])


def _chain(first: np.ndarray, then: np.ndarray) -> np.ndarray:
    """The [3, 4] colour change that does one after the other."""
    return np.hstack([then[:, :3] @ first[:, :3], then[:, :3] @ first[:, 3:] + then[:, 3:]])

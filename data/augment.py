"""Random changes of a clip, and its way to the model's square.

Flip, turn, shear, zoom and the resize are one matrix, so every frame and mask is warped once,
straight to the output size. Colours change by one matrix as well: the stages are not clipped in
between, which differs from a chain of separate operations only where they would saturate.

Coordinates are continuous: the centre of the first pixel is (0.5, 0.5), the picture ends at (W, H).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.colour import change_colours
from data.spec import Augment
from data.types import Clip
from data.warp import render, render_masks

FILL = (124, 116, 104)
"""What lies outside the picture: the ImageNet mean, which is 0 after normalisation."""


@dataclass(frozen=True)
class Geometry:
    """One draw of where things go, independent of the picture's size."""

    flip: bool = False
    rotate: float = 0.0
    """Degrees."""
    shear: tuple[float, float] = (0.0, 0.0)
    """Degrees along x and y."""
    zoom: float = 1.0
    place: tuple[float, float] = (0.5, 0.5)
    """Where in the range left free by the zoom, 0 to 1 along x and y."""

    def matrix(self, width: int, height: int, side: int) -> np.ndarray:
        """float64 [3, 3] that takes output points (0 .. side) to points of a width x height
        picture."""
        centre = np.array([width, height]) / 2
        turn = np.deg2rad(self.rotate)
        x, y = np.tan(np.deg2rad(self.shear))
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        linear = rotation @ np.array([[1.0, x], [y, 1.0]])
        if self.flip:
            linear = linear @ np.diag([-1.0, 1.0])
        free = (1 - 1 / self.zoom) * (np.array(self.place) - 0.5) * np.array([width, height])

        window = np.diag([width / self.zoom / side, height / self.zoom / side, 1.0])
        window[:2, 2] = centre - centre / self.zoom + free
        back = np.eye(3)
        back[:2, :2] = np.linalg.inv(linear)
        back[:2, 2] = centre - back[:2, :2] @ centre
        return back @ window


def draw_geometry(augment: Augment, rng: np.random.Generator) -> Geometry:
    """One random geometry. The number of draws does not depend on the settings."""
    flip, turn, shear_x, shear_y, zoom, x, y = rng.random(7)
    low, high = np.log(augment.scale)
    return Geometry(
        flip=bool(flip < augment.flip),
        rotate=float((2 * turn - 1) * augment.rotate),
        shear=(float((2 * shear_x - 1) * augment.shear), float((2 * shear_y - 1) * augment.shear)),
        zoom=float(np.exp(low + zoom * (high - low))),
        place=(float(x), float(y)),
    )


def augment_clip(clip: Clip, augment: Augment, side: int, rng: np.random.Generator) -> Clip:
    """`clip` changed at random and resized to side x side.

    A geometry that pushes an object out of the first frame is replaced by the plain resize; an
    object of which that leaves no pixel either is dropped.
    """
    geometry = draw_geometry(augment, rng)
    tiled = rng.random() < augment.mosaic
    inner = side // 2 if tiled else side
    height, width = clip.frames.shape[1:3]

    matrix = geometry.matrix(width, height, inner)
    first = render_masks(clip.masks[0], matrix, inner)
    kept = np.flatnonzero(first.any(axis=(1, 2)))
    if len(kept) < len(first):
        plain = Geometry(flip=geometry.flip).matrix(width, height, inner)
        resized = render_masks(clip.masks[0], plain, inner)
        possible = np.flatnonzero(resized.any(axis=(1, 2)))
        if not np.isin(possible, kept).all():
            matrix, first, kept = plain, resized, possible

    rest = [render_masks(frame[kept], matrix, inner) for frame in clip.masks[1:]]
    masks = np.stack([first[kept], *rest])
    frames = np.stack([render(frame, matrix, inner, FILL) for frame in clip.frames])
    frames = change_colours(frames, augment, rng)
    if tiled:
        frames, masks = tile(frames, masks, side, int(rng.integers(4)))
    return Clip(
        name=clip.name,
        dataset=clip.dataset,
        frames=frames,
        masks=masks,
        object_ids=tuple(clip.object_ids[i] for i in kept),
        frame_numbers=clip.frame_numbers,
    )


def resize_clip(clip: Clip, side: int) -> Clip:
    """`clip` resized to side x side, every object kept."""
    height, width = clip.frames.shape[1:3]
    matrix = Geometry().matrix(width, height, side)
    return Clip(
        name=clip.name,
        dataset=clip.dataset,
        frames=np.stack([render(frame, matrix, side, FILL) for frame in clip.frames]),
        masks=np.stack([render_masks(frame, matrix, side) for frame in clip.masks]),
        object_ids=clip.object_ids,
        frame_numbers=clip.frame_numbers,
    )


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

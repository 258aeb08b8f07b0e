"""What will be changed about a clip: the random draws, and the geometry they stand for.

Both renderers, the fast one (`data.augment`) and the exact one (`data.exact`), carry out the same
draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from data.settings import Augment, Jitter

OPERATIONS = ("brightness", "contrast", "saturation", "hue")
"""The parts of a jitter; `Shades.order` holds positions in this."""

SEPARATE = ("flip", "affine", "gray", "blur")
"""What may be drawn for each frame instead of the clip."""


@dataclass(frozen=True)
class Geometry:
    """Where things go, independent of the picture's size: a flip, then one affine change about the
    centre.

    Angles follow torchvision's `affine`: a positive turn is clockwise as seen.
    """

    flip: bool = False
    rotate: float = 0.0
    """Degrees."""
    shear: float = 0.0
    """Degrees along x."""
    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    """As a share of width and height, to the right and down."""

    @property
    def is_affine(self) -> bool:
        """Whether anything but the flip is left to do."""
        return (self.rotate, self.shear, self.scale, self.shift) != (0.0, 0.0, 1.0, (0.0, 0.0))

    def inverse(self, width: int, height: int) -> np.ndarray:
        """float64 [2, 3] that takes a point of the changed picture, from its centre, to the point
        of the flipped picture it shows, from its centre; pixels."""
        turn, shear = np.deg2rad(self.rotate), np.tan(np.deg2rad(self.shear))
        sin, cos = np.sin(turn), np.cos(turn)
        linear = np.array([[cos - shear * sin, sin + shear * cos], [-sin, cos]]) / self.scale
        shift = linear @ (np.array(self.shift) * (width, height))
        return np.hstack([linear, -shift[:, None]])

    def matrix(self, width: int, height: int, side: int) -> np.ndarray:
        """float64 [3, 3] that takes output points (0 .. side) to points of a width x height
        picture. Continuous coordinates: the centre of the first pixel is (0.5, 0.5)."""
        centre = np.array([width, height]) / 2
        back = np.eye(3)
        back[:2] = self.inverse(width, height)
        back[:2, 2] += centre - back[:2, :2] @ centre
        if self.flip:
            back = np.array([[-1.0, 0, width], [0, 1, 0], [0, 0, 1]]) @ back
        return back @ np.diag([width / side, height / side, 1.0])


class Shades(NamedTuple):
    """One change of colours: factors around 1 of brightness, contrast and saturation, a turn of
    the hue (0.5 is half the circle), and the order they come in."""

    order: tuple[int, ...] = (0, 1, 2, 3)
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0


class FrameChange(NamedTuple):
    """All that happens to one frame, in this order; `blur` is a standard deviation in pixels of a
    picture 256 high, 0 for none."""

    geometry: Geometry = Geometry()
    shades: Shades = Shades()
    gray: bool = False
    frame_shades: Shades = Shades()
    blur: float = 0.0


class ClipChange(NamedTuple):
    """One change for each frame; then the clip may become a 2x2 mosaic whose masks are in `tile`,
    0 to 3."""

    frames: tuple[FrameChange, ...]
    tile: int | None = None


class _Uniforms(NamedTuple):
    """Numbers between 0 and 1; one row of the table that `draw_changes` draws."""

    flip: float
    rotate: float
    shear: float
    scale: float
    place: np.ndarray
    shift: np.ndarray
    gray: float
    blur: float
    sigma: float
    shades: np.ndarray
    frame_shades: np.ndarray

    @classmethod
    def of(cls, row: np.ndarray) -> _Uniforms:
        """One row of the table, COLUMNS long."""
        flip, rotate, shear, scale, gray, blur, sigma = row[:7].tolist()
        place, shift, shades, frame_shades = row[7:9], row[9:11], row[11:19], row[19:27]
        return cls(
            flip, rotate, shear, scale, place, shift, gray, blur, sigma, shades, frame_shades
        )


COLUMNS = 27


def draw_changes(augment: Augment, frames: int, rng: np.random.Generator) -> ClipChange:
    """Random changes of a clip of `frames` frames. How much of `rng` is used depends on `frames`
    alone, so that one setting does not disturb the draws of another."""
    mosaic, corner = rng.random(2)
    whole, *each = (_Uniforms.of(row) for row in rng.random((frames + 1, COLUMNS)))

    def of(frame: _Uniforms) -> FrameChange:
        own = {name: frame if name in augment.each_frame else whole for name in SEPARATE}
        flip = bool(own["flip"].flip < augment.flip)
        return FrameChange(
            geometry=_geometry(augment, flip, own["affine"]),
            shades=_shades(augment.jitter, whole.shades),
            gray=bool(own["gray"].gray < augment.gray),
            frame_shades=_shades(augment.frame_jitter, frame.frame_shades),
            blur=float(0.1 + 0.9 * own["blur"].sigma) if own["blur"].blur < augment.blur else 0.0,
        )

    return ClipChange(
        tuple(of(frame) for frame in each), int(4 * corner) if mosaic < augment.mosaic else None
    )


def _geometry(augment: Augment, flip: bool, draw: _Uniforms) -> Geometry:
    low, high = np.log(augment.scale)
    scale = float(np.exp(low + draw.scale * (high - low)))
    # A window of 1/scale of the picture, anywhere in it, or the picture anywhere in the window.
    place = (1 - scale) * (draw.place - 0.5)
    shift = place + augment.translate * (2 * draw.shift - 1)
    return Geometry(
        flip=flip,
        rotate=float((2 * draw.rotate - 1) * augment.rotate),
        shear=float((2 * draw.shear - 1) * augment.shear),
        scale=scale,
        shift=(float(shift[0]), float(shift[1])),
    )


def _shades(jitter: Jitter, draw: np.ndarray) -> Shades:
    """A jitter whose parts come in random order."""
    most = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    brightness, contrast, saturation, hue = ((2 * draw[:4] - 1) * most).tolist()
    order = tuple(np.argsort(draw[4:]).tolist())
    return Shades(order, 1 + brightness, 1 + contrast, 1 + saturation, hue)

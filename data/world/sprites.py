"""Objects: a shape, painted, lit from above, with a soft shadow, ready to be moved about."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from data.world.shapes import Shape, draw_shape
from data.world.spec import Split
from data.world.textures import colour, companion, surface

_FINE = 3  # shapes are cut at three times the size and averaged down: soft edges, exact areas


@dataclass(frozen=True)
class Sprite:
    """One object at rest, R pixels square, its middle at (R - 1) / 2.

    paint: float32 [R, R, 4], RGB in 0..255 already multiplied by the last channel, the coverage.
    part: float32 [R, R], coverage of the part that has a name of its own, or None.
    shadow: float32 [R, R], softened coverage.
    reach: pixels from the middle to the farthest point.
    """

    family: str
    paint: np.ndarray
    part: np.ndarray | None
    shadow: np.ndarray
    reach: float


def make_sprite(
    rng: np.random.Generator, split: Split, pixels: float, avoid: list[np.ndarray]
) -> tuple[Sprite, np.ndarray]:
    """A new object that covers about `pixels` pixels, and its main colour (float32 RGB in 0..1).

    avoid: colours it shall differ from: the background's and those of the objects beside it.
    """
    family, shape = draw_shape(rng, split)
    first = _colour_unlike(rng, avoid)
    shape, side = _fit(shape, pixels)
    return cut_sprite(rng, split, family, shape, side, (first, companion(rng, first))), first


def cut_sprite(
    rng: np.random.Generator,
    split: Split,
    family: str,
    shape: Shape,
    side: int,
    colours: tuple[np.ndarray, np.ndarray],
) -> Sprite:
    """Paint a shape whose outlines are in pixels around the origin on a square of `side` pixels."""
    first, second = colours
    layers = [_coverage(part.outline, part.holes, side) for part in shape]
    body = np.maximum.reduce(layers)
    rgb = np.broadcast_to(first, (side, side, 3)).copy()
    paints = _paints(rng, split, side, first, second)
    for part, layer in zip(shape, layers, strict=True):
        rgb += (paints[part.paint] - rgb) * layer[..., None]
        if part.paint == "trim":
            rgb *= (1 - 0.35 * _rim(layer))[..., None]
    rgb = np.clip(rgb * _relief(rng, body)[..., None], 0, 1)
    rgb *= 255 * body[..., None]
    paint = np.concatenate([rgb, body[..., None]], 2)

    named = [i for i, part in enumerate(shape) if part.named]
    named_part = _seen(layers, named[0]) if named else None
    shadow = cv2.GaussianBlur(body, (0, 0), max(1.0, side * 0.03))
    outline = np.concatenate([part.outline for part in shape])
    reach = float(np.hypot(outline[:, 0], outline[:, 1]).max())
    return Sprite(family, paint, named_part, shadow, reach)


def _paints(
    rng: np.random.Generator, split: Split, side: int, first: np.ndarray, second: np.ndarray
) -> dict[str, np.ndarray]:
    """What each kind of paint looks like on this object, float32 [R, R, 3] or one colour [3]."""
    trim = companion(rng, first)
    return {
        "skin": surface(rng, split, side, first, second),
        "trim": surface(rng, split, side, trim, companion(rng, trim)),
        "dark": np.array([0.1, 0.1, 0.12], np.float32),
        "light": np.array([0.93, 0.93, 0.9], np.float32),
    }


def _colour_unlike(rng: np.random.Generator, avoid: list[np.ndarray]) -> np.ndarray:
    """A colour that stands out from all of `avoid`: the first far enough, or the best of twelve."""
    best, best_gap = colour(rng), -1.0
    for _ in range(12):
        candidate = colour(rng)
        gap = min((_distance(candidate, other) for other in avoid), default=1.0)
        if gap > best_gap:
            best, best_gap = candidate, gap
        if gap > 0.5:
            break
    return best


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    """How differently two colours look, roughly: tint counts more than brightness."""
    (r, g, b), (x, y, z) = one.tolist(), other.tolist()
    light = (r + g + b - x - y - z) / 3
    tint = abs(r - x - light) + abs(g - y - light) + abs(b - z - light)
    return 0.6 * tint + 0.8 * abs(light)


def _fit(shape: Shape, pixels: float) -> tuple[Shape, int]:
    """The shape centred and scaled to cover `pixels` pixels, and the side of its square."""
    points = np.concatenate([part.outline for part in shape])
    middle = (points.min(0) + points.max(0)) / 2
    probe = 64
    span = np.abs(points - middle).max()
    rough = _moved(shape, middle, probe * 0.45 / span)
    covered = np.maximum.reduce([_coverage(p.outline, p.holes, probe) for p in rough]).sum()
    scale = probe * 0.45 / span * float(np.sqrt(pixels / max(covered, 1.0)))
    fitted = _moved(shape, middle, scale)
    side = int(np.ceil(2 * span * scale)) + 6
    return fitted, side


def _moved(shape: Shape, middle: np.ndarray, scale: float) -> Shape:
    """The shape with `middle` at the origin, in pixels."""
    return tuple(
        type(part)(
            (part.outline - middle) * scale,
            part.paint,
            tuple((hole - middle) * scale for hole in part.holes),
            part.named,
        )
        for part in shape
    )


def _coverage(outline: np.ndarray, holes: tuple[np.ndarray, ...], side: int) -> np.ndarray:
    """How much of each pixel the outline covers, float32 [side, side] in 0..1."""
    fine = np.zeros((side * _FINE, side * _FINE), np.uint8)
    for loop, value in ((outline, 255), *((hole, 0) for hole in holes)):
        corners = np.round((loop + side / 2) * _FINE * 16).astype(np.int32)
        cv2.fillPoly(fine, [corners], value, lineType=cv2.LINE_8, shift=4)
    small = cv2.resize(fine, (side, side), interpolation=cv2.INTER_AREA)
    return small.astype(np.float32) / 255


def _seen(layers: list[np.ndarray], index: int) -> np.ndarray:
    """What the later layers leave of one."""
    rest = layers[index]
    for layer in layers[index + 1 :]:
        rest = rest * (1 - layer)
    return rest


def _rim(layer: np.ndarray) -> np.ndarray:
    """The inner edge of a layer, about a pixel wide."""
    return np.clip(layer - cv2.erode(layer, np.ones((3, 3), np.uint8)), 0, 1)


def _relief(rng: np.random.Generator, body: np.ndarray) -> np.ndarray:
    """Light and shade of a bulging body that is dark at its edge; float32 [R, R] around 1."""
    solid = (body > 0.5).astype(np.uint8)
    depth = cv2.distanceTransform(solid, cv2.DIST_L2, 3)
    height = np.sqrt(np.minimum(depth / max(float(depth.max()), 1.0), 1.0))
    height = cv2.GaussianBlur(height, (0, 0), max(1.0, body.shape[0] * 0.03)) * body.shape[0] * 0.16
    dx = cv2.Sobel(height, cv2.CV_32F, 1, 0, scale=0.125)
    dy = cv2.Sobel(height, cv2.CV_32F, 0, 1, scale=0.125)
    tilt = rng.uniform(-0.6, 0.6)
    shade = (dy + tilt * dx) / np.sqrt(1 + dx * dx + dy * dy)
    light = 1.0 + rng.uniform(0.25, 0.5) * shade
    return light * (1 - 0.4 * _rim(solid.astype(np.float32)))

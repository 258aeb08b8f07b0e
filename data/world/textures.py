"""Surfaces and backgrounds: photographs with a free licence, and patterns drawn by formula.

The photographs are those that the wheels of scikit-image and scikit-learn ship; none is fetched.
Training and validation take theirs from different ones.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np

from data.world.spec import Split
from pipeline.errors import DataError

SKIMAGE = ("skimage", "data", "scikit-image")
SKLEARN = ("sklearn", "datasets/images", "scikit-learn")

# (photograph, who ships it); grey ones are tinted. No photograph serves both splits.
PHOTOGRAPHS: dict[Split, tuple[tuple[str, tuple[str, str, str]], ...]] = {
    "train": (
        ("china.jpg", SKLEARN),
        ("coffee.png", SKIMAGE),
        ("astronaut.png", SKIMAGE),
        ("rocket.jpg", SKIMAGE),
        ("brick.png", SKIMAGE),
        ("grass.png", SKIMAGE),
        ("camera.png", SKIMAGE),
        ("hubble_deep_field.jpg", SKIMAGE),
        ("ihc.png", SKIMAGE),
    ),
    "val": (
        ("flower.jpg", SKLEARN),
        ("chelsea.png", SKIMAGE),
        ("motorcycle_left.png", SKIMAGE),
        ("gravel.png", SKIMAGE),
        ("moon.png", SKIMAGE),
        ("coins.png", SKIMAGE),
    ),
}

_SIDE = 480  # photographs are kept at this height: enough for crops of the small world


@lru_cache(maxsize=32)
def photograph(split: Split, index: int) -> np.ndarray:
    """One photograph of the split, uint8 RGB [H, W, 3]; do not write into it."""
    name, (package, folder, distribution) = PHOTOGRAPHS[split][index]
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise DataError(f"{distribution} is not installed; the world needs its photograph {name}")
    path = Path(found.submodule_search_locations[0]) / folder / name
    if not path.is_file():
        raise DataError(
            f"{path}: the photograph is missing; reinstall {distribution}, whose wheel ships it"
        )
    picture = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise DataError(f"{path}: not a readable picture; reinstall {distribution}")
    scale = _SIDE / picture.shape[0]
    if scale < 1:
        picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    picture = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
    picture.setflags(write=False)
    return picture


def crop(
    rng: np.random.Generator, split: Split, width: int, height: int, zoom: tuple[float, float]
) -> np.ndarray:
    """A random window of a random photograph, flipped at random, as uint8 [height, width, 3].

    zoom: fewest and most of the photograph's possible window side, as fractions.
    """
    picture = photograph(split, int(rng.integers(len(PHOTOGRAPHS[split]))))
    fit = min(picture.shape[1] / width, picture.shape[0] / height)
    share = rng.uniform(*zoom)
    w, h = max(8, int(width * fit * share)), max(8, int(height * fit * share))
    x = int(rng.integers(picture.shape[1] - w + 1))
    y = int(rng.integers(picture.shape[0] - h + 1))
    window = picture[y : y + h, x : x + w]
    method = cv2.INTER_AREA if w > width else cv2.INTER_CUBIC
    window = cv2.resize(window, (width, height), interpolation=method)
    return window[:, ::-1].copy() if rng.random() < 0.5 else window


def colour(rng: np.random.Generator, vivid: bool = True) -> np.ndarray:
    """A random colour, float32 RGB in 0..1: vivid as toys are, or dull as walls are."""
    hue = rng.random()
    saturation = rng.uniform(0.5, 1.0) if vivid else rng.uniform(0.05, 0.4)
    value = rng.uniform(0.45, 1.0) if vivid else rng.uniform(0.25, 0.85)
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value), np.float32)


def companion(rng: np.random.Generator, first: np.ndarray) -> np.ndarray:
    """A second colour for the same object: its tint, its shade, or one across the colour circle."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(float(c) for c in first))
    kind = rng.random()
    if kind < 0.4:
        value = value * 0.5 if value > 0.6 else min(1.0, value * 1.8)
        hue += rng.uniform(-0.05, 0.05)
    elif kind < 0.7:
        saturation, value = saturation * rng.uniform(0.1, 0.5), rng.uniform(0.75, 1.0)
    else:
        hue, value = hue + rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.95)
    return np.array(colorsys.hsv_to_rgb(hue % 1.0, min(1.0, saturation), value), np.float32)


def surface(
    rng: np.random.Generator, split: Split, side: int, first: np.ndarray, second: np.ndarray
) -> np.ndarray:
    """The skin of an object in two colours, float32 RGB [side, side, 3] in 0..1."""
    field = _photo_field(rng, split, side) if rng.random() < 0.4 else _pattern(rng, side)
    return first + (second - first) * field[..., None]


def _photo_field(rng: np.random.Generator, split: Split, side: int) -> np.ndarray:
    """The light and dark of a piece of photograph, stretched to 0..1."""
    grey = cv2.cvtColor(crop(rng, split, side, side, (0.25, 0.7)), cv2.COLOR_RGB2GRAY)
    low, high = np.percentile(grey[::2, ::2], (4, 96))
    return np.clip((grey.astype(np.float32) - low) / max(high - low, 12.0), 0, 1)


def _pattern(rng: np.random.Generator, side: int) -> np.ndarray:
    """A formula of the plane, float32 [side, side] in 0..1."""
    axis = np.linspace(-1, 1, side, dtype=np.float32)
    x, y = axis[None, :], axis[:, None]
    turn = rng.uniform(0, np.pi)
    c, s = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    draw: Callable[..., np.ndarray] = _PATTERNS[int(rng.integers(len(_PATTERNS)))]
    return draw(rng, c * x + s * y, c * y - s * x)


def _crisp(wave: np.ndarray, hardness: float) -> np.ndarray:
    """A wave in -1..1 as a field in 0..1, with edges as sharp as `hardness` says."""
    return np.clip(0.5 + hardness * wave, 0, 1)


def _stripes(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    bend = rng.uniform(0, 0.25) * np.sin(rng.uniform(2, 5) * v)
    return _crisp(np.sin(rng.uniform(6, 20) * (u + bend) + rng.uniform(0, 6)), 2.5)


def _checks(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    rate = rng.uniform(6, 14)
    return _crisp(np.sin(rate * u) * np.sin(rate * v), 5.0)


def _dots(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    rate = rng.uniform(7, 15)
    return _crisp(np.cos(rate * u) + np.cos(rate * v) - rng.uniform(0.5, 1.1), 2.0)


def _rings(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    radius = np.hypot(u - rng.uniform(-0.4, 0.4), v - rng.uniform(-0.4, 0.4))
    return _crisp(np.sin(rng.uniform(8, 18) * radius), 2.5)


def _fade(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.clip(0.5 + rng.uniform(0.3, 0.7) * u + 0.0 * v, 0, 1)


def _clouds(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    side = u.shape[0]
    field = np.zeros((side, side), np.float32)
    for cells, weight in ((4, 0.6), (9, 0.3), (20, 0.15)):
        grid = rng.random((cells, cells), dtype=np.float32) - 0.5
        field += weight * cv2.resize(grid, (side, side), interpolation=cv2.INTER_CUBIC)
    return _crisp(field, rng.uniform(1.0, 4.0))


_PATTERNS = (_stripes, _checks, _dots, _rings, _fade, _fade, _clouds, _clouds)


def background(rng: np.random.Generator, split: Split, width: int, height: int) -> np.ndarray:
    """A scene without objects, float32 RGB [height, width, 3] in 0..1.

    A photograph or two of them (a wall and a floor), recoloured, softened and lit, calmer than the
    objects that will stand before it.
    """
    picture = crop(rng, split, width, height, (0.5, 1.0)).astype(np.float32) / 255
    picture = _recolour(rng, picture)
    if rng.random() < 0.3:
        floor = _recolour(rng, crop(rng, split, width, height, (0.3, 0.8)).astype(np.float32) / 255)
        line = rng.uniform(0.5, 0.75) * height
        slope = rng.uniform(-0.08, 0.08)
        edge = line + slope * (np.arange(width, dtype=np.float32) - width / 2)
        below = np.clip(np.arange(height, dtype=np.float32)[:, None] - edge[None] + 0.5, 0, 1)
        picture += (floor * 0.85 - picture) * below[..., None]
    softness = rng.uniform(0.3, 2.2) * height / 190
    picture = cv2.GaussianBlur(picture, (0, 0), max(softness, 0.2))
    mean = picture.mean((0, 1))
    picture = mean + (picture - mean) * rng.uniform(0.45, 0.9)
    return np.clip(picture * _light(rng, width, height), 0, 1)


def _recolour(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """Shift a picture towards a calm random tint, or leave its colours nearly as they are."""
    grey = picture @ np.array([0.3, 0.59, 0.11], np.float32)
    flat = float(np.abs(picture - grey[..., None]).mean()) < 0.01  # a grey photograph
    tint = colour(rng, vivid=False)
    amount = rng.uniform(0.7, 1.0) if flat else rng.choice([0.0, 0.15, 0.5, 0.8])
    tinted = grey[..., None] * (0.4 + 1.2 * tint)
    return picture + (tinted - picture) * np.float32(amount)


def _light(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Light that falls off from a random side, float32 [height, width, 1] around 1."""
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :, None]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None, None]
    cx, cy = rng.uniform(-0.8, 0.8, 2)
    return rng.uniform(0.85, 1.1) - rng.uniform(0.0, 0.18) * ((x - cx) ** 2 + (y - cy) ** 2)

"""Silhouettes: what the objects of the world are cut out of.

A shape is a few closed outlines in a plane where it fills about -1..1, y pointing down. Every
family draws a different shape each time; training and validation share only the plainest families.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from data.world.spec import Split


@dataclass(frozen=True)
class Part:
    """One piece of a shape: an outline [P, 2], holes in it, and how it is painted.

    paint: "skin" is the object's surface, "trim" its second surface, "dark" and "light" are plain.
    named: the part is worth a mask of its own, as annotators give one to a wheel or a sail.
    """

    outline: np.ndarray
    paint: str = "skin"
    holes: tuple[np.ndarray, ...] = ()
    named: bool = False


Shape = tuple[Part, ...]
Draw = Callable[[np.random.Generator], Shape]


def draw_shape(rng: np.random.Generator, split: Split) -> tuple[str, Shape]:
    """A family's name and a new shape of it, stretched, sheared and mirrored a little."""
    families = FAMILIES[split]
    name = list(families)[int(rng.integers(len(families)))]
    stretch, shear = rng.uniform(0.82, 1.2), rng.uniform(-0.15, 0.15)
    mirror = 1.0 if rng.random() < 0.5 else -1.0
    plane = np.array([[mirror * stretch, shear], [0.0, 1.0 / stretch]])
    parts = families[name](rng)
    return name, tuple(
        Part(p.outline @ plane.T, p.paint, tuple(h @ plane.T for h in p.holes), p.named)
        for p in parts
    )


# -- curves ---------------------------------------------------------------------------------------


def curve(points: object, steps: int = 8) -> np.ndarray:
    """A closed Catmull-Rom curve through the points [P, 2], as [P * steps, 2]."""
    p = np.asarray(points, float)
    t = (np.arange(steps) / steps)[None, :, None]
    a, b, c, d = (np.roll(p, shift, axis=0)[:, None] for shift in (1, 0, -1, -2))
    out = (
        b
        + 0.5 * t * (c - a)
        + t**2 * (a - 2.5 * b + 2 * c - 0.5 * d)
        + t**3 * (1.5 * (b - c) + 0.5 * (d - a))
    )
    return out.reshape(-1, 2)


def ellipse(x: float, y: float, rx: float, ry: float, points: int = 40) -> np.ndarray:
    """An ellipse around x, y as a polygon."""
    a = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return np.stack([x + rx * np.cos(a), y + ry * np.sin(a)], 1)


def box(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    """An upright rectangle as a polygon."""
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], float)


def radial(radii: object, phase: float = 0.0) -> np.ndarray:
    """Points around the origin at equal angles and the given distances."""
    r = np.asarray(radii, float)
    a = phase + np.linspace(0, 2 * np.pi, len(r), endpoint=False)
    return np.stack([r * np.cos(a), r * np.sin(a)], 1)


def strokes(*pieces: np.ndarray) -> Shape:
    """Several outlines painted as one surface."""
    return tuple(Part(piece) for piece in pieces)


# -- plain families: both splits ------------------------------------------------------------------


def _blob(rng: np.random.Generator) -> Shape:
    return (Part(curve(radial(rng.uniform(0.6, 1.0, int(rng.integers(5, 9))), rng.uniform(0, 6)))),)


def _shard(rng: np.random.Generator) -> Shape:
    corners = int(rng.integers(4, 8))
    return (Part(radial(rng.uniform(0.7, 1.0, corners), rng.uniform(0, 6))),)


def _star(rng: np.random.Generator) -> Shape:
    tips = int(rng.integers(4, 8))
    inner = rng.uniform(0.42, 0.65)
    points = radial(np.tile([1.0, inner], tips), rng.uniform(0, 6))
    return (Part(curve(points, 5) if rng.random() < 0.5 else points),)


def _ring(rng: np.random.Generator) -> Shape:
    hole = rng.uniform(0.35, 0.55)
    outer = ellipse(0, 0, 1, 1) if rng.random() < 0.6 else radial(np.ones(6), rng.uniform(0, 1))
    return (Part(outer, holes=(ellipse(rng.uniform(-0.1, 0.1), 0, hole, hole),)),)


# -- training families ----------------------------------------------------------------------------


def _gear(rng: np.random.Generator) -> Shape:
    teeth, root = int(rng.integers(7, 12)), rng.uniform(0.72, 0.82)
    hole = ellipse(0, 0, *np.repeat(rng.uniform(0.18, 0.38), 2))
    return (Part(radial(np.tile([1.0, 1.0, root, root], teeth)), holes=(hole,)),)


def _leaf(rng: np.random.Generator) -> Shape:
    fat, bend = rng.uniform(0.4, 0.62), rng.uniform(-0.2, 0.2)
    blade = curve(
        [
            [-1, 0],
            [-0.5, -fat + bend],
            [0.2, -fat * 0.8 + bend],
            [1, bend],
            [0.2, fat * 0.8],
            [-0.5, fat],
        ]
    )
    vein = np.array([[-1.2, -0.05], [0.7, bend - 0.02], [0.7, bend + 0.02], [-1.2, 0.06]])
    return (Part(blade), Part(vein, "dark"))


def _letter(rng: np.random.Generator) -> Shape:
    w = rng.uniform(0.4, 0.6)
    bar, left, right = (
        box(-0.8, -1, 0.8, -1 + w),
        box(-0.8, -1, -0.8 + w, 1),
        box(0.8 - w, -1, 0.8, 1),
    )
    foot, middle = box(-0.8, 1 - w, 0.8, 1), box(-0.8, -w / 2, 0.8, w / 2)
    stem = box(-w / 2, -1, w / 2, 1)
    letters = (
        (left, foot),  # L
        (bar, stem),  # T
        (left, bar, foot, box(-0.8, -w / 2.4, 0.6, w / 2.4)),  # E
        (left, right, middle),  # H
        (left, right, foot),  # U
        (bar, left, right),  # gate
    )
    return strokes(*letters[int(rng.integers(len(letters)))])


def _fish(rng: np.random.Generator) -> Shape:
    fat, tail = rng.uniform(0.42, 0.62), rng.uniform(0.4, 0.6)
    body = curve(
        [
            [-0.95, 0.05],
            [-0.5, -fat],
            [0.15, -fat * 0.85],
            [0.62, -0.1],
            [0.62, 0.1],
            [0, fat * 0.9],
            [-0.6, fat * 0.8],
        ]
    )
    fin = curve([[0.5, 0], [0.85, -tail], [1.1, -tail], [0.95, 0], [1.1, tail], [0.85, tail]], 5)
    back = np.array([[-0.3, -fat * 0.85], [0.05, -fat - 0.32], [0.35, -fat * 0.6]])
    eye = ellipse(-0.6, -0.12, 0.1, 0.1, 14)
    return (
        Part(back, "trim"),
        Part(fin, "trim", named=True),
        Part(body),
        Part(eye, "light"),
        Part(ellipse(-0.62, -0.12, 0.05, 0.05, 10), "dark"),
    )


def _car(rng: np.random.Generator) -> Shape:
    r, cab = rng.uniform(0.2, 0.29), rng.uniform(-0.1, 0.15)
    body = curve(
        [[-1.1, 0.35], [-1.1, 0.0], [-0.6, -0.15], [0.6, -0.18], [1.1, 0.02], [1.12, 0.36]], 5
    )
    roof = np.array([[-0.62, -0.1], [-0.35 + cab, -0.6], [0.35 + cab, -0.6], [0.72, -0.1]])
    glass = np.array([[-0.42, -0.14], [-0.26 + cab, -0.48], [0.26 + cab, -0.48], [0.5, -0.14]])
    wheels = [Part(ellipse(x, 0.36, r, r, 24), "dark", named=x < 0) for x in (-0.6, 0.62)]
    hubs = [Part(ellipse(x, 0.36, r * 0.45, r * 0.45, 16), "light") for x in (-0.6, 0.62)]
    return (Part(roof), Part(glass, "light"), Part(body), *wheels, *hubs)


def _cup(rng: np.random.Generator) -> Shape:
    top, foot, h = rng.uniform(0.6, 0.72), rng.uniform(0.35, 0.58), rng.uniform(0.75, 0.95)
    wall = curve(
        [
            [-top, -h],
            [0, -h - 0.06],
            [top, -h],
            [foot + 0.05, h * 0.8],
            [foot * 0.6, h],
            [-foot * 0.6, h],
            [-foot - 0.05, h * 0.8],
        ],
        6,
    )
    x = (top + foot) / 2
    handle = Part(ellipse(x, -0.05, 0.5, 0.52), "skin", (ellipse(x, -0.05, 0.27, 0.3),), named=True)
    return (handle, Part(wall), Part(ellipse(0, -h + 0.06, top * 0.82, 0.13), "dark"))


def _mushroom(rng: np.random.Generator) -> Shape:
    stem = rng.uniform(0.22, 0.34)
    foot = curve(
        [[-stem, -0.1], [stem, -0.1], [stem * 1.25, 0.85], [0, 1.0], [-stem * 1.25, 0.85]], 6
    )
    lid = curve([[-1, 0.05], [-0.75, -0.6], [0, -0.95], [0.75, -0.6], [1, 0.05], [0, 0.15]], 6)
    spots = [
        Part(ellipse(x, y, r, r * 0.8, 16), "light")
        for x, y, r in ((-0.45, -0.35, 0.15), (0.2, -0.6, 0.17), (0.5, -0.2, 0.12))
    ]
    return (Part(foot, "trim"), Part(lid, named=True), *spots)


def _house(rng: np.random.Generator) -> Shape:
    eave, d = rng.uniform(0.85, 1.05), rng.uniform(-0.3, 0.2)
    roof = np.array([[-eave, -0.15], [rng.uniform(-0.2, 0.2), -1.0], [eave, -0.15]])
    return (
        Part(box(-0.75, -0.2, 0.75, 0.95)),
        Part(roof, "trim", named=True),
        Part(box(d, 0.3, d + 0.35, 0.95), "dark"),
    )


def _heart(rng: np.random.Generator) -> Shape:
    t = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    x = np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 16
    return (Part(np.stack([x, y * rng.uniform(0.85, 1.1)], 1)),)


def _tree(rng: np.random.Generator) -> Shape:
    trunk = np.array([[-0.14, 0.1], [0.14, 0.1], [0.2, 1.0], [-0.2, 1.0]])
    if rng.random() < 0.5:
        tiers = [
            np.array([[-w, y], [0, y - 0.75], [w, y]])
            for w, y in ((0.75, 0.55), (0.62, 0.1), (0.45, -0.3))
        ]
        return (Part(trunk, "trim"), *(Part(tier, named=False) for tier in tiers))
    crown = curve(radial(rng.uniform(0.6, 0.82, 9))) + [0, -0.32]
    return (Part(trunk, "trim"), Part(crown, named=True))


def _arrow(rng: np.random.Generator) -> Shape:
    w, neck = rng.uniform(0.2, 0.36), rng.uniform(-0.1, 0.25)
    return (
        Part(
            np.array(
                [[-1, -w], [neck, -w], [neck, -0.75], [1, 0], [neck, 0.75], [neck, w], [-1, w]]
            )
        ),
    )


def _crescent(rng: np.random.Generator) -> Shape:
    a = np.linspace(0.35, 2 * np.pi - 0.35, 40)
    inner = rng.uniform(0.35, 0.55)
    outer = np.stack([np.cos(a), np.sin(a)], 1)
    back = outer[::-1] * [0.6, 0.7] + [inner * 0.6, 0]
    return (Part(np.concatenate([outer, back])),)


# -- validation families --------------------------------------------------------------------------


def _bird(rng: np.random.Generator) -> Shape:
    lift = rng.uniform(-0.75, -0.35)
    body = curve(
        [
            [-0.95, -0.18],
            [-0.6, -0.45],
            [-0.3, -0.22],
            [0.4, -0.1],
            [1.05, -0.2],
            [0.95, 0.1],
            [0.3, 0.42],
            [-0.4, 0.35],
        ],
        7,
    )
    wing = curve([[-0.25, 0.0], [0.1, lift], [0.75, lift - 0.2], [0.6, 0.05], [0.15, 0.22]], 7)
    beak = np.array([[-0.85, -0.32], [-1.25, -0.12], [-0.85, -0.08]])
    return (
        Part(beak, "trim"),
        Part(body),
        Part(wing, "trim", named=True),
        Part(ellipse(-0.66, -0.2, 0.07, 0.07, 12), "dark"),
    )


def _butterfly(rng: np.random.Generator) -> Shape:
    up, low = rng.uniform(0.75, 0.95), rng.uniform(0.5, 0.75)
    wing = np.array(
        [
            [0.05, 0.05],
            [0.3, -up * 0.8],
            [0.9, -up],
            [1.0, -0.3],
            [0.45, 0.0],
            [0.8, 0.3],
            [0.6, low],
            [0.2, low * 0.7],
        ]
    )
    right, left = curve(wing, 7), curve(wing * [-1, 1], 7)
    return (Part(right), Part(left, named=True), Part(ellipse(0, 0.0, 0.12, 0.72), "dark"))


def _boat(rng: np.random.Generator) -> Shape:
    deep = rng.uniform(0.75, 0.95)
    hull = curve(
        [[-1, 0.3], [0, 0.4], [1.05, 0.28], [0.7, deep], [0, deep + 0.08], [-0.7, deep]], 6
    )
    sail = curve([[-0.02, -1.05], [rng.uniform(0.5, 0.8), -0.1], [0.75, 0.22], [-0.02, 0.2]], 6)
    jib = np.array([[-0.1, -0.8], [-0.1, 0.2], [-0.7, 0.2]])
    return (
        Part(box(-0.09, -1.1, 0.0, 0.4), "dark"),
        Part(sail, "trim", named=True),
        Part(jib, "trim"),
        Part(hull),
    )


def _key(rng: np.random.Generator) -> Shape:
    r, y = rng.uniform(0.45, 0.55), rng.uniform(0.13, 0.19)
    head = Part(ellipse(-0.6, 0, r, r), holes=(ellipse(-0.68, 0, r * 0.42, r * 0.42),))
    return (
        head,
        *strokes(box(-0.3, -y, 1.05, y), box(0.5, 0, 0.68, 0.5), box(0.85, 0, 1.05, 0.42)),
    )


def _vase(rng: np.random.Generator) -> Shape:
    heights = np.linspace(-1, 1, 7)
    half = np.array([rng.uniform(0.25, 0.5), *rng.uniform(0.22, 0.75, 5), rng.uniform(0.35, 0.5)])
    sides = np.concatenate([np.stack([half, heights], 1), np.stack([-half, heights], 1)[::-1]])
    return (Part(curve(sides, 6)), Part(ellipse(0, -0.98, half[0] * 0.8, 0.08), "dark"))


def _blossom(rng: np.random.Generator) -> Shape:
    petals, depth = int(rng.integers(5, 8)), rng.uniform(0.14, 0.3)
    a = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    r = 1 - depth + depth * np.cos(petals * a)
    middle = ellipse(0, 0, *np.repeat(rng.uniform(0.26, 0.36), 2))
    return (Part(np.stack([r * np.cos(a), r * np.sin(a)], 1)), Part(middle, "trim", named=True))


def _sign(rng: np.random.Generator) -> Shape:
    w = rng.uniform(0.4, 0.58)
    slant = np.array([[0.8 - w, -1], [0.85, -1], [-0.8 + w, 1], [-0.85, 1]])
    signs = (
        (slant, box(-0.85, -1, 0.8, -1 + w), box(-0.8, 1 - w, 0.85, 1)),  # Z
        (slant, slant * [-1, 1]),  # X
        (box(-w / 2, -1, w / 2, 1), box(-1, -w / 2, 1, w / 2)),  # plus
        (
            slant * [0.5, 0.5] + [0.38, -0.45],
            slant * [-0.5, 0.5] + [-0.38, -0.45],
            box(-w / 2, -0.2, w / 2, 1),
        ),  # Y
    )
    return strokes(*signs[int(rng.integers(len(signs)))])


def _teapot(rng: np.random.Generator) -> Shape:
    fat = rng.uniform(0.55, 0.7)
    pot = curve(
        [
            [-0.6, 0.1],
            [-0.45, -fat * 0.75],
            [0.45, -fat * 0.75],
            [0.6, 0.1],
            [0.4, fat],
            [-0.4, fat],
        ],
        7,
    )
    spout = curve(
        [[0.4, 0.2], [0.75, -0.05], [0.9, -0.5], [1.12, -0.48], [0.95, 0.1], [0.5, 0.5]], 6
    )
    handle = Part(
        ellipse(-0.65, 0.02, 0.42, 0.42), holes=(ellipse(-0.66, 0.02, 0.24, 0.25),), named=True
    )
    lid = curve([[-0.32, -fat * 0.8], [0, -fat - 0.2], [0.32, -fat * 0.8], [0, -fat * 0.7]], 6)
    return (handle, Part(spout), Part(pot), Part(lid, "trim"))


_PLAIN: dict[str, Draw] = {"blob": _blob, "shard": _shard, "star": _star, "ring": _ring}

FAMILIES: dict[Split, dict[str, Draw]] = {
    "train": {
        **_PLAIN,
        "gear": _gear, "leaf": _leaf, "letter": _letter, "fish": _fish, "car": _car, "cup": _cup,
        "mushroom": _mushroom, "house": _house, "heart": _heart, "tree": _tree, "arrow": _arrow,
        "crescent": _crescent,
    },
    "val": {
        **_PLAIN,
        "bird": _bird, "butterfly": _butterfly, "boat": _boat, "key": _key, "vase": _vase,
        "blossom": _blossom, "sign": _sign, "teapot": _teapot,
    },
}  # fmt: skip

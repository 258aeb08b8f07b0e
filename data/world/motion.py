"""Where things are over time: paths of objects, their turning and growing, the camera's unrest."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Stage(NamedTuple):
    """Space and time of a scene: `frames` pictures of width x height pixels, and its liveliness."""

    width: int
    height: int
    frames: int
    motion: float

    @property
    def unit(self) -> float:
        """What speeds are measured in: the side of a square as large as the picture, pixels."""
        return float(np.sqrt(self.width * self.height))


class Track(NamedTuple):
    """The pose of one thing on every frame, each float64 [T].

    x, y: its middle in pixels of the resting camera. angle: radians. wide, tall: its scale along
    its own axes.
    """

    x: np.ndarray
    y: np.ndarray
    angle: np.ndarray
    wide: np.ndarray
    tall: np.ndarray


class Camera(NamedTuple):
    """zoom [T] around the picture's middle, and shift [T, 2] in pixels."""

    zoom: np.ndarray
    shift: np.ndarray


def still(x: float, y: float, angle: float, frames: int) -> Track:
    """A thing that stays where it is."""
    ones = np.ones(frames)
    return Track(x * ones, y * ones, angle * ones, ones, ones)


def moving(rng: np.random.Generator, stage: Stage, reach: float, role: str) -> Track:
    """A thing on its way.

    role: "stay" keeps it in the picture, "late" brings it in after a while, "leave" takes it out
    and back.
    """
    if stage.motion == 0:
        x, y = _inside(rng, stage).tolist()
        return still(x, y, rng.uniform(-0.5, 0.5), stage.frames)
    speed = stage.motion * stage.unit * rng.uniform(0.004, 0.0105)  # pixels a frame
    if role == "late":
        path = _entering(rng, stage, reach, max(speed, stage.motion * 0.012 * stage.unit))
    elif role == "leave":
        path = _leaving(rng, stage, reach)
    else:
        draw = (_wandering, _wandering, _bouncing, _circling)[int(rng.integers(4))]
        path = draw(rng, stage, speed)
    angle = _turning(rng, stage)
    wide, tall = _growing(rng, stage)
    return Track(path[:, 0], path[:, 1], angle, wide, tall)


def camera(rng: np.random.Generator, stage: Stage) -> Camera:
    """Slow panning and zooming, and in some scenes the trembling of a hand."""
    time = np.arange(stage.frames)
    lively = min(stage.motion, 1.5) * min(1.0, stage.frames / 16)
    sway = rng.uniform(0, 0.05, 2) * stage.unit * lively
    rate = rng.uniform(0.04, 0.12, 2)
    shift = sway * np.sin(time[:, None] * rate + rng.uniform(0, 6, 2))
    if rng.random() < 0.4:
        shift = shift + rng.normal(0, 0.35, (stage.frames, 2)) * lively
    zoom = 1.05 + rng.uniform(0, 0.06) * lively * np.sin(
        time * rng.uniform(0.03, 0.1) + rng.uniform(0, 6)
    )
    return Camera(zoom, shift)


def _along(points: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Positions at the given distances along a smooth open curve through the points, [T, 2]."""
    ends = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    t = np.linspace(0, 1, 24, endpoint=False)[None, :, None]
    a, b, c, d = (ends[i : len(ends) - 3 + i, None] for i in range(4))
    dense = (
        b
        + 0.5 * t * (c - a)
        + t**2 * (a - 2.5 * b + 2 * c - 0.5 * d)
        + t**3 * (1.5 * (b - c) + 0.5 * (d - a))
    )
    dense = np.concatenate([dense.reshape(-1, 2), points[-1:]])
    length = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(dense, axis=0).T))])
    return np.stack([np.interp(distance, length, dense[:, i]) for i in range(2)], 1)


def _inside(rng: np.random.Generator, stage: Stage) -> np.ndarray:
    """A random place well within the picture."""
    return rng.uniform(0.2, 0.8, 2) * (stage.width, stage.height)


def _waypoints(
    rng: np.random.Generator, stage: Stage, first: np.ndarray, length: float
) -> np.ndarray:
    """Places to go to one after the other, from `first` on, about half a picture apart."""
    points, gone = [first], 0.0
    while gone < length + stage.unit or len(points) < 3:
        options = np.stack([_inside(rng, stage) for _ in range(4)])
        gaps = np.hypot(*(options - points[-1]).T)
        pick = int(np.argmin(np.abs(gaps - 0.55 * stage.unit)))
        points.append(options[pick])
        gone += max(float(gaps[pick]), 1.0)
    return np.stack(points)


def _pace(rng: np.random.Generator, stage: Stage, speed: float) -> np.ndarray:
    """Distance gone by each frame: a steady speed that swells and fades a little."""
    time = np.arange(stage.frames)
    swell = 1 + 0.4 * np.sin(time * rng.uniform(0.1, 0.3) + rng.uniform(0, 6))
    return np.cumsum(speed * swell) - speed * swell[0]


def _wandering(rng: np.random.Generator, stage: Stage, speed: float) -> np.ndarray:
    gone = _pace(rng, stage, speed)
    return _along(_waypoints(rng, stage, _inside(rng, stage), gone[-1]), gone)


def _bouncing(rng: np.random.Generator, stage: Stage, speed: float) -> np.ndarray:
    """Hopping from side to side over a floor, as a ball does."""
    time = np.arange(stage.frames)
    low, high = 0.18 * stage.width, 0.82 * stage.width
    start, way = rng.uniform(low, high) - low, rng.choice([-1, 1])
    x = low + _fold(start + way * 0.85 * speed * time, high - low)
    hop, period = (
        rng.uniform(0.12, 0.3) * stage.height,
        rng.uniform(22, 36) / max(stage.motion, 0.2),
    )
    phase = (time / period + rng.random()) % 1.0
    floor = rng.uniform(0.6, 0.76) * stage.height
    return np.stack([x, floor - hop * 4 * phase * (1 - phase)], 1)


def _circling(rng: np.random.Generator, stage: Stage, speed: float) -> np.ndarray:
    time = np.arange(stage.frames)
    radius = rng.uniform(0.16, 0.32, 2) * (stage.width, stage.height)
    turn = rng.choice([-1, 1]) * speed / radius.mean() * time + rng.uniform(0, 6.28)
    middle = rng.uniform(0.4, 0.6, 2) * (stage.width, stage.height)
    return middle + radius * np.stack([np.cos(turn), np.sin(turn)], 1)


def _fold(x: np.ndarray, span: float) -> np.ndarray:
    """Reflect a line between two walls at 0 and `span`."""
    return span - np.abs(x % (2 * span) - span)


def _outside(stage: Stage, place: np.ndarray, reach: float) -> np.ndarray:
    """The nearest point to `place` from which nothing of the object can be seen."""
    far = reach * 1.35 + 0.06 * stage.unit  # the object may have grown, the camera moved
    x, y = place
    exits = np.array([[-far, y], [stage.width + far, y], [x, -far], [x, stage.height + far]])
    return exits[int(np.argmin(np.hypot(*(exits - place).T)))]


def _entering(rng: np.random.Generator, stage: Stage, reach: float, speed: float) -> np.ndarray:
    wait = rng.uniform(0.05, 0.3) * stage.frames
    goal = _inside(rng, stage)
    door = _outside(stage, goal, reach)
    pace = np.maximum(0.0, np.arange(stage.frames) - wait) * speed * 1.4
    rest = _waypoints(rng, stage, goal, pace[-1])
    return _along(np.concatenate([door[None], rest]), pace)


def _leaving(rng: np.random.Generator, stage: Stage, reach: float) -> np.ndarray:
    """Out over the nearest border and in again, a little farther along it."""
    side = int(rng.integers(4))
    along = rng.uniform(0.25, 0.75, 2)
    depth = 0.9 * reach + 0.04 * stage.unit  # the object's middle at the start, inside the border
    size = np.array([stage.width, stage.height], float)
    axis, far = side % 2, side // 2
    far_out = -(1.35 * reach + 0.06 * stage.unit)
    keys = np.array([depth, depth, far_out, far_out, depth, depth + 0.2 * stage.unit])
    times = np.array([0.0, 0.1, 0.4, 0.55, 0.85, 1.0]) * max(1, stage.frames - 1)
    time = np.arange(stage.frames)
    inward = np.interp(time, times, keys)
    place = np.empty((stage.frames, 2))
    place[:, axis] = size[axis] - inward if far else inward
    place[:, 1 - axis] = size[1 - axis] * np.interp(time, [0, stage.frames - 1], along)
    return place


def _turning(rng: np.random.Generator, stage: Stage) -> np.ndarray:
    time, start = np.arange(stage.frames), rng.uniform(-0.5, 0.5)
    kind = rng.random()
    if kind < 0.35:
        return start + rng.uniform(-0.07, 0.07) * stage.motion * time
    if kind < 0.8:
        sway = rng.uniform(0.15, 0.5) * min(stage.motion, 1.0)
        return start + sway * np.sin(time * rng.uniform(0.08, 0.22) + rng.uniform(0, 6))
    return np.full(stage.frames, start)


def _growing(rng: np.random.Generator, stage: Stage) -> tuple[np.ndarray, np.ndarray]:
    """Scale along the object's own axes: coming nearer, breathing, or turning sideways."""
    time = np.arange(stage.frames)
    calm = min(stage.motion, 1.0)
    size = 1 + rng.uniform(0.0, 0.22) * calm * np.sin(
        time * rng.uniform(0.05, 0.15) + rng.uniform(0, 6)
    )
    squash = rng.uniform(0, 0.1) * calm * np.sin(time * rng.uniform(0.15, 0.4) + rng.uniform(0, 6))
    wide, tall = size * (1 + squash), size / (1 + squash)
    if rng.random() < 0.2:
        wide = wide * (1 - 0.35 * calm * np.sin(time * rng.uniform(0.05, 0.12)) ** 2)
    return wide, tall

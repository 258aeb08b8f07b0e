"""Which frames and objects of a video, or which objects of a picture, make one training sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data.settings import ClipSampling
from data.sources.base import Dataset

TRIES = 8
"""Random windows to look at before searching for a frame with a visible object."""


class Choice(NamedTuple):
    """positions among the annotated frames, in playing order, and the ids of the objects."""

    positions: list[int]
    objects: list[int]


def choose(
    dataset: Dataset, index: int, sampling: ClipSampling, rng: np.random.Generator
) -> Choice:
    """Draw the frames and objects of one sample.

    Objects are drawn among those visible on its first frame or, with `visible: anywhere`, on any of
    its frames. A picture or video on which nothing is ever visible gives no objects.
    """
    if dataset.kind == "image":
        least, most = sampling.image_objects
        count = int(rng.integers(least, most + 1))
        return Choice([0], draw_objects(dataset.visible(index, 0), count, rng))
    count = dataset.frame_count(index)
    positions: list[int] = []
    for _ in range(TRIES):
        positions = draw_window(count, sampling, rng)
        visible = _visible(dataset, index, positions, sampling)
        if visible:
            return Choice(positions, draw_objects(visible, sampling.max_objects, rng))
    for first in range(count):
        visible = dataset.visible(index, first)
        if visible:
            forward = first <= count // 2
            offsets = [k * sampling.stride for k in range(sampling.frames)]
            positions = walk(first, offsets, count, forward)
            return Choice(positions, draw_objects(visible, sampling.max_objects, rng))
    return Choice(positions, [])


def _visible(
    dataset: Dataset, index: int, positions: Sequence[int], sampling: ClipSampling
) -> tuple[int, ...]:
    """The objects a clip may train on, ascending."""
    if sampling.visible == "first":
        return dataset.visible(index, positions[0])
    return tuple(sorted({i for position in positions for i in dataset.visible(index, position)}))


def draw_window(count: int, sampling: ClipSampling, rng: np.random.Generator) -> list[int]:
    """Positions of a clip in a video of `count` annotated frames, in playing order.

    A video that is too short for the stride and the dropped run gets a shorter run; one that is too
    short even so is played to its end and back.
    """
    offsets = [k * sampling.stride for k in range(sampling.frames)]
    backward = rng.random() < sampling.reverse
    if sampling.frames > 1 and rng.random() < sampling.drop_run_probability:
        cut = int(rng.integers(1, sampling.frames))
        run = int(rng.integers(sampling.drop_run[0], sampling.drop_run[1] + 1))
        run = max(0, min(run, count - 1 - offsets[-1]))
        offsets = [offset + (run if k >= cut else 0) for k, offset in enumerate(offsets)]
    slack = max(0, count - 1 - offsets[-1])
    first = int(rng.integers(0, slack + 1))
    return walk(count - 1 - first if backward else first, offsets, count, not backward)


def walk(first: int, offsets: Sequence[int], count: int, forward: bool) -> list[int]:
    """first +- offsets, turning round at both ends of 0 .. count-1.

    >>> walk(1, [0, 1, 2, 3], count=3, forward=True)
    [1, 2, 1, 0]
    """
    period = max(1, 2 * (count - 1))
    steps = [(first + (offset if forward else -offset)) % period for offset in offsets]
    return [min(step, period - step) if count > 1 else 0 for step in steps]


def draw_objects(visible: Sequence[int], most: int, rng: np.random.Generator) -> list[int]:
    """At most `most` of the objects, each equally likely, ascending."""
    if len(visible) <= most:
        return list(visible)
    chosen = rng.choice(len(visible), size=most, replace=False)
    return [visible[i] for i in sorted(chosen.tolist())]

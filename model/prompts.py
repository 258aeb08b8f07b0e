"""The simulated user: what is prompted on which frame, and where the clicks fall.

Two sources of chance, both derived from counters so that any step can be replayed alone: `plan_rng`
decides what happens (the same on every rank), `ObjectChance` where clicks and box corners fall (the
same for an object on whichever rank and in whatever batch it is).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from model.policy import ClickPosition, PromptKind, PromptPolicy

BOX_JITTER_LIMIT = 20.0
"""Pixels of the model's input; the reference's bound on how far a box corner may move."""


@dataclass(frozen=True)
class PromptPlan:
    """What the user does in one step. Its repr is a constructor call: printed, it can be
    replayed."""

    frames: int
    """Length of the clip."""
    initial: tuple[tuple[int, PromptKind], ...]
    """The prompted frames in the order they are processed, each with its prompt."""
    corrected: tuple[int, ...] = ()
    """Frames whose answer is corrected by clicks."""
    on_object: tuple[tuple[bool, ...], ...] = ()
    """For each corrected frame and click: anywhere on the object, instead of where the answer is
    wrong."""
    click_position: ClickPosition = "uniform"
    box_jitter: float = 0.0
    corrected_condition: bool = True

    @property
    def order(self) -> list[int]:
        """All frames in the order they are processed: the initial ones as drawn, then the rest
        ascending."""
        first = [t for t, _ in self.initial]
        return first + [t for t in range(self.frames) if t not in first]

    @property
    def conditioning(self) -> frozenset[int]:
        """Frames that later frames see as prompted."""
        corrected = self.corrected if self.corrected_condition else ()
        return frozenset([t for t, _ in self.initial] + list(corrected))

    def clicks_on(self, frame: int) -> tuple[bool, ...]:
        """One entry per correction click on `frame`, as in `on_object`."""
        return self.on_object[self.corrected.index(frame)] if frame in self.corrected else ()


class Clicks(NamedTuple):
    """Points for N objects."""

    points: Tensor
    """float [N, P, 2], x and y in pixels of the mask they were drawn from."""
    labels: Tensor
    """int32 [N, P]: 1 inside, 0 outside, 2 and 3 box corners, -1 not a point."""

    def then(self, other: Clicks) -> Clicks:
        """These points followed by those."""
        return Clicks(
            torch.cat([self.points, other.points], 1), torch.cat([self.labels, other.labels], 1)
        )


class ObjectChance:
    """Uniform random numbers that belong to each object, whatever the device, the batch or the
    rank.

    A counter-based generator (splitmix64): number k of an object is a hash of (seed, step, slot,
    place of the object in its clip, k). `slots` gives for each clip of the batch its number in the
    global batch.
    """

    def __init__(self, seed: int, step: int, slots: Sequence[int], clip_of_object: Tensor) -> None:
        device = clip_of_object.device
        same_clip = clip_of_object[:, None] == clip_of_object[None, :]
        place = same_clip.tril(-1).sum(1)
        slot = torch.tensor(list(slots) or [0], device=device)[clip_of_object]
        start = (seed * 0x9E3779B97F4A7C15 + step * 0xD1342543DE82EF95) & 0x7FFFFFFFFFFFFFFF
        self._keys = _mix(_mix(slot + start) + place)
        self._drawn = 0

    def of(self, objects: slice) -> ObjectChance:
        """The chance of some of the objects, from its beginning."""
        part = copy.copy(self)
        part._keys, part._drawn = self._keys[objects], 0
        return part

    def uniform(self, count: int) -> Tensor:
        """The next `count` numbers of each object: float64 [N, count] in [0, 1)."""
        counters = torch.arange(self._drawn, self._drawn + count, device=self._keys.device)
        self._drawn += count
        bits = _mix(self._keys[:, None] + _mix(counters + 1))
        return ((bits >> 11) & ((1 << 53) - 1)).double() * 2.0**-53


def plan_rng(seed: int, step: int) -> np.random.Generator:
    """The generator that draws the plan of one step."""
    return np.random.default_rng([seed, step])


def plan_prompts(policy: PromptPolicy, frames: int, rng: np.random.Generator) -> PromptPlan:
    """Draw what the user does in a clip of `frames` frames. Draws in the order of the reference's
    training model."""
    points = rng.random() < policy.click + policy.box
    initial_count = _count(policy.vary_initial_frames, 1, min(policy.initial_frames, frames), rng)
    corrects = points or frames == 1
    corrected_count = (
        min(policy.corrected_frames, frames) if corrects and policy.correction_clicks else 0
    )
    if corrected_count > initial_count:
        corrected_count = _count(policy.vary_corrected_frames, initial_count, corrected_count, rng)

    initial = [0]
    if initial_count > 1:
        initial += rng.choice(range(1, frames), initial_count - 1, replace=False).tolist()
    kinds: list[PromptKind] = ["mask"] * initial_count
    if points:
        box = policy.box / (policy.click + policy.box)
        kinds = ["box" if rng.random() < box else "click" for _ in initial]
    corrected = initial[:corrected_count]
    if corrected_count > initial_count:
        others = [t for t in range(frames) if t not in initial]
        corrected += rng.choice(others, corrected_count - initial_count, replace=False).tolist()

    chance = policy.click_on_object
    return PromptPlan(
        frames=frames,
        initial=tuple(zip(initial, kinds, strict=True)),
        corrected=tuple(corrected),
        on_object=tuple(
            tuple(chance > 0 and rng.random() < chance for _ in range(policy.correction_clicks))
            for _ in corrected
        ),
        click_position=policy.click_position,
        box_jitter=policy.box_jitter,
        corrected_condition=policy.corrected_condition,
    )


def correction_click(
    truth: Tensor, guess: Tensor | None, chance: ObjectChance, position: ClickPosition = "uniform"
) -> Clicks:
    """One click per object where `guess` is wrong: inside where it missed the object, outside where
    it spilled over.

    truth, guess: bool [N, H, W]; guess None means nothing has been found yet. Returns one point per
    object.
    """
    if position == "centre":
        return _centre_click(truth, guess)
    wrong = truth if guess is None else truth ^ guess
    outside_if_perfect = torch.where(wrong.flatten(1).any(1)[:, None, None], wrong, ~truth)
    pixel = _draw_pixel(outside_if_perfect.flatten(1), chance.uniform(1)[:, 0])
    labels = truth.flatten(1).gather(1, pixel[:, None])
    width = truth.shape[-1]
    points = torch.stack([pixel % width, pixel // width], -1)
    return Clicks(points[:, None].float(), labels.int())


def box_corners(truth: Tensor, chance: ObjectChance, jitter: float = 0.0) -> Clicks:
    """The box around each object as two points with labels 2 and 3; of an absent object, two points
    with label -1.

    truth: bool [N, H, W]. Corners are pixels of the object; each coordinate moves by up to `jitter`
    times the side, at most BOX_JITTER_LIMIT pixels, and stays in the picture.
    """
    height, width = truth.shape[-2:]
    columns, rows = truth.any(1), truth.any(2)
    x0, y0 = _first(columns), _first(rows)
    x1, y1 = width - 1 - _first(columns.flip(1)), height - 1 - _first(rows.flip(1))
    box = torch.stack([x0, y0, x1, y1], -1).float()
    if jitter > 0:
        side = torch.stack([x1 - x0, y1 - y0], -1).float()
        reach = (side * jitter).clamp(max=BOX_JITTER_LIMIT).repeat(1, 2)
        box = box + (chance.uniform(4) * 2 - 1).float() * reach
        limit = torch.tensor([width - 1, height - 1] * 2, device=box.device)
        box = torch.minimum(box.clamp(min=0), limit)
    present = rows.any(1, keepdim=True)
    corners = torch.tensor([2, 3], dtype=torch.int32, device=truth.device)
    return Clicks(box.unflatten(1, (2, 2)), torch.where(present, corners, -1).int())


def _centre_click(truth: Tensor, guess: Tensor | None) -> Clicks:
    """The pixel deepest inside the wrong region; where nothing is wrong, the picture's corner as an
    outside click."""
    points, labels = [], []
    guesses = torch.zeros_like(truth) if guess is None else guess
    for real, found in zip(truth.cpu().numpy(), guesses.cpu().numpy(), strict=True):
        missed, spilled = _depth(real & ~found), _depth(found & ~real)
        inside = missed.max() > spilled.max()
        deepest = (missed if inside else spilled).argmax()
        points.append(divmod(int(deepest), real.shape[1])[::-1])
        labels.append(int(inside))
    return Clicks(
        torch.tensor(points, dtype=torch.float32, device=truth.device).reshape(-1, 1, 2),
        torch.tensor(labels, dtype=torch.int32, device=truth.device).reshape(-1, 1),
    )


def _depth(region: np.ndarray) -> np.ndarray:
    """Distance of each pixel of `region` to its outside; beyond the picture is outside. float32 [H,
    W]."""
    padded = np.pad(region.astype(np.uint8), 1)
    return cv2.distanceTransform(padded, cv2.DIST_L2, 0)[1:-1, 1:-1]


def _draw_pixel(candidates: Tensor, chance: Tensor) -> Tensor:
    """The index of one true entry per row of bool [N, K], each equally likely; 0 where a row has
    none.

    The k-th true entry is where the running count first reaches k: one scan instead of a random
    number per pixel.
    """
    running = candidates.cumsum(1, dtype=torch.int32)
    rank = (chance * running[:, -1]).to(torch.int32)[:, None]
    pixel = torch.searchsorted(running, rank, right=True)[:, 0]
    return torch.where(pixel < candidates.shape[1], pixel, 0)


def _first(lines: Tensor) -> Tensor:
    """The index of the first true entry per row of bool [N, K]; 0 where a row has none."""
    return lines.int().argmax(1)


def _count(vary: bool, least: int, most: int, rng: np.random.Generator) -> int:
    return int(rng.integers(least, most, endpoint=True)) if vary and most > least else most


def _mix(numbers: Tensor) -> Tensor:
    """splitmix64's finaliser on int64 (products wrap around, as intended)."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        numbers = (numbers ^ _unsigned_shift(numbers, shift)) * (factor - (1 << 64))
    return numbers ^ _unsigned_shift(numbers, 31)


def _unsigned_shift(numbers: Tensor, shift: int) -> Tensor:
    return (numbers >> shift) & ((1 << (64 - shift)) - 1)

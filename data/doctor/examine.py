"""One item of a data set looked at through its reader: every frame, every mask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from data.doctor.finding import Finding, Severity, from_error
from data.sources import Dataset
from pipeline.errors import PipelineError

CHUNK = 16
"""Frames read at a time: enough that a video is decoded in runs, few enough for any memory."""


@dataclass(frozen=True)
class Rules:
    """What to look at, and what to remark on."""

    frames: int | None = None
    """Annotated frames of a video to look at, spread evenly; None takes all."""
    window: int = 0
    """Annotated frames that a training clip spans; shorter videos are remarked on."""
    tiny: int = 16
    """Masks of fewer pixels are remarked on."""


@dataclass
class Examination:
    """What was seen of one item.

    sizes: (H, W) of its pictures. objects: visible ones on each frame looked at. areas: masks by
    the power of ten of their share of the picture, -4 to -1. busiest: the position of the frame
    with the most objects.
    """

    index: int
    name: str
    annotated: int = 0
    frames: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    objects: list[int] = field(default_factory=list)
    areas: Counter[int] = field(default_factory=Counter)
    overlapping: int = 0
    """Frames on which masks cover each other."""
    small: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    """By object: (frame number, pixels) of its tiny and empty masks."""
    busiest: int = 0
    findings: list[Finding] = field(default_factory=list)


@dataclass(frozen=True)
class _Place:
    """Of a finding."""

    dataset: Dataset
    index: int

    def note(self, check: str, field: str, *, found: str, expected: str, fix: str) -> Finding:
        return self.finding("note", check, field, found=found, expected=expected, fix=fix)

    def finding(
        self, severity: Severity, check: str, field: str, *, found: str, expected: str, fix: str
    ) -> Finding:
        name = self.dataset.names[self.index]
        return Finding(
            dataset=self.dataset.name,
            item=name,
            check=check,
            severity=severity,
            file=self.dataset.spec.root,
            field=f"{name}, {field}",
            found=found,
            expected=expected,
            fix=fix,
        )


def examine(dataset: Dataset, index: int, rules: Rules) -> Examination:
    """Look at one item. What its reader cannot read becomes a finding; nothing is raised."""
    seen = Examination(index, dataset.names[index])
    place = _Place(dataset, index)
    try:
        numbers = [int(number) for number in dataset.frame_numbers(index)]
    except PipelineError as error:
        seen.findings.append(from_error(dataset.name, dataset.spec, seen.name, "listing", error))
        return seen
    seen.annotated = len(numbers)
    if dataset.kind == "video":
        seen.findings += _timing(place, numbers, rules)
    for position in _spread(len(numbers), rules.frames):
        _visible(place, position, seen)
    _pixels(place, numbers, rules, seen)
    # A broken video is broken on every frame, in slightly other words: its first line is enough.
    first = {(f.check, f.file, f.field): f for f in reversed(seen.findings)}
    seen.findings = list(reversed(first.values()))
    return seen


def _spread(count: int, most: int | None) -> list[int]:
    if most is None or count <= most:
        return list(range(count))
    return [int(p) for p in np.unique(np.linspace(0, count - 1, most).round())]


def _timing(place: _Place, numbers: Sequence[int], rules: Rules) -> Iterator[Finding]:
    steps = Counter(b - a for a, b in pairwise(numbers))
    if len(steps) > 1:
        usual = steps.most_common(1)[0][0]
        at = next(a for a, b in pairwise(numbers) if b - a != usual)
        after = numbers[numbers.index(at) + 1]
        yield place.note(
            "frame gaps",
            f"frame {at}",
            found=f"{after} as the next annotated frame",
            expected=f"every {usual}th as elsewhere in this video",
            fix="fetch the missing masks, or split the video there",
        )
    if len(numbers) < rules.window:
        yield place.note(
            "short videos",
            "frames",
            found=f"{len(numbers)} annotated ones",
            expected=f"{rules.window} for a training clip",
            fix="it is played to its end and back; lower sampling.frames or leave it out",
        )


def _visible(place: _Place, position: int, seen: Examination) -> None:
    try:
        objects = place.dataset.visible(place.index, position)
    except PipelineError as error:
        name = place.dataset.name
        seen.findings.append(from_error(name, place.dataset.spec, seen.name, "annotations", error))
        return
    if position == 0 and not objects:
        seen.findings.append(
            place.note(
                "empty first frames",
                "first frame",
                found="no visible object",
                expected="one to track from",
                fix="its objects are prompted where they appear; nothing to mend if that is meant",
            )
        )
    if len(objects) > max(seen.objects, default=0):
        seen.busiest = position
    seen.objects.append(len(objects))


def _pixels(place: _Place, numbers: Sequence[int], rules: Rules, seen: Examination) -> None:
    """Pictures and masks, a few frames in memory at a time."""
    positions = _spread(len(numbers), rules.frames)
    for start in range(0, len(positions), CHUNK):
        for position, picture in _pictures(place, positions[start : start + CHUNK], seen):
            seen.sizes[picture.shape[:2]] += 1
            seen.frames += 1
            _masks(place, position, numbers[position], picture.shape[:2], rules, seen)
    seen.findings += [_small(place, i, masks, rules) for i, masks in seen.small.items()]
    if len(seen.sizes) > 1:
        (usual, _), *others = seen.sizes.most_common()
        seen.findings.append(
            place.finding(
                "error",
                "differing sizes",
                "frames",
                found=" and ".join(_size(size) for size, _ in others),
                expected=f"{_size(usual)} as most of them",
                fix="extract the frames again, or split the video where the size changes",
            )
        )


def _pictures(
    place: _Place, positions: Sequence[int], seen: Examination
) -> Iterator[tuple[int, np.ndarray]]:
    """(position, picture) of those that can be read."""
    try:
        yield from zip(positions, place.dataset.pictures(place.index, positions), strict=True)
        return
    except PipelineError:
        pass  # one of them; which, is seen one by one
    for position in positions:
        try:
            yield position, place.dataset.pictures(place.index, [position])[0]
        except PipelineError as error:
            name = place.dataset.name
            seen.findings.append(from_error(name, place.dataset.spec, seen.name, "pictures", error))


def _masks(
    place: _Place,
    position: int,
    number: int,
    size: tuple[int, int],
    rules: Rules,
    seen: Examination,
) -> None:
    dataset, index = place.dataset, place.index
    try:
        objects = dataset.visible(index, position)
    except PipelineError:
        return  # it has its line already
    covered = np.zeros(size, bool)
    overlap = False
    for i in objects:
        try:
            mask = dataset.masks(index, position, [i], size)[0]
        except PipelineError as error:
            seen.findings.append(from_error(dataset.name, dataset.spec, seen.name, "masks", error))
            continue
        area = int(mask.sum())
        overlap = overlap or bool((covered & mask).any())
        covered |= mask
        if area < rules.tiny:
            seen.small.setdefault(i, []).append((number, area))
        if area:
            seen.areas[max(-4, int(np.floor(np.log10(area / mask.size) + 1e-9)))] += 1
    seen.overlapping += overlap


def _small(place: _Place, i: int, masks: list[tuple[int, int]], rules: Rules) -> Finding:
    """One line for an object, however many of its masks are too small."""
    number, area = min(masks, key=lambda mask: mask[1])
    where = f"object {i}" if place.dataset.kind == "image" else f"object {i}, frame {number}"
    times = f" (and {len(masks) - 1} more small ones)" if len(masks) > 1 else ""
    if area:
        return place.note(
            "tiny masks",
            where,
            found=f"a mask of {area} pixels{times}",
            expected=f"{rules.tiny} or more",
            fix="look whether it is a stray; `min_area` of the data set leaves such objects out",
        )
    return place.note(
        "empty masks",
        where,
        found=f"a mask without a pixel{times}",
        expected="one that covers the object",
        fix="draw it, or delete the annotation",
    )


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"

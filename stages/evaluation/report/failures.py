"""How objects are lost: every scored object falls into the first category whose rule it meets.

The rules read J, F and presence of one object on its scored frames, so they hold for any tracker
and any data set; nobody has to look at a picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil
from typing import NamedTuple

import numpy as np

from stages.evaluation.jf import ObjectScore, VideoScores

FOUND = 0.5
"""J from which a frame counts as found."""
ELSEWHERE = 0.1
"""J below which a claimed mask lies on something else."""
OFTEN = 0.2
"""Share of the frames from which elsewhere counts."""
ROUGH = 0.75
"""F below which a contour is rough."""
FINE = 80.0
"""J&F from which nothing is wrong."""


class Category(NamedTuple):
    """A way to be wrong."""

    key: str
    title: str
    meaning: str


CATEGORIES = (
    Category(
        "never",
        "never found",
        f"on no frame that shows the object does J reach {FOUND}",
    ),
    Category(
        "after_occlusion",
        "lost after occlusion",
        f"followed (mean J at least {FOUND}) until it disappears, and not (below {FOUND}) once it "
        "is back",
    ),
    Category(
        "in_view",
        "lost in view",
        f"never out of sight, but no longer found on the last quarter of its frames (J below {FOUND})",
    ),
    Category(
        "elsewhere",
        "wrong object or place",
        f"on {100 * OFTEN:g} % or more of its frames the mask lies on something else (J below "
        f"{ELSEWHERE})",
    ),
    Category(
        "phantom",
        "false presence",
        "claimed on half or more of the frames without it, and on at least two",
    ),
    Category(
        "boundary",
        "boundary only",
        f"found on nine frames of ten, but with a rough contour (mean F below {ROUGH})",
    ),
    Category("unsteady", "found off and on", f"none of the above, and J&F below {FINE:g}"),
    Category("fine", "as it should be", f"none of the above, and J&F {FINE:g} or more"),
)
TITLES = {category.key: category.title for category in CATEGORIES}


class Failures(NamedTuple):
    """The objects of one category."""

    category: Category
    objects: tuple[tuple[str, ObjectScore], ...]
    """(video, score), the worst first."""
    cost: float
    """Points of J&F the data set loses on them."""


def failures(scores: VideoScores) -> list[Failures]:
    """Every object of `scores` in its category; the costs add up to 100 - J&F."""
    found: dict[str, list[tuple[str, ObjectScore]]] = {c.key: [] for c in CATEGORIES}
    for video in scores.videos:
        for score in video.objects:
            found[category(score)].append((video.name, score))
    count = len(scores.objects)
    return [
        Failures(
            each,
            tuple(sorted(found[each.key], key=lambda pair: pair[1].jf)),
            sum(100 - score.jf for _, score in found[each.key]) / count,
        )
        for each in CATEGORIES
    ]


def category(score: ObjectScore) -> str:
    """The key of the first category whose rule the object meets."""
    return next((key for key, met in _rules(score) if met), "fine")


def worst_words(objects: Sequence[ObjectScore]) -> str:
    """What is wrong with the objects of one video, in a few words; empty when nothing is."""
    keys = [category(score) for score in objects]
    counts = [(TITLES[key], keys.count(key)) for key in TITLES if key in keys and key != "fine"]
    if len(objects) == 1:
        return "".join(title for title, _ in counts)
    return ", ".join(f"{count} of {len(objects)} {title}" for title, count in counts)


def _rules(score: ObjectScore) -> Iterable[tuple[str, bool]]:
    """Which rules are met, in the order of CATEGORIES."""
    shown, region = score.visible, score.region
    found = shown & (region >= FOUND)
    yield "never", not found.any()
    yield "after_occlusion", _lost_on_return(score)
    last = np.flatnonzero(shown)[-ceil(shown.sum() / 4) :]
    yield "in_view", not score.returned.any() and len(last) > 1 and not found[last].any()
    elsewhere = shown & score.claimed & (region < ELSEWHERE)
    yield "elsewhere", elsewhere.sum() >= OFTEN * shown.sum()
    claimed = int((~shown & score.claimed).sum())
    yield "phantom", claimed >= max(2, (~shown).sum() / 2)
    followed = found.sum() >= 0.9 * shown.sum()
    yield "boundary", bool(followed and score.contour[shown].mean() < ROUGH)
    yield "unsteady", score.jf < FINE


def _lost_on_return(score: ObjectScore) -> bool:
    """Followed before its first disappearance, not after."""
    back = score.returned
    before = score.visible & ~back
    if not back.any() or not before.any():
        return False
    return bool(score.region[before].mean() >= FOUND > score.region[back].mean())

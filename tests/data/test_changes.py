"""What is drawn: each number from the reference's distribution, none disturbing another."""

from collections import Counter
from itertools import permutations

import numpy as np
import pytest

from data.changes import draw_changes
from data.settings import Augment, Jitter

DRAWS = 6000
MOSE = Augment(
    flip=0.5,
    rotate=25,
    shear=20,
    jitter=Jitter(brightness=0.1, contrast=0.03, saturation=0.03, hue=0.1),
    gray=0.05,
    frame_jitter=Jitter(brightness=0.1, contrast=0.05, saturation=0.05),
)
OTHER = Augment(
    translate=0.2,
    scale=(0.8, 1.25),
    blur=0.3,
    mosaic=0.1,
    each_frame=("flip", "affine", "gray", "blur"),
)


def draws(augment, frames=1):
    return [draw_changes(augment, frames, np.random.default_rng([5, n])) for n in range(DRAWS)]


@pytest.fixture(scope="module")
def mose():
    return [change.frames[0] for change in draws(MOSE)]


def distance(values, low, high) -> float:
    """Kolmogorov's distance to the uniform distribution from low to high, times the root of the
    number of values: above 1.63 in one of a hundred fair draws."""
    ranks = (np.sort(values) - low) / (high - low)
    steps = np.arange(len(ranks) + 1) / len(ranks)
    worst = max(np.abs(ranks - steps[1:]).max(), np.abs(ranks - steps[:-1]).max())
    return float(worst * np.sqrt(len(ranks)))


@pytest.mark.parametrize(
    ("of", "low", "high"),
    [
        (lambda c: c.geometry.rotate, -25, 25),
        (lambda c: c.geometry.shear, -20, 20),
        (lambda c: c.shades.brightness, 0.9, 1.1),
        (lambda c: c.shades.contrast, 0.97, 1.03),
        (lambda c: c.shades.saturation, 0.97, 1.03),
        (lambda c: c.shades.hue, -0.1, 0.1),
        (lambda c: c.frame_shades.brightness, 0.9, 1.1),
        (lambda c: c.frame_shades.contrast, 0.95, 1.05),
        (lambda c: c.frame_shades.saturation, 0.95, 1.05),
    ],
)
def test_strengths_are_uniform(mose, of, low, high):
    assert distance([of(change) for change in mose], low, high) < 1.63


@pytest.mark.parametrize(
    ("of", "share"),
    [(lambda c: c.geometry.flip, 0.5), (lambda c: c.gray, 0.05)],
)
def test_chances_are_kept(mose, of, share):
    near(sum(of(change) for change in mose), share)


def near(count: int, share: float) -> None:
    """Within 2.6 standard deviations."""
    assert abs(count - share * DRAWS) < 2.6 * np.sqrt(DRAWS * share * (1 - share))


def test_jitters_come_in_any_order(mose):
    for which in ("shades", "frame_shades"):
        counts = Counter(getattr(change, which).order for change in mose)
        assert set(counts) == set(permutations(range(4)))
        expected = DRAWS / 24
        assert sum((n - expected) ** 2 / expected for n in counts.values()) < 41.6  # 1 %, 23 df


def test_draws_are_independent(mose):
    columns = np.array(
        [
            (
                c.geometry.flip,
                c.geometry.rotate,
                c.geometry.shear,
                c.gray,
                *c.shades[1:],
                *c.frame_shades[1:4],
            )
            for c in mose
        ],
        float,
    )
    correlation = np.corrcoef(columns.T) - np.eye(columns.shape[1])
    assert np.abs(correlation).max() < 3.7 / np.sqrt(DRAWS)  # 55 pairs


def test_zoom_shift_blur_and_mosaic():
    changes = draws(OTHER)
    first = [change.frames[0] for change in changes]
    assert distance([np.log(c.geometry.scale) for c in first], np.log(0.8), np.log(1.25)) < 1.63
    near(sum(c.blur > 0 for c in first), 0.3)
    assert distance([c.blur for c in first if c.blur], 0.1, 1.0) < 1.63
    tiles = Counter(change.tile for change in changes)
    near(DRAWS - tiles[None], 0.1)
    shown = [tiles[corner] for corner in range(4)]
    assert sum((n - sum(shown) / 4) ** 2 / (sum(shown) / 4) for n in shown) < 11.3  # 1 %, 3 df
    for c in first:  # all of the picture, or a window inside it, then the shift
        reach = abs(c.geometry.scale - 1) / 2 + 0.2
        assert np.abs(c.geometry.shift).max() <= reach + 1e-12
    shifts = [
        draw_changes(Augment(translate=0.2), 1, np.random.default_rng([6, n])) for n in range(DRAWS)
    ]
    for axis in (0, 1):
        values = [change.frames[0].geometry.shift[axis] for change in shifts]
        assert distance(values, -0.2, 0.2) < 1.63


def test_a_clip_changes_as_one_unless_told_otherwise():
    for change in draws(MOSE, frames=3)[:50]:
        assert len({(f.geometry, f.shades, f.gray) for f in change.frames}) == 1
        assert len({f.frame_shades for f in change.frames}) == 3
    flips = set()
    for change in draws(OTHER, frames=3)[:50]:
        assert len({f.geometry.scale for f in change.frames}) == 3
        flips.add(tuple(f.geometry.flip for f in change.frames))
    assert len(flips) == 8


def test_one_setting_does_not_disturb_another():
    """The same seed turns by the same angle whatever else is switched on."""
    rng = [np.random.default_rng(3) for _ in range(2)]
    alone = draw_changes(Augment(rotate=25), 2, rng[0])
    among = draw_changes(MOSE, 2, rng[1])
    assert alone.frames[1].geometry.rotate == among.frames[1].geometry.rotate
    assert rng[0].bit_generator.state == rng[1].bit_generator.state

"""The paired bootstrap: worked by hand, covering as often as it says, and the verdict on it."""

from itertools import product
from math import inf

import numpy as np
import pytest

from pipeline.errors import DataError
from stages.evaluation.bootstrap import (
    Difference,
    _acceleration,
    _levels,
    _student,
    paired_bootstrap,
)
from stages.evaluation.verdict import verdict


def test_two_items_worked_by_hand():
    """Differences -1 and 3: mean 1, s = sqrt(8), s / sqrt(2) = 2, t of one degree 12.706."""
    found = paired_bootstrap([50, 60], [49, 63])
    assert (found.mean, found.items, found.confidence) == (1.0, 2, 0.95)
    assert (found.low, found.high) == pytest.approx((1 - 25.412, 1 + 25.412), abs=0.01)
    assert not found.better
    assert not found.worse


def test_two_videos_that_both_lose_are_no_proof():
    found = paired_bootstrap([30.0, 40.0], [10.0, 25.6])
    assert verdict(found, 0) == "same"
    assert verdict(paired_bootstrap([30.0] * 6, [11, 10, 12, 9, 10, 11]), 0) == "worse"


def test_mean_and_ends_of_six_worked_by_hand():
    """Five differences of 0 and one of 6: a resample's mean is the number of times the six is
    drawn, which is 0 in a third of them and 3 or more in one of sixteen."""
    found = paired_bootstrap([0.0] * 6, [0, 0, 0, 0, 0, 6.0])
    assert found.mean == 1
    assert found.low == 0
    assert found.high == pytest.approx(round(found.high))
    assert 3 <= round(found.high) <= 5


def test_levels_of_an_exact_bootstrap_worked_by_hand():
    """All 27 resamples of the symmetric differences 0, 1, 2: no bias, no skew, so the levels are
    those of a normal at sqrt(3/2) * t(2) and its mirror."""
    change, share = np.array([0.0, 1.0, 2.0]), np.full(3, 1 / 3)
    means = np.sort([np.mean(draw) for draw in product(change, repeat=3)])
    low, high = _levels(means, change, share, 0.95)
    # 1 - Phi(1.2247 * 4.3027) = 6.8e-8
    assert low == pytest.approx(6.8e-8, abs=2e-9)
    assert low == pytest.approx(1 - high, rel=1e-6)


def test_levels_lean_to_the_long_tail():
    """Jackknife by hand for 0, 0, 0, 4: leaving one out gives 4/3, 4/3, 4/3, 0; pulls -1/3 (three
    times) and 1, cubes sum to 8/9, squares to 4/3, so the acceleration is 8/9 / (6 * (4/3)^1.5)."""
    change, share = np.array([0.0, 0, 0, 4]), np.full(4, 1 / 4)
    means = np.sort([np.mean(draw) for draw in product(change, repeat=4)])
    assert _acceleration(change, share) == pytest.approx((8 / 9) / (6 * (4 / 3) ** 1.5))
    low, high = _levels(means, change, share, 0.8)
    assert 1 - high < low, "the upper end reaches further into its tail"


def test_equal_differences_leave_no_doubt():
    found = paired_bootstrap([10.1, 20.2, 30.3], [11.1, 21.2, 31.3])
    assert (found.mean, found.low, found.high) == pytest.approx((1, 1, 1))
    assert found.better
    nothing = paired_bootstrap([5, 6], [5, 6])
    assert (nothing.mean, nothing.low, nothing.high) == (0, 0, 0)


def test_one_item_says_nothing_of_others():
    found = paired_bootstrap([10], [90])
    assert (found.mean, found.low, found.high) == (80, -inf, inf)
    assert verdict(found, 0) == "same"


def test_weights_give_the_mean_over_objects():
    """A video of three objects counts as three videos of one."""
    before, after = [40.0, 70.0, 55.0], [44.0, 69.0, 56.0]
    found = paired_bootstrap(before, after, weights=[3, 1, 2])
    assert found.mean == pytest.approx((3 * 4 - 1 + 2 * 1) / 6)
    assert found.items == 3
    same = paired_bootstrap(before, after, weights=[5, 5, 5])
    assert same == paired_bootstrap(before, after)


def test_same_seed_same_interval_whatever_the_block(monkeypatch):
    rng = np.random.default_rng(3)
    before = rng.normal(60, 10, 40)
    after = before + rng.normal(0.3, 2, 40)
    found = paired_bootstrap(before, after, seed=7)
    assert found == paired_bootstrap(list(before), list(after), seed=7)
    assert found != paired_bootstrap(before, after, seed=8)
    monkeypatch.setattr("stages.evaluation.bootstrap.BLOCK", 40 * 128)
    assert found == paired_bootstrap(before, after, seed=7)


def test_direction():
    before = np.arange(20.0)
    down = paired_bootstrap(before, before - 2 + 0.1 * np.cos(before))
    up = paired_bootstrap(before - 2 + 0.1 * np.cos(before), before)
    assert down.worse
    assert not down.better
    assert up.better
    assert (up.low, up.high) == pytest.approx((-down.high, -down.low), abs=0.01)


@pytest.mark.parametrize(
    ("draw", "true_mean", "items", "at_least"),
    [
        (lambda rng, n: rng.normal(0, 1, n), 0.0, 3, 0.92),
        (lambda rng, n: rng.normal(0, 1, n), 0.0, 6, 0.91),
        (lambda rng, n: rng.normal(0, 1, n), 0.0, 30, 0.92),
        (lambda rng, n: rng.exponential(1, n), 1.0, 30, 0.905),
        # one video in ten loses its object: about -20 on it, noise on the others
        (lambda rng, n: rng.normal(0, 1, n) - 40 * rng.random(n) * (rng.random(n) < 0.1), -2.0, 100, 0.905),
    ],
    ids=["three", "six", "thirty", "skewed", "lost"],
)  # fmt: skip
def test_the_interval_covers_as_often_as_it_says(draw, true_mean, items, at_least):
    rng = np.random.default_rng(0)
    trials = 400
    hits = 0
    for trial in range(trials):
        change = draw(rng, items)
        found = paired_bootstrap(np.zeros(items), change, draws=1000, seed=trial)
        hits += found.low <= true_mean <= found.high
    assert at_least <= hits / trials <= 0.985


@pytest.mark.parametrize(
    ("freedom", "exact"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (5, 2.5706), (9, 2.2622), (999, 1.9623)],
)
def test_student_quantiles(freedom, exact):
    assert _student(0.975, freedom) == pytest.approx(exact, abs=1e-3)


@pytest.mark.parametrize(
    ("before", "after", "weights"),
    [
        ([1.0], [1.0, 2.0], None),
        ([], [], None),
        ([1.0, 2.0], [1.0, 2.0], [1.0]),
        ([1.0, float("nan")], [1.0, 2.0], None),
        ([1.0, 2.0], [1.0, 2.0], [1.0, 0.0]),
    ],
)
def test_items_that_do_not_pair_up(before, after, weights):
    with pytest.raises(DataError):
        paired_bootstrap(before, after, weights=weights)


@pytest.mark.parametrize(
    ("mean", "low", "high", "tolerance", "said"),
    [
        (-1.0, -1.5, -0.5, 0.5, "worse"),
        (-1.0, -1.5, -0.5, 1.5, "same"),  # certain, but nobody minds
        (-1.0, -2.5, 0.5, 0.5, "same"),  # may be chance
        (1.0, 0.2, 1.8, 0.5, "better"),
        (0.3, 0.1, 0.5, 0.5, "same"),
        (0.3, 0.1, 0.5, 0.0, "better"),
        (0.0, 0.0, 0.0, 0.0, "same"),
    ],
)
def test_verdicts(mean, low, high, tolerance, said):
    assert verdict(Difference(mean, low, high, 30, 10_000, 0.95), tolerance) == said

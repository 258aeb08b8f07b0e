"""How sure is the difference of two results on the same videos? The paired bootstrap.

Both results are scored on the same items (videos, pictures, objects), so what is resampled is the
difference on each item: what makes a video hard for both cancels, and the interval is far narrower
than that of two separate means.

The interval is BCa (Efron 1987), not plain percentiles: differences are skewed, since one lost
object costs fifty points while the others move by one, and BCa shifts its ends by the skew. Its
level is widened for few items as Hesterberg (2015) does for percentiles, because a resample of n
items varies like n - 1 and a normal quantile is too small. Below six items no resampling helps: its
ends never leave what was seen, so any two videos that both lose would be proof, and Student's t
takes its place. `docs/report.md` shows how often each covers the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import inf, pi, sqrt, tan
from statistics import NormalDist

import numpy as np

from pipeline.errors import DataError

BLOCK = 4_000_000
"""Drawn numbers held in memory at once."""
FEW = 6
"""Fewer items than these are not resampled: five differences of one sign happen by chance more than
one time in twenty (2 / 2^5)."""
NORMAL = NormalDist()


@dataclass(frozen=True)
class Difference:
    """What changed from one result to another, in the unit of the values."""

    mean: float
    low: float
    high: float
    """The ends of the confidence interval; infinite for a single item, which says nothing of
    others."""
    items: int
    draws: int
    confidence: float

    @property
    def worse(self) -> bool:
        """The whole interval is a loss."""
        return self.high < 0

    @property
    def better(self) -> bool:
        """The whole interval is a gain."""
        return self.low > 0


def paired_bootstrap(
    before: Sequence[float],
    after: Sequence[float],
    *,
    weights: Sequence[float] | None = None,
    draws: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Difference:
    """The mean of after - before over items, and its confidence interval.

    before, after: one value per item, in the same order; higher is better. weights: how much each
    item counts in the mean, such as the objects of a video; equal by default. The same arguments
    give the same interval. Raises DataError when the items do not pair up.
    """
    change, share = _changes(before, after, weights)
    mean = float(share @ change)
    if len(change) == 1:
        return Difference(mean, -inf, inf, 1, draws, confidence)
    if len(change) < FEW:
        reach = _student((1 + confidence) / 2, len(change) - 1) * _standard_error(change, share)
        return Difference(mean, mean - reach, mean + reach, len(change), draws, confidence)
    means = _resampled_means(change, share, draws, np.random.default_rng(seed))
    low, high = np.quantile(means, _levels(means, change, share, confidence))
    return Difference(mean, float(low), float(high), len(change), draws, confidence)


def _changes(
    before: Sequence[float], after: Sequence[float], weights: Sequence[float] | None
) -> tuple[np.ndarray, np.ndarray]:
    """The difference on each item and its share of the mean, float64 [n] each."""
    first, second = np.asarray(before, float), np.asarray(after, float)
    weight = np.ones(len(first)) if weights is None else np.asarray(weights, float)
    if not len(first) or not len(first) == len(second) == len(weight):
        raise DataError(
            f"{len(first)} values before, {len(second)} after and {len(weight)} weights; "
            f"expected one of each per item, in the same order"
        )
    if not np.isfinite([first, second, weight]).all() or (weight <= 0).any():
        raise DataError("a value is not finite or a weight not positive; leave such items out")
    return second - first, weight / weight.sum()


def _resampled_means(
    change: np.ndarray, share: np.ndarray, draws: int, rng: np.random.Generator
) -> np.ndarray:
    """The mean of each of `draws` resamples, ascending, float64 [draws]."""
    items = len(change)
    means = []
    for start in range(0, draws, block := max(1, BLOCK // items)):
        chosen = rng.integers(0, items, (min(block, draws - start), items))
        weight = share[chosen]
        means.append((weight * change[chosen]).sum(1) / weight.sum(1))
    return np.sort(np.concatenate(means))


def _levels(
    means: np.ndarray, change: np.ndarray, share: np.ndarray, confidence: float
) -> tuple[float, float]:
    """Which quantiles of the resampled means are the ends of the interval."""
    mean, items = share @ change, len(change)
    below = (np.mean(means < mean) + np.mean(means <= mean)) / 2
    bias = NORMAL.inv_cdf(float(np.clip(below, 1 / len(means), 1 - 1 / len(means))))
    skew = _acceleration(change, share)
    reach = sqrt(items / (items - 1)) * _student((1 + confidence) / 2, items - 1)

    def level(z: float) -> float:
        shrink = 1 - skew * (bias + z)
        return NORMAL.cdf(bias + (bias + z) / shrink) if shrink > 0 else float(z > 0)

    return level(-reach), level(reach)


def _acceleration(change: np.ndarray, share: np.ndarray) -> float:
    """How fast the spread of the mean changes with the mean, by the jackknife."""
    pull = _pulls(change, share)
    spread = float((pull**2).sum())
    # differences that are equal but for rounding have no skew
    if spread <= 1e-24 * float((change**2).sum()):
        return 0.0
    return float((pull**3).sum()) / (6 * spread**1.5)


def _standard_error(change: np.ndarray, share: np.ndarray) -> float:
    """Of the mean, by the jackknife; with equal shares, the usual s / sqrt(n)."""
    items = len(change)
    return sqrt((items - 1) / items * float((_pulls(change, share) ** 2).sum()))


def _pulls(change: np.ndarray, share: np.ndarray) -> np.ndarray:
    """By how much each item moves the mean, from leaving out one at a time; float64 [n]."""
    without = (share @ change - share * change) / (1 - share)
    return without.mean() - without


@lru_cache
def _student(probability: float, freedom: int) -> float:
    """A quantile of Student's t: with t = sqrt(freedom) tan(angle) its density is
    cos(angle)^(freedom - 1), which is summed up here."""
    angle = np.linspace(-pi / 2, pi / 2, 200_001)
    density = np.cos(angle) ** (freedom - 1)
    density[[0, -1]] /= 2
    below = np.cumsum(density) - density / 2
    return sqrt(freedom) * tan(float(np.interp(probability, below / density.sum(), angle)))

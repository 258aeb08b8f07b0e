"""Two results on the same items: what changed, how sure that is, and on which videos.

Results of different splits or protocols are refused: their difference would measure the data.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import isfinite
from typing import Any

from pipeline.config import did_you_mean
from pipeline.errors import ConfigError, DataError
from stages.evaluation.bootstrap import Difference, paired_bootstrap
from stages.evaluation.scored import TITLES, Figure, Scored
from stages.evaluation.verdict import WORDS, Verdict, verdict

COMPARABLE = (
    "to compare, measure both on the same items: sam2-pipeline compare A.pt B.pt --videos DIR"
)


@dataclass(frozen=True)
class Change:
    """One metric, from one result to another."""

    before: Figure
    after: Figure
    difference: Difference
    """Of the mean over all objects; resampled are videos or pictures."""
    verdict: Verdict

    @property
    def name(self) -> str:
        """The metric."""
        return self.after.name

    def items(self) -> list[tuple[str, float, float]]:
        """Every item with its value before and after; the largest gain first, the largest loss
        last."""
        rows = [(item, self.before.values[item], now) for item, now in self.after.values.items()]
        return sorted(rows, key=lambda row: (row[1] - row[2], row[0]))


@dataclass(frozen=True)
class Comparison:
    """All metrics two results share."""

    before: Scored
    after: Scored
    changes: tuple[Change, ...]
    notes: tuple[str, ...] = ()
    """What a reader should know: metrics only one of them has, protocols not recorded."""

    @property
    def verdict(self) -> Verdict:
        """`worse` as soon as one metric is; `better` when one is and none is worse."""
        found = {change.verdict for change in self.changes}
        return "worse" if "worse" in found else "better" if "better" in found else "same"

    @property
    def words(self) -> str:
        """The verdicts in a sentence: `better in video J&F; no clear change in image mIoU@1`."""
        parts = []
        for said in ("better", "worse", "same"):
            names = [TITLES[change.name] for change in self.changes if change.verdict == said]
            if names:
                parts.append(f"{WORDS[said]} in {', '.join(names)}")
        return "; ".join(parts)

    @property
    def measured_on(self) -> tuple[str, ...]:
        """Split and protocol of its figures, each once."""
        found = [
            f"{change.after.items}: split {change.after.split[:12]}; {change.after.protocol}"
            for change in self.changes
            if change.after.split
        ]
        return tuple(dict.fromkeys(found))


def compare(
    before: Scored,
    after: Scored,
    *,
    tolerance: float = 0.0,
    metrics: Collection[str] = (),
    confidence: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Hold `after` against `before`.

    tolerance: a change nobody minds, in points of a hundred (0.5 is 0.005 of mIoU). metrics: only
    these; all that both have by default. Raises DataError when they were not measured alike.
    """
    names = _shared(before, after, metrics)
    changes: list[Change] = []
    notes: list[str] = []
    for name in names:
        first, second = before.figures[name], after.figures[name]
        notes += _same_items(before, after, first, second)
        order = list(first.values)
        difference = paired_bootstrap(
            [first.values[item] for item in order],
            [second.values[item] for item in order],
            weights=[first.weights[item] for item in order],
            draws=draws,
            confidence=confidence,
            seed=seed,
        )
        said = verdict(difference, tolerance * first.full / 100)
        changes.append(Change(first, second, difference, said))
    for one, other in ((before, after), (after, before)):
        alone = [TITLES[name] for name in one.figures if name not in other.figures]
        if alone and not metrics:
            notes.append(f"only {one.name} has {', '.join(alone)}")
    return Comparison(before, after, tuple(changes), tuple(dict.fromkeys(notes)))


def mean_interval(figure: Figure, *, confidence: float = 0.95, draws: int = 10_000) -> Difference:
    """The mean of a metric and how far other videos of the same kind might move it."""
    values = list(figure.values.values())
    weights = [figure.weights[item] for item in figure.values]
    nothing = [0.0] * len(values)
    found = paired_bootstrap(nothing, values, weights=weights, confidence=confidence, draws=draws)
    if len(values) == 1:
        return found
    return replace(found, low=max(found.low, 0.0), high=min(found.high, figure.full))


def comparison_json(comparisons: Sequence[Comparison], tolerance: float) -> dict[str, Any]:
    """Everything that was found, as plain values. An end of an interval that is not finite is
    null."""
    results = {c.name: c for pair in comparisons for c in (pair.before, pair.after)}
    return {
        "format": 1,
        "tolerance": tolerance,
        "results": [
            {
                "name": result.name,
                "source": result.source,
                "sha256": result.sha256,
                "metrics": {name: figure.mean for name, figure in result.figures.items()},
            }
            for result in results.values()
        ],
        "comparisons": [
            {
                "before": pair.before.name,
                "after": pair.after.name,
                "verdict": pair.verdict,
                "notes": list(pair.notes),
                "metrics": {change.name: _change_json(change) for change in pair.changes},
            }
            for pair in comparisons
        ],
    }


def _change_json(change: Change) -> Mapping[str, Any]:
    ends = {
        key: value if isfinite(value) else None for key, value in asdict(change.difference).items()
    }
    return {
        "before": change.before.mean,
        "after": change.after.mean,
        "difference": ends,
        "verdict": change.verdict,
        "split": change.after.split,
        "protocol": change.after.protocol,
        "items": {item: [then, now] for item, then, now in change.items()},
    }


def _shared(before: Scored, after: Scored, metrics: Collection[str]) -> list[str]:
    """The metrics to compare, in the order they are shown."""
    for name in metrics:
        if name not in TITLES:
            raise ConfigError(
                f"there is no metric {name!r}{did_you_mean(name, TITLES)}; there are "
                f"{', '.join(TITLES)}"
            )
        for result in (before, after):
            if name not in result.figures:
                raise DataError(
                    f"{result.source} has no {name}; it has {', '.join(result.figures)}"
                )
    both = before.figures.keys() & after.figures.keys()
    found = [name for name in TITLES if name in (set(metrics) or both)]
    if not found:
        raise DataError(
            f"{before.source} and {after.source} share no metric "
            f"({', '.join(before.figures)} against {', '.join(after.figures)}); {COMPARABLE}"
        )
    return found


def _same_items(before: Scored, after: Scored, first: Figure, second: Figure) -> Iterable[str]:
    """Notes on a pair that may be compared. Raises DataError for one that may not."""
    pair = f"{TITLES[first.name]} of {before.source} and of {after.source}"
    for key in ("split", "protocol"):
        one, other = getattr(first, key), getattr(second, key)
        if one and other and one != other:
            short = 12 if key == "split" else None
            raise DataError(
                f"{pair} were not measured alike: {key} {one[:short]!r} against "
                f"{other[:short]!r}; {COMPARABLE}"
            )
        if bool(one) != bool(other):
            silent = before if not one else after
            yield f"{silent.source} does not record its {key}; the names of all {first.items} agree"
    if dict(first.weights) == dict(second.weights):
        return
    missing = sorted(first.weights.keys() - second.weights.keys())
    extra = sorted(second.weights.keys() - first.weights.keys())
    others = [item for item in first.weights if first.weights[item] != second.weights.get(item, -1)]
    detail = "; ".join(
        f"{what}: {', '.join(items[:5])}{' …' if len(items) > 5 else ''}"
        for what, items in (
            (f"only the first has {len(missing)} {first.items}", missing),
            (f"only the second has {len(extra)} {first.items}", extra),
            ("other numbers of objects", [] if missing or extra else others),
        )
        if items
    )
    raise DataError(f"{pair} are over different items ({detail}); {COMPARABLE}")

"""A comparison as a page like the report: offline, light and dark, on paper."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import NamedTuple

from stages.evaluation.compare import Change, Comparison
from stages.evaluation.report.page import write_page
from stages.evaluation.scored import TITLES
from stages.evaluation.verdict import Verdict

MOST = 12
"""Gains and losses shown of each metric."""
ITEMISED = ("video/jf", "image/miou@1")
"""Metrics whose items are listed."""


class Line(NamedTuple):
    """One metric of the table."""

    name: str
    before: str
    after: str
    change: str
    interval: str
    items: str
    verdict: Verdict
    box: tuple[float, float, float]
    """Low end, mean and high end of the change on a scale from 0 to 100, 50 being no change."""


class Moved(NamedTuple):
    """An item and how it moved."""

    name: str
    before: str
    after: str
    change: str
    share: float
    """-1 to 1: length and side of its bar."""


def write_comparison(comparisons: Sequence[Comparison], path: str | Path, tolerance: float) -> Path:
    """Write `comparisons` to `path` (.html), whole or not at all, and return where it is."""
    path = Path(path)
    write_page(
        "compare.html.j2",
        path,
        comparisons=[
            (pair, pair.words, _lines(pair), _moved(pair), pair.measured_on) for pair in comparisons
        ],
        tolerance=tolerance,
        confidence=100 * comparisons[0].changes[0].difference.confidence,
    )
    return path


def _lines(pair: Comparison) -> list[Line]:
    """The table; all intervals on one scale, so that their lengths can be compared."""
    reach = max(
        (abs(end) for change in pair.changes for end in _ends(change) if isfinite(end)), default=0
    )
    return [_line(change, reach or 1.0) for change in pair.changes]


def _line(change: Change, reach: float) -> Line:
    digits = change.after.digits
    low, mean, high = (min(max(50 + 48 * end / reach, 0.0), 100.0) for end in _ends(change))
    difference = change.difference
    return Line(
        TITLES[change.name],
        f"{change.before.mean:.{digits}f}",
        f"{change.after.mean:.{digits}f}",
        _signed(difference.mean, digits),
        f"{_signed(difference.low, digits)} to {_signed(difference.high, digits)}"
        if isfinite(difference.low)
        else "one item only",
        f"{difference.items} {change.after.items}",
        change.verdict,
        (low, mean, high),
    )


def _ends(change: Change) -> tuple[float, float, float]:
    """Low end, mean and high end in points of a hundred."""
    scale = 100 / change.after.full
    found = change.difference
    return found.low * scale, found.mean * scale, found.high * scale


def _moved(pair: Comparison) -> list[tuple[str, list[Moved], int]]:
    """The items that moved most, gains first, and how many lie between."""
    found = []
    for change in (c for c in pair.changes if c.name in ITEMISED):
        rows = change.items()
        largest = max(abs(now - then) for _, then, now in rows) or 1.0
        digits = change.after.digits
        moved = [
            Moved(
                item,
                f"{then:.{digits}f}",
                f"{now:.{digits}f}",
                _signed(now - then, digits),
                (now - then) / largest,
            )
            for item, then, now in rows
        ]
        left_out = max(len(moved) - 2 * MOST, 0)
        shown = moved if not left_out else moved[:MOST] + moved[-MOST:]
        found.append((TITLES[change.name], shown, left_out))
    return found


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")

"""The headline table: what every stage reached, how sure that is, and what it changed."""

from __future__ import annotations

from math import isfinite
from typing import NamedTuple

from pipeline.errors import DataError
from stages.evaluation.bootstrap import Difference
from stages.evaluation.compare import compare, mean_interval
from stages.evaluation.details import Details
from stages.evaluation.report.data import ReportData, StageRow, rows_with_start, stage_title
from stages.evaluation.scored import Scored, scored_details
from stages.evaluation.summary import Summary
from stages.evaluation.verdict import Verdict

COLUMNS = {
    "image/miou@1": "image mIoU@1",
    "image/miou@3": "image mIoU@3",
    "video/jf": "video J&F",
    "video/jf_returned": "J&F after disappearances",
    "video/presence": "presence",
}
MAIN = ("image/miou@1", "video/jf")
"""Columns that a narrow screen keeps."""


class Cell(NamedTuple):
    """One figure of the table."""

    value: str
    interval: str = ""
    """Of the value itself; empty where single scores were not kept."""
    change: str = ""
    """Against the stage before; empty when there is none."""
    change_interval: str = ""
    verdict: Verdict = "same"
    share: float = 0.0
    """0 to 1: how far the bar under the figure reaches."""


class Row(NamedTuple):
    """One line of the table."""

    name: str
    baseline: bool
    cells: tuple[Cell, ...]
    seconds: float


class Tile(NamedTuple):
    """One large figure at the head of the page."""

    value: str
    label: str
    note: str


def headline(data: ReportData) -> list[Row]:
    """The rows, baselines first."""
    rows = []
    if data.repeated is not None:
        cells = tuple(_cell(name, data.repeated, None, None, None, "same") for name in COLUMNS)
        rows.append(Row("first mask repeated", True, cells, 0.0))
    before: StageRow | None = None
    for stage in rows_with_start(data):
        untrained = stage.name == "untrained"
        name = "untrained network" if untrained else stage_title(stage.name)
        rows.append(Row(name, untrained, _cells(stage, before), stage.seconds))
        before = stage
    return rows


def tiles(data: ReportData) -> list[Tile]:
    """The last stage's results at a glance."""
    if not data.stages:
        return []
    found = []
    summary = data.stages[-1].summary
    cells = dict(zip(COLUMNS, _cells(data.stages[-1], None), strict=True))
    if summary.video is not None:
        note = _interval_note(cells["video/jf"], "percent, over all objects")
        if data.repeated is not None and data.repeated.video is not None:
            ahead = summary.video.jf - data.repeated.video.jf
            note += f"; {ahead:+.1f} against the first mask repeated".replace("-", "−")
        found.append(Tile(f"{summary.video.jf:.1f}", "video J&F", note))
    if summary.image is not None:
        for clicks, said in ((1, "after one click"), (3, "after three clicks")):
            if clicks in summary.image.miou:
                note = _interval_note(cells[f"image/miou@{clicks}"], said)
                value = f"{summary.image.miou[clicks]:.3f}"
                found.append(Tile(value, f"image mIoU@{clicks}", note))
    seconds = sum(row.seconds for row in data.stages)
    if seconds:
        count = len(data.stages)
        found.append(
            Tile(time_text(seconds), "training", f"{count} stage{'s' if count > 1 else ''}")
        )
    return found


def time_text(seconds: float) -> str:
    """A duration as a person says it: 45 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s".removesuffix(" 0 s")
    return f"{whole // 3600} h {whole % 3600 // 60} min".removesuffix(" 0 min")


def _cells(stage: StageRow, before: StageRow | None) -> tuple[Cell, ...]:
    """The figures of a stage, and what changed against the one before."""
    now = _scored(stage.details)
    then = _scored(before.details) if before is not None else None
    earlier = before.summary if before is not None else None
    try:
        sure = {c.name: c for c in compare(then, now).changes} if now and then else {}
    except DataError:  # the data or the protocol changed between the two: nothing to hold together
        sure, earlier = {}, None
    return tuple(
        _cell(
            name,
            stage.summary,
            earlier,
            mean_interval(now.figures[name]) if now and name in now.figures else None,
            sure[name].difference if name in sure else None,
            sure[name].verdict if name in sure else "same",
        )
        for name in COLUMNS
    )


def _cell(
    name: str,
    summary: Summary,
    before: Summary | None,
    spread: Difference | None,
    change: Difference | None,
    said: Verdict,
) -> Cell:
    value = summary.metrics().get(name)
    if value is None:
        return Cell("–")
    digits, full = (3, 1.0) if name.startswith("image/") else (1, 100.0)
    earlier = before.metrics().get(name) if before is not None else None
    moved = None if earlier is None else value - earlier
    return Cell(
        f"{value:.{digits}f}",
        _ends(spread, digits, sign=False),
        "" if moved is None else _number(moved, digits, sign=True),
        _ends(change, digits, sign=True),
        said,
        min(max(value / full, 0.0), 1.0),
    )


def _scored(details: Details | None) -> Scored | None:
    return None if details is None else scored_details(details, "", "")


def _ends(interval: Difference | None, digits: int, *, sign: bool) -> str:
    if interval is None or not isfinite(interval.low):
        return ""
    ends = (_number(end, digits, sign=sign) for end in (interval.low, interval.high))
    return " to ".join(ends)


def _number(value: float, digits: int, *, sign: bool) -> str:
    return f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def _interval_note(cell: Cell, otherwise: str) -> str:
    return f"{otherwise}; 95 % interval {cell.interval}" if cell.interval else otherwise

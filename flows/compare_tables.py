"""Comparisons as tables in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from rich import box
from rich.console import Console
from rich.table import Table

from stages.evaluation.bootstrap import Difference
from stages.evaluation.compare import Change, Comparison
from stages.evaluation.published import (
    SAM21_SOURCE,
    SPLITS,
    THREE_STAGES,
    THREE_STAGES_SOURCE,
    Split,
)
from stages.evaluation.scored import TITLES, Figure, Scored
from stages.evaluation.verdict import WORDS

MOST_ITEMS = 5
"""Gains and losses listed of each comparison."""
COLOURS = {"better": "green", "same": "dim", "worse": "red"}


def print_comparison(comparison: Comparison, tolerance: float, console: Console) -> None:
    """One result against another: the metrics, then the videos that moved most."""
    before, after = comparison.before.name, comparison.after.name
    table = _table(f"{after} against {before}")
    percent = f"{100 * comparison.changes[0].difference.confidence:g} %"
    for column in ("metric", "before", "after", "change", f"{percent} interval", "over", "verdict"):
        left = column in ("metric", "verdict")
        table.add_column(column, justify="left" if left else "right", no_wrap=True)
    for change in comparison.changes:
        digits, said = change.after.digits, change.verdict
        table.add_row(
            TITLES[change.name],
            f"{change.before.mean:.{digits}f}",
            f"{change.after.mean:.{digits}f}",
            signed(change.difference.mean, digits),
            interval(change.difference, digits),
            f"{change.difference.items} {change.after.items}",
            f"[{COLOURS[said]}]{WORDS[said]}[/]",
        )
    console.print(table)
    console.print(f"{after}: {comparison.words}", markup=False, soft_wrap=True)
    for line in _moved(comparison):
        console.print(line, markup=False, soft_wrap=True)
    for note in comparison.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    for line in comparison.measured_on:
        console.print(line, style="dim", markup=False, soft_wrap=True)
    beyond = f" and the change is beyond ±{tolerance:g} points" if tolerance else ""
    console.print(
        f"better, worse: the interval excludes zero{beyond}; paired bootstrap over the items\n",
        style="dim",
    )


def signed(value: float, digits: int) -> str:
    """A change with its sign; a minus as wide as a plus."""
    return f"{value:+.{digits}f}".replace("-", "−")


def interval(difference: Difference, digits: int) -> str:
    """The ends of the interval, or that there is none."""
    if not isfinite(difference.low):
        return "one item only"
    return f"{signed(difference.low, digits)} … {signed(difference.high, digits)}"


def print_three_stages(results: Sequence[Scored], console: Console) -> None:
    """The stages of a three-stage run beside the figures published for the recipe, which are
    marked; nothing for other results."""
    ours = {result.name.rpartition(":")[2]: result.figures for result in results}
    if not {stage.kind for stage in THREE_STAGES} <= ours.keys():
        return
    table = _table("The three stages, and what was published for the recipe")
    table.add_column("stage")
    for column in ("ours: mIoU@1", "ours: J&F", "published: image %", "published: video %"):
        table.add_column(column, justify="right", style="dim" if "published" in column else None)
    for stage in THREE_STAGES:
        figures = ours[stage.kind]
        table.add_row(
            stage.kind,
            _mean(figures.get("image/miou@1")),
            _mean(figures.get("video/jf")),
            _published(stage.image),
            _published(stage.video),
        )
    console.print(table)
    console.print(f"{THREE_STAGES_SOURCE}\n", style="dim", markup=False)


def print_published(
    split: Split, rows: Sequence[tuple[str, float, bool]], console: Console
) -> None:
    """Results beside those of the released models on the same split, which are marked."""
    title, videos = SPLITS[split]
    table = _table(f"J&F on {title} ({videos} videos)")
    for column in ("model", "ours", "published"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for name, value, ours in rows:
        table.add_row(name, *((f"{value:.1f}", "") if ours else ("", f"{value:.1f}")))
    console.print(table)
    console.print(f"{SAM21_SOURCE}\n", style="dim", markup=False)


def _moved(comparison: Comparison) -> list[str]:
    """How many items gained and lost, and which most."""
    lines = []
    for change in (c for c in comparison.changes if c.name in ("video/jf", "image/miou@1")):
        rows = change.items()
        gained = [row for row in rows if row[2] > row[1]]
        lost = [row for row in reversed(rows) if row[2] < row[1]]
        lines.append(
            f"{TITLES[change.name]}: {len(gained)} {change.after.items} gained, {len(lost)} lost, "
            f"{len(rows) - len(gained) - len(lost)} as before"
        )
        visible = 0.5 * 10**-change.after.digits
        for what, moved in (("gained most", gained), ("lost most", lost)):
            moved = [row for row in moved if abs(row[2] - row[1]) >= visible]
            if moved:
                named = ", ".join(_move(change, *row) for row in moved[:MOST_ITEMS])
                lines.append(f"  {what}: {named}")
    return lines


def _move(change: Change, item: str, then: float, now: float) -> str:
    digits = change.after.digits
    return f"{item} {signed(now - then, digits)} ({then:.{digits}f} → {now:.{digits}f})"


def _mean(figure: Figure | None) -> str:
    return "–" if figure is None else f"{figure.mean:.{figure.digits}f}"


def _published(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)

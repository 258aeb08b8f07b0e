"""A night on the page of its flow run: the data, the comparison, the videos gained and lost."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from prefect import get_run_logger

from flows.nightly_compare import Against, Night, Outcome
from flows.nightly_data import DataCheck
from flows.page import Page, artifact_key, image_url
from flows.run import Run
from pipeline.storage import write_table

SHOWN = 10
"""Videos that are listed of those gained and of those lost; the table has all."""
CHART_FILE = "nights.png"
NIGHTS = 60
"""Shown in the chart, at most."""
VIDEOS_FILE = "videos.csv"
"""In the run folder: J&F of every video, then and now."""
NOTICEABLE = 0.05
"""J&F; a smaller change of a video is no change."""


class NightPage:
    """Artifacts of one night."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.page = Page(get_run_logger())  # type: ignore[arg-type]
        self.key = artifact_key(run.recipe.folder.name)

    def data(self, checked: DataCheck) -> None:
        """What the doctor found."""
        self.page.markdown(f"{self.key}-data", checked.page, "Data of the night")

    def outcome(self, outcome: Outcome, alias: str, version: int | None) -> None:
        """The comparison as a page, and every video as a table and a file."""
        text, chart = night_page(outcome, alias, version), self.run.recipe.folder / CHART_FILE
        if len(outcome.series) > 2:
            text += f"\n\n![J&F by night]({image_url(draw_nights(outcome.series, chart))})"
        self.page.markdown(f"{self.key}-comparison", text, "Against earlier nights")
        if not outcome.against:
            return
        before, videos = outcome.against[0].before.date, outcome.against[0].change.items()
        rows = [
            {"video": n, before: f"{b:.1f}", "tonight": f"{a:.1f}", "change": f"{a - b:+.1f}"}
            for n, b, a in reversed(videos)
        ]
        self.page.table(f"{self.key}-videos", rows, f"J&F of each video against {before}")
        place = self.run.recipe.folder / VIDEOS_FILE
        write_table(place, ["video", before, outcome.night.date], videos)


def draw_nights(series: Sequence[Night], out: Path) -> Path:
    """J&F over nights, tonight as a filled point."""
    from matplotlib.figure import Figure

    shown = series[-NIGHTS:]
    figure = Figure(figsize=(9, 2.6), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    days: Any = [date.fromisoformat(night.date) for night in shown]
    values = [night.jf.mean for night in shown]
    axes.plot(days, values, color="#3b82f6", linewidth=1.2, marker="o", markerfacecolor="white")
    axes.plot(days[-1:], values[-1:], color="#f08a24", marker="o")
    axes.set_title("J&F by night", loc="left", fontsize=10)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.2)
    figure.autofmt_xdate(rotation=0, ha="center")
    figure.savefig(out)
    return out


def night_page(outcome: Outcome, alias: str, version: int | None) -> str:
    """The outcome in Markdown."""
    night, jf = outcome.night, outcome.night.jf
    lines = [f"## {night.name}: J&F {jf.mean:.1f}", "", _decision(outcome, alias, version)]
    if outcome.against:
        lines += ["", "| against | | verdict | change | 95 % interval | J&F then | videos |"]
        lines.append("|:--|:--|:--|--:|--:|--:|--:|")
        lines += [_row(found) for found in outcome.against]
        lines += _videos(outcome.against[0])
        lines += _differing(outcome.against[0])
    if outcome.skipped:
        names = ", ".join(other.date for other in outcome.skipped[-5:])
        lines += ["", f"Measured on other videos or in another way, so not compared: {names}."]
    lines += [
        "",
        f"Protocol: {jf.protocol}. Split `{jf.split}`, {sum(jf.weights.values())} objects.",
    ]
    lines += ["", f"Checkpoint `{night.checkpoint.uri}`, sha256 `{night.checkpoint.sha256}`"]
    return "\n".join(lines)


def _decision(outcome: Outcome, alias: str, version: int | None) -> str:
    why = "Not worse" if outcome.against else "Nothing to compare with"
    return f"**{'Worse' if outcome.worse else why}: {outcome.decision(alias, version)}.**"


def _row(found: Against) -> str:
    change, before = found.change.difference, found.before
    interval = f"{change.low:+.2f} to {change.high:+.2f}"
    return (
        f"| {before.date} | {found.why} | **{found.change.verdict}** | {change.mean:+.2f} "
        f"| {interval} | {before.jf.mean:.1f} | {change.items} |"
    )


def _videos(found: Against) -> list[str]:
    rows = found.change.items()
    gained = [row for row in rows if row[2] - row[1] > NOTICEABLE]
    lost = [row for row in reversed(rows) if row[2] - row[1] < -NOTICEABLE]
    still = len(rows) - len(lost) - len(gained)
    lines = ["", f"Videos: {len(gained)} gained, {len(lost)} lost, {still} as before."]
    for title, some in (("Lost most", lost), ("Gained most", gained)):
        if some:
            lines += ["", f"### {title}", "", f"| video | {found.before.date} | tonight | change |"]
            lines.append("|:--|--:|--:|--:|")
            lines += [f"| {n} | {b:.1f} | {a:.1f} | {a - b:+.1f} |" for n, b, a in some[:SHOWN]]
    return lines


def _differing(found: Against) -> list[str]:
    if not found.differing:
        return ["", f"Data, settings and first weights are those of {found.before.date}."]
    title = f"### Not as on {found.before.date}"
    return ["", title, "", *(f"* {line}" for line in found.differing)]

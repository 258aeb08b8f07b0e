"""Curves as inline SVG that takes the page's own text colour, and so reads in light and dark alike;
and as SVG and PNG files on white, for a paper or a slide."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.storage import atomic_file
from stages.evaluation.compare import mean_interval
from stages.evaluation.report.colours import stage_colour
from stages.evaluation.report.data import Curve, ReportData, StageRow, rows_with_start, stage_title
from stages.evaluation.scored import scored_details

INK = "#010203"
"""Stands for the page's text colour; replaced by `currentColor` in the SVG."""
PNG_DOTS = 160
"""Dots an inch."""
STYLE = {
    "svg.fonttype": "none",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": INK,
    "grid.alpha": 0.12,
    "legend.frameon": False,
    "axes.titlesize": 10,
}


@dataclass(frozen=True)
class Chart:
    """A figure that can be drawn on a page or into files."""

    name: str
    """Of its files."""
    words: str
    """What it shows, for those who do not see it."""
    size: tuple[float, float]
    """Inches."""
    draw: Callable[[Axes], None]

    def svg(self) -> str:
        """For a page: it scales, has no ground of its own, and its ink is the page's."""
        text = re.sub(r' (width|height)="[\d.]+pt"', "", self._drawn, count=2)
        text = text.replace(INK, "currentColor")
        return text.replace("<svg ", f'<svg role="img" aria-label="{_quoted(self.words)}" ', 1)

    def write(self, folder: Path) -> None:
        """As NAME.svg and NAME.png on white."""
        ground = '<rect width="100%" height="100%" fill="#ffffff"/>'
        drawn = re.sub(r"(<svg [^>]*>)", rf"\1{ground}", self._drawn, count=1)
        for kind, content in (("svg", drawn.encode()), ("png", self._save("png", dpi=PNG_DOTS))):
            with atomic_file(folder / f"{self.name}.{kind}", sync=False) as file:
                file.write(content)

    @cached_property
    def _drawn(self) -> str:
        """The SVG element, with INK for its ink and no ground."""
        text = self._save("svg", transparent=True, metadata={"Date": None}).decode()
        return re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)

    def _save(self, kind: str, **options: Any) -> bytes:
        # the salt keeps the ids of several figures on one page apart
        with mpl.rc_context(STYLE | {"svg.hashsalt": f"{self.name} {self.words}"}):
            figure = Figure(figsize=self.size, layout="constrained")
            self.draw(figure.subplots())
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, **options)
        return buffer.getvalue()


def curve_chart(row: StageRow, curve: Curve, colour: str) -> Chart:
    """A quantity over the steps of a stage: the values faint, their running mean on top."""
    steps, values = np.asarray(curve.steps, float), np.asarray(curve.values, float)
    many = len(values) > 20 and curve.name != "lr"  # a rate has no noise to smooth away

    def draw(axes: Axes) -> None:
        axes.plot(steps, values, color=colour, alpha=0.3 if many else 1, lw=0.8 if many else 1.6)
        if many:
            axes.plot(steps, _smoothed(values), color=colour, linewidth=1.8)
            axes.set_ylim(*_focus(values))
        axes.set_title(curve.name, loc="left")
        axes.set_xlabel("step")

    known = values[np.isfinite(values)]
    ends = f", from {known[0]:.3g} to {known[-1]:.3g}" if len(known) else ""
    words = f"{curve.name} over the {len(values)} logged steps of {stage_title(row.name)}{ends}"
    return Chart(f"{row.name}-{curve.name.replace('/', '-')}", words, (4.2, 2.3), draw)


def stages_chart(data: ReportData) -> Chart:
    """Both tasks over the stages of the run, on one scale, with the baseline to beat.

    A point has the colour of its stage; video is a filled dot on a full line, pictures an open
    square on a dashed one; bars are 95 % intervals.
    """
    rows = rows_with_start(data)
    names = [stage_title(row.name) for row in rows]
    level = data.repeated.video.jf if data.repeated and data.repeated.video else None

    def draw(axes: Axes) -> None:
        video, pictures = [row.jf for row in rows], [row.miou for row in rows]
        scaled = [None if value is None else 100 * value for value in pictures]
        colours = _colours(rows)
        _line(axes, video, colours, rows, "video/jf", label="video J&F", other=scaled)
        _line(axes, scaled, colours, rows, "image/miou@1", label="image mIoU@1 × 100", other=video)
        if level is not None:
            label = f"first mask repeated, J&F {level:.0f}"
            axes.axhline(level, color=INK, linestyle=(0, (1, 2.5)), linewidth=1, label=label)
        axes.set_xticks(range(len(rows)), names)
        axes.set_xlim(-0.35, len(rows) - 0.3)
        axes.set_ylim(-7, 112)
        axes.set_yticks(range(0, 101, 20))
        axes.legend(loc="upper left", ncols=3)

    points = [
        f"{name}: {', '.join(_points(row))}"
        for name, row in zip(names, rows, strict=True)
        if _points(row)
    ]
    return Chart("stages", "Both tasks over the stages. " + "; ".join(points), (7.2, 3.1), draw)


def _points(row: StageRow) -> list[str]:
    video = [] if row.jf is None else [f"video J&F {row.jf:.1f}"]
    return video + ([] if row.miou is None else [f"image mIoU@1 {row.miou:.3f}"])


def _colours(rows: Sequence[StageRow]) -> list[str]:
    names = [row.name for row in rows]
    return [stage_colour(row.name, row.kind, names) for row in rows]


def _line(
    axes: Axes,
    values: Sequence[float | None],
    colours: Sequence[str],
    rows: Sequence[StageRow],
    metric: str,
    *,
    label: str,
    other: Sequence[float | None],
) -> None:
    """One task over the stages; a figure stands below its point where the other line is above
    it."""
    points = [(place, value) for place, value in enumerate(values) if value is not None]
    if not points:
        return
    video = metric.startswith("video/")
    marker, face = ("o", INK) if video else ("s", "none")
    axes.plot(
        *zip(*points, strict=True), "-" if video else "--",
        color=INK, alpha=0.55, lw=1.4, marker=marker, ms=5.5, mfc=face, label=label,
    )  # fmt: skip
    for place, height in points:
        colour = colours[place]
        low, high = _ends(rows[place], metric, height)
        axes.plot([place, place], [low, high], color=colour, lw=2.2, alpha=0.45, zorder=3)
        face = colour if video else "none"
        axes.plot(place, height, marker, color=colour, ms=7, mfc=face, mew=1.8, zorder=4)
        rival = other[place]
        below = rival is not None and height < rival
        axes.annotate(
            f"{height:.0f}", (place, height), (9, -10 if below else 4),
            textcoords="offset points", ha="left", weight="bold",
        )  # fmt: skip


def _ends(row: StageRow, metric: str, height: float) -> tuple[float, float]:
    """The 95 % interval of a figure in percent; without single scores, the figure itself."""
    if row.details is None:
        return height, height
    figure = scored_details(row.details, "", "").figures.get(metric)
    if figure is None:
        return height, height
    spread = mean_interval(figure)
    scale = 100 / figure.full
    low, high = (float(np.clip(end * scale, 0, 100)) for end in (spread.low, spread.high))
    return low, high


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Mean over a window of a thirtieth of the curve, shrinking at the ends."""
    half = max(len(values) // 60, 1)
    sums = np.concatenate([[0.0], np.cumsum(np.nan_to_num(values))])
    low = np.maximum(np.arange(len(values)) - half, 0)
    high = np.minimum(np.arange(len(values)) + half + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)


def _focus(values: np.ndarray) -> tuple[float, float]:
    """Limits that a few outliers, such as the first steps' losses, do not stretch."""
    low, high = np.nanpercentile(values, [0.5, 98])
    margin = 0.08 * (high - low) or 0.1
    return float(low - margin), float(high + margin)


def _quoted(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")

"""Curves as inline SVG that takes the page's own text colour, and so reads in light and dark
alike."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stages.evaluation.report_data import Curve, ReportData, StageRow, stage_title

INK = "#010203"
"""Stands for the page's text colour; replaced by `currentColor` in the SVG."""
BLUE, ORANGE = "#3b82f6", "#f08a24"
Values = Sequence[float | None]
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


def curve_svg(curve: Curve) -> str:
    """A quantity over steps: the values faint, their running mean on top."""
    steps, values = np.asarray(curve.steps, float), np.asarray(curve.values, float)
    many = len(values) > 20

    def draw(axes: Axes) -> None:
        axes.plot(steps, values, color=BLUE, alpha=0.3 if many else 1, lw=0.8 if many else 1.6)
        if many:
            axes.plot(steps, _smoothed(values), color=BLUE, linewidth=1.8)
            axes.set_ylim(*_focus(values))
        axes.set_title(curve.name, loc="left")
        axes.set_xlabel("step")

    return _svg(4.2, 2.3, f"{curve.name} {len(values)} {values.sum()}", draw)


def stages_svg(data: ReportData) -> str:
    """Both tasks over the stages of the run, on one scale, with the baseline to beat."""
    rows = ([StageRow("untrained", data.untrained)] if data.untrained else []) + list(data.stages)
    names = [stage_title(row.name) for row in rows]
    video = [row.jf for row in rows]
    pictures = [None if row.miou is None else 100 * row.miou for row in rows]

    def draw(axes: Axes) -> None:
        _line(axes, video, ORANGE, "video J&F", against=pictures)
        _line(axes, pictures, BLUE, "image mIoU@1 × 100", against=video)
        if data.repeated is not None and data.repeated.video is not None:
            level = data.repeated.video.jf
            axes.axhline(level, color=ORANGE, linestyle=(0, (4, 3)), linewidth=1)
            label = f"first mask repeated {level:.0f}"
            axes.text(len(rows) - 0.3, level + 1, label, va="bottom", ha="right", fontsize=8)
        axes.set_xticks(range(len(rows)), names)
        axes.set_xlim(-0.35, len(rows) - 0.3)
        axes.set_ylim(-7, 104)
        axes.legend(loc="upper left", ncols=2)

    return _svg(7.2, 2.9, "stages " + " ".join(names), draw)


def _line(axes: Axes, values: Values, ink: str, label: str, *, against: Values) -> None:
    """One task over the stages; a figure stands below its point where the other line is above
    it."""
    points = [(place, value) for place, value in enumerate(values) if value is not None]
    if not points:
        return
    places, heights = zip(*points, strict=True)
    axes.plot(places, heights, "o-", color=ink, linewidth=2, markersize=5, label=label)
    for place, height in points:
        other = against[place]
        offset = 6 if other is None or height >= other else -14
        axes.annotate(
            f"{height:.0f}", (place, height), (0, offset), textcoords="offset points", ha="center"
        )


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


def _svg(width: float, height: float, salt: str, draw: Callable[[Axes], None]) -> str:
    """Draw on fresh axes. The salt keeps the ids of several figures on one page apart."""
    with mpl.rc_context(STYLE | {"svg.hashsalt": salt}):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure.subplots())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue().replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return re.sub(r' (width|height)="[\d.]+pt"', "", text[text.index("<svg") :], count=2)

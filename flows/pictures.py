"""The pictures of a finished stage that are worth a place on its page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.journal import METRICS, read_lines
from stages.contract import StageResult

CURVES = ("loss", "grad_norm", "lr")
POINTS = 2000
SUFFIXES = (".png", ".jpg", ".jpeg")


def pictures_of(folder: Path, result: StageResult) -> Iterator[tuple[str, Path]]:
    """(what it shows, file): the curves of a training, and pictures a stage made itself."""
    curves = draw_curves(folder / METRICS, folder / "curves.png")
    if curves is not None:
        yield "curves", curves
    for what, place in result.files.items():
        if Path(place).suffix.lower() in SUFFIXES:
            yield what, Path(place)


def draw_curves(metrics: Path, out: Path) -> Path | None:
    """The loss, the gradient's norm and the rate over the steps, from the lines that the training
    wrote; None where it wrote none."""
    points = _points(metrics)
    shown = [name for name in CURVES if any(name in values for values in points.values())]
    if len(points) < 2 or not shown:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.6), dpi=100, layout="constrained")
    for place, name in enumerate(shown, 1):
        axes = figure.add_subplot(1, len(shown), place)
        steps = [step for step in sorted(points) if name in points[step]]
        axes.plot(steps, [points[step][name] for step in steps], color="#3b82f6", linewidth=1.2)
        axes.set_title(name, loc="left", fontsize=10)
        axes.set_xlabel("step", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.2)
    figure.savefig(out)
    return out


def _points(metrics: Path) -> dict[int, dict[str, float]]:
    """Values by step, the last word counting where a step was taken twice, thinned evenly."""
    points = {int(row["step"]): row["values"] for row in read_lines(metrics)}
    steps = sorted(points)[:: max(1, len(points) // POINTS)]
    return {step: points[step] for step in steps}

"""`python -m benchmarks`: what our way of doing things gains, as ratios measured within this one run.

Prints a table and writes it to runs/bench.md.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path

import torch

from benchmarks.clips import clip_rows
from benchmarks.extraction import extraction_rows
from benchmarks.loading import loader_rows
from benchmarks.measure import Row, megabytes
from benchmarks.parts import contour_rows, loss_rows, predictor_rows
from benchmarks.sources import source_rows
from benchmarks.steps import StepCost, optimizer_rows, training_rows
from pipeline.environment import quiet

TARGET = Path("runs/bench.md")


def main() -> int:
    """Measure everything, part by part."""
    quiet()
    began = time.monotonic()
    _say("training steps")
    rows, costs = training_rows()
    parts: Sequence[tuple[str, Callable[[], list[Row]]]] = (
        ("loss", loss_rows),
        ("video predictor", predictor_rows),
        ("optimiser", optimizer_rows),
        ("J and F", contour_rows),
        ("loader", loader_rows),
        ("sources", source_rows),
        ("clips", clip_rows),
        ("frame extraction", extraction_rows),
    )
    for name, measure in parts:
        _say(name)
        rows += measure()
    table = _table(rows) + "\n\n" + _cost_table(costs)
    print(table)
    head = (
        f"# Benchmarks\n\n{date.today().isoformat()}, torch {torch.__version__}, Python "
        f"{platform.python_version()}, {platform.machine()}. Each line compares two ways of doing the same thing, "
        "run in turns on the same machine; only the ratio travels to another machine.\n\n"
    )
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(head + table + "\n", encoding="utf-8")
    print(f"\n{time.monotonic() - began:.0f} s; also in {TARGET}")
    return 0


def _table(rows: Sequence[Row]) -> str:
    cells = [("what", "this", "against", "this, ms", "against, ms", "faster by", "note")]
    cells += [
        (
            row.what,
            row.better,
            row.plain,
            f"{row.better_ms:.3g}",
            f"{row.plain_ms:.3g}",
            f"{row.ratio:.2f} x",
            row.note,
        )
        for row in rows
    ]
    return _markdown(cells)


def _cost_table(costs: Sequence[StepCost]) -> str:
    cells = [("training step, 1 thread", "ms", "CPU ms", "peak memory", "before the first step")]
    cells += [
        (
            cost.name,
            f"{cost.milliseconds:.0f}",
            f"{cost.cpu_milliseconds:.0f}",
            megabytes(cost.peak_bytes),
            megabytes(cost.start_bytes),
        )
        for cost in costs
    ]
    return _markdown(cells)


def _markdown(cells: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _say(part: str) -> None:
    print(f"measuring: {part}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())

"""`python -m benchmarks [PART …]`: what our way of doing things gains, as ratios measured within this one run.

Prints a table and writes it to runs/bench.md. Without names, every part but `rejected` and, where there is no GPU,
`compiled` (compiling for a CPU takes minutes and gains nothing) and `gpu`.
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
from benchmarks.features import feature_rows
from benchmarks.gpu import gpu_steps, gpu_table
from benchmarks.jf import contour_rows
from benchmarks.loading import loader_rows
from benchmarks.measure import Row, megabytes
from benchmarks.network import compiled_rows, network_rows, predictor_rows
from benchmarks.parts import loss_rows
from benchmarks.rejected import rejected_rows
from benchmarks.saving import saving_rows
from benchmarks.sources import source_rows
from benchmarks.steps import StepCost, optimizer_rows, training_rows
from benchmarks.telemetry import telemetry_rows
from pipeline.environment import quiet

TARGET = Path("runs/bench.md")


PARTS: dict[str, Callable[[], list[Row]]] = {
    "loss": loss_rows,
    "predictor": predictor_rows,
    "network": network_rows,
    "compiled": compiled_rows,
    "optimiser": optimizer_rows,
    "features": feature_rows,
    "jf": contour_rows,
    "loader": loader_rows,
    "sources": source_rows,
    "clips": clip_rows,
    "extraction": extraction_rows,
    "saving": saving_rows,
    "telemetry": telemetry_rows,
    "rejected": rejected_rows,
}
STEPS, GPU = "steps", "gpu"
ON_REQUEST = {"rejected"} if torch.cuda.is_available() else {"rejected", "compiled"}


def main(wanted: Sequence[str]) -> int:
    """Measure the `wanted` parts, or all, one after the other."""
    unknown = sorted(set(wanted) - {STEPS, GPU, *PARTS})
    if unknown:
        there_are = ", ".join((STEPS, GPU, *PARTS))
        print(f"no benchmark {unknown[0]!r}; there are {there_are}", file=sys.stderr)
        return 2
    if GPU in wanted and not torch.cuda.is_available():
        print("the benchmark `gpu` needs a CUDA device, torch finds none here", file=sys.stderr)
        return 2
    usual = [STEPS, *(name for name in PARTS if name not in ON_REQUEST)]
    chosen = list(wanted) or [*usual, *([GPU] if torch.cuda.is_available() else [])]
    quiet()
    began = time.monotonic()
    rows: list[Row] = []
    costs: list[StepCost] = []
    card: list[tuple[str, ...]] = []
    for name in chosen:
        print(f"measuring: {name}", file=sys.stderr)
        if name == STEPS:
            more, costs = training_rows()
            rows += more
        elif name == GPU:
            card = gpu_table(gpu_steps(), torch.cuda.get_device_name())
        else:
            rows += PARTS[name]()
    parts = [_table(rows)] if rows else []
    parts += [_cost_table(costs)] if costs else []
    parts += [_markdown(card)] if card else []
    table = "\n\n".join(parts)
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`speed`: how fast networks segment on this machine."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.weights import local_weights
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from stages.speed import Precision, Speed, SpeedCase

WORKS = ("image", "click", "video")
PRESETS = ("micro", "tiny", "small", "base_plus", "large")
LEAST_WIDTH = 100
"""Columns the table needs; a narrower terminal breaks its lines."""
EXAMPLES = """examples:
  sam2-pipeline speed --preset tiny --objects 1 3                          a published size
  sam2-pipeline speed --checkpoint runs/smoke/final.pt --work video        weights of your own
  sam2-pipeline speed --preset tiny large --precision bf16 --compile --frames-at-once 8 \\
      --objects 1 5 10 --size 1280x720 --out speed.json

Weights do not change the speed; a preset is measured with random ones. docs/evaluation.md tells what
is timed."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """What may stand on the command line."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--preset", nargs="+", choices=PRESETS, help="networks by size")
    which.add_argument(
        "--checkpoint", help="or that of these weights: a file, URL, runs:/… or models:/…"
    )
    parser.add_argument(
        "--work", nargs="+", choices=WORKS, default=list(WORKS), help="what to time (all three)"
    )
    parser.add_argument(
        "--objects", nargs="+", type=int, default=[1, 3], metavar="N", help="how many (1 3)"
    )
    parser.add_argument("--image-size", type=int, metavar="N", help="the network's input side")
    parser.add_argument(
        "--size", type=_size, default=(854, 480), metavar="WxH", help="of the pictures (854x480)"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, …; default: a GPU where there is one")
    parser.add_argument(
        "--precision", choices=("fp32", "bf16", "fp16"), help="(bf16 on a GPU, fp32 on a CPU)"
    )
    parser.add_argument("--compile", action="store_true", help="compile the network's blocks first")
    parser.add_argument("--threads", type=int, metavar="N", help="of the CPU; default: torch's")
    parser.add_argument(
        "--frames-at-once",
        type=int,
        default=1,
        metavar="N",
        help="frames of a video encoded together: more a second, each later (1, a live stream)",
    )
    parser.add_argument("--count", type=int, default=100, help="measurements a line (100)")
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="but no more than this long (60)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="the figures as json, too")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="the runs folder (runs)")


def speed(arguments: argparse.Namespace) -> int:
    """Measure each network, work and number of objects, and show them in one table."""
    import torch
    from rich.console import Console

    from stages.speed import WARM_UP, measure_each

    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    cases = _cases(arguments, device)
    console = Console(highlight=False)
    console.width = max(console.width, LEAST_WIDTH)
    found: list[Speed] = []
    with Console(stderr=True).status("") as status:
        for case in cases:
            name = case.preset or arguments.checkpoint
            status.update(f"{name}: {case.work}, {case.objects} objects")
            found += measure_each([case])
    where = torch.cuda.get_device_name(device) if device.startswith("cuda") else _processor()
    first = cases[0]
    width, height = first.size
    about = (
        f"{where}, torch {torch.__version__}, {first.precision}"
        f"{', compiled' if first.compiled else ''}; pictures {width}x{height}, {WARM_UP} calls of "
        f"warm-up, at most {first.count} measurements or {first.seconds:g} s"
    )
    console.print(_table(cases, found))
    console.print(about, markup=False, soft_wrap=True)
    if arguments.out:
        _write(arguments.out, about, cases, found)
    return 0


def _cases(arguments: argparse.Namespace, device: str) -> list[SpeedCase]:
    from pipeline.device import usable_device
    from stages.speed import SpeedCase

    usable_device(device)
    precision: Precision = arguments.precision or ("bf16" if device.startswith("cuda") else "fp32")
    networks: list[dict[str, Any]] = [{"preset": name} for name in arguments.preset or ()]
    if arguments.checkpoint:
        networks = [{"checkpoint": str(local_weights(arguments.checkpoint, arguments.runs))}]
    return [
        SpeedCase(
            work=work,
            objects=objects,
            image_size=arguments.image_size,
            size=arguments.size,
            count=arguments.count,
            seconds=arguments.seconds,
            device=device,
            precision=precision,
            compiled=arguments.compile,
            threads=arguments.threads,
            frames_at_once=arguments.frames_at_once,
            **network,
        )
        for network in networks
        for work in arguments.work
        for objects in arguments.objects
    ]


def _table(cases: Sequence[SpeedCase], found: Sequence[Speed]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, caption="p50 to first: milliseconds", caption_justify="left")
    for column in ("network", "work"):
        table.add_column(column, no_wrap=True)
    for column in ("objects", "a second", "p50", "p90", "p99", "first", "memory", "n"):
        table.add_column(column, justify="right", no_wrap=True)
    for case, one in zip(cases, found, strict=True):
        cells = [f"{ms:.1f}" for ms in (*one.percentiles, one.first)]
        memory = f"{one.peak_bytes / 2**20:.0f} MiB"
        rate = f"{one.per_second:.2f}"
        table.add_row(
            one.network, case.work, str(case.objects), rate, *cells, memory, str(one.measurements)
        )
    return table


def _write(path: Path, about: str, cases: Sequence[SpeedCase], found: Sequence[Speed]) -> None:
    from pipeline.storage import write_json

    lines = [asdict(case) | asdict(one) for case, one in zip(cases, found, strict=True)]
    write_json(path, {"about": about, "percentiles": [50, 90, 99], "lines": lines})
    print(path)


def _processor() -> str:
    """What this machine computes with."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())


def _size(words: str) -> tuple[int, int]:
    width, cross, height = words.partition("x")
    if not (cross and width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise ConfigError(f"--size {words}: expected WIDTHxHEIGHT, as 1280x720")
    return int(width), int(height)

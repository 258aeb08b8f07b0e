"""The words of `compare`."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = """examples:
  sam2-pipeline compare runs/smoke                              its stages, each with the one before
  sam2-pipeline compare runs/smoke runs/smoke-seed1             two runs, by their last stages
  sam2-pipeline compare runs/smoke:video_train runs/smoke:joint_train --html compare.html
  sam2-pipeline compare old.pt new.pt --videos /data/DAVIS --fail-if worse --tolerance 0.5
  sam2-pipeline compare a/scores.json b/scores.json --metric video/jf --json compare.json

A result is a run folder, RUN:STAGE, the folder of an evaluation, a details.json or scores.json, the
results.csv of the reference evaluator, runs:/ID in MLflow; with --videos or --images, a checkpoint.
Results of other videos or another protocol are refused. Exit code 1: --fail-if holds."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add them."""
    parser.add_argument(
        "results", nargs="+", metavar="RESULT", help="the first is what others are held against"
    )
    parser.add_argument(
        "--against",
        choices=("first", "previous"),
        help="hold each against the first, or the one before (first; of a run's stages: previous)",
    )
    parser.add_argument(
        "--metric", action="append", default=[], metavar="NAME", help="only this one, such as video/jf; repeat for more"
    )  # fmt: skip
    parser.add_argument("--confidence", type=_percent, default=95.0, metavar="%", help="(95)")
    parser.add_argument(
        "--tolerance", type=_points, default=0.0, metavar="POINTS", help="a change nobody minds (0)"
    )
    parser.add_argument(
        "--fail-if",
        choices=("worse", "not-better"),
        help="exit code 1 when a metric is worse, or when none is better",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything for programs")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page")
    parser.add_argument(
        "--published",
        choices=("sav_test", "mose_val"),
        help="your split is this one: show J&F beside the released models'",
    )
    parser.add_argument("--videos", type=Path, help="measure checkpoints on these videos first")
    parser.add_argument("--images", type=Path, help="measure checkpoints on these pictures first")
    parser.add_argument("--preset", help="the size the weights must have; found out by itself")
    parser.add_argument("--image-size", type=int, metavar="N", help="the network's input side")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, …; default: a GPU where there is one")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/compare"), help="for what is measured (runs/compare)"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="the runs folder (runs)")


def _percent(text: str) -> float:
    value = float(text)
    if not 50 <= value < 100:
        raise argparse.ArgumentTypeError(f"{text} is not between 50 and 100 percent")
    return value


def _points(text: str) -> float:
    value = float(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative; give how much loss nobody minds")
    return value

"""The entry of every job: read the spec, run the stage of that kind, declare it done.

Inline, in a local process or under SLURM, on one rank or many, this is the function that is submitted. Torch and the
stage are imported inside it, so that whoever submits needs neither.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.redaction import redact_logs
from stages.contract import StageKind, StageResult, StageSpec, read_result, read_spec, write_result

MODULES: dict[StageKind, str] = {
    "make_world": "stages.make_world",
    "extract_frames": "stages.extract_frames",
    "image_pretrain": "stages.image_pretrain",
    "video_train": "stages.video_train",
    "joint_train": "stages.joint_train",
    "finetune": "stages.finetune",
    "evaluate": "stages.evaluate",
    "report": "stages.report",
}
SHARED_KINDS: tuple[StageKind, ...] = ("extract_frames",)
"""Stages whose work can be shared out over jobs (`launch.shards`)."""


@dataclass(frozen=True)
class Part:
    """One of the shards of a stage."""

    spec_path: str
    number: int
    count: int
    folder: str
    """Where it tells its progress."""


def run_part(part: Part) -> None:
    """Do one part of the stage, so that `run_stage` finds it done; for kinds in SHARED_KINDS."""
    spec = read_spec(part.spec_path)
    run = importlib.import_module(MODULES[spec.kind]).run_part
    run(spec, part.number, part.count, part.folder)


def run_stage(spec_path: str) -> None:
    """Run the stage whose spec.json is at `spec_path`; a stage that is already done is left alone."""
    redact_logs()
    spec = read_spec(spec_path)
    folder = Path(spec.folder)
    if read_result(folder, spec.key) is not None:
        return
    started = time.monotonic()
    run: Callable[[StageSpec], StageResult | None] = importlib.import_module(MODULES[spec.kind]).run
    result = run(spec)
    if result is not None:  # ranks other than the first have nothing to say
        write_result(folder, replace(result, seconds=round(time.monotonic() - started, 1)))

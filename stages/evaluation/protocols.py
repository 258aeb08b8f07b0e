"""Ways to measure a checkpoint beyond the pictures and videos of every evaluation.

A protocol is a module with `measure(wanted, subject) -> Found | None`. All ranks call it; it shares
its items out (`sharing.share_out`) and the first rank answers. To add one: its settings in
`stages.evaluation_settings`, its module here.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from data.sources import Dataset
from model.sam2 import SAM2
from pipeline.distributed import World
from stages.evaluation.kept import Kept
from stages.evaluation_settings import Measurement

MODULES: Mapping[str, str] = {
    "vos": "stages.evaluation.vos",
    "clicks": "stages.evaluation.clicks",
    "interactive": "stages.evaluation.interactive",
    "coco": "stages.evaluation.coco",
    "occlusion": "stages.evaluation.occlusion",
}


@dataclass(frozen=True)
class Subject:
    """What is measured, on what, and where results go."""

    model: SAM2
    """On the world's device, in eval mode."""
    weights: Path
    """The file its weights are from."""
    dataset: Dataset
    world: World
    folder: Path
    """Of this measurement alone."""
    kept: Kept | None = None
    """Where answers of finished items are kept."""


@dataclass(frozen=True)
class Found:
    """The answer of a protocol."""

    metrics: Mapping[str, float]
    """Figures by name; empty where the data set has no truth to score against."""
    protocol: str
    """How they were made, in a sentence that stands beside every figure."""
    split: str
    """Digest of the data set."""
    resolution: str = ""
    """Of the pictures that were compared."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Files worth opening, by a short name."""


def measure_by(wanted: Measurement, subject: Subject) -> Found | None:
    """Measure by the protocol that `wanted` names; None on every rank but the first."""
    answer: Found | None = importlib.import_module(MODULES[wanted.kind]).measure(wanted, subject)
    return answer

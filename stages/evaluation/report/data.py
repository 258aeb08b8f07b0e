"""What a report is made of. No drawing here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stages.evaluation.details import Details
from stages.evaluation.report.origins import Source
from stages.evaluation.summary import Summary


@dataclass(frozen=True)
class Curve:
    """One quantity over the steps of one stage."""

    name: str
    steps: Sequence[float]
    values: Sequence[float]


@dataclass(frozen=True)
class Measured:
    """What one further protocol found."""

    metrics: Mapping[str, float]
    protocol: str
    split: str


@dataclass(frozen=True)
class StageRow:
    """One trained stage: what it reached, what it cost, and where its weights are."""

    name: str
    summary: Summary
    seconds: float = 0.0
    step: int = 0
    checkpoint: str = ""
    """Where the weights are; empty when the stage kept none."""
    sha256: str = ""
    """Digest of that checkpoint."""
    input_sha256: str = ""
    """Digest of the checkpoint it started from; empty when it started from scratch."""
    curves: tuple[Curve, ...] = ()
    kind: str = ""
    """What sort of stage it is: `image_pretrain` …"""
    details: Details | None = None
    """Every score of its evaluation; none where an older version kept none."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Its resolved configuration."""
    trained_on: tuple[Source, ...] = ()
    more: Mapping[str, Measured] = field(default_factory=dict)
    """What the further protocols of its evaluation found, by name."""
    data_digests: Mapping[str, str] = field(default_factory=dict)
    """Digests of what earlier stages handed in, such as the synthetic world."""

    @property
    def miou(self) -> float | None:
        """Mean IoU after one click, 0 to 1."""
        return self.summary.image.miou.get(1) if self.summary.image else None

    @property
    def jf(self) -> float | None:
        """Video J&F, percent."""
        return self.summary.video.jf if self.summary.video else None


@dataclass(frozen=True, eq=False)
class Case:
    """A clip worth showing: a best, a worst, a typical one."""

    title: str
    caption: str
    picture: np.ndarray
    """A strip of its frames, uint8 [H, W, 3]."""
    clip: Path | None = None
    """MP4 or GIF."""


@dataclass(frozen=True)
class ReportData:
    """Everything the report shows."""

    run: str
    recipe: str
    stages: tuple[StageRow, ...]
    description: str = ""
    untrained: Summary | None = None
    """The network before its first step; the first stage's change is against it."""
    untrained_details: Details | None = None
    repeated: Summary | None = None
    """The baseline that repeats the first mask of each object."""
    cases: tuple[Case, ...] = ()
    film: Path | None = None
    """MP4 or GIF."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The resolved recipe."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Short facts for the head of the page: model, seed, machine, date."""
    measured_on: tuple[Source, ...] = ()


def stage_title(name: str) -> str:
    """`video_train` as a reader says it."""
    return name.replace("_", " ").replace(".", " ")


def rows_with_start(data: ReportData) -> list[StageRow]:
    """The trained stages, with the untrained network before them where it was measured."""
    if data.untrained is None:
        return list(data.stages)
    return [StageRow("untrained", data.untrained, details=data.untrained_details), *data.stages]

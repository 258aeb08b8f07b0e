"""Build the synthetic world a newcomer trains on, in the formats of the real data sets."""

from __future__ import annotations

from pathlib import Path

from data.world.contact import contact_sheet
from data.world.spec import WorldSpec
from data.world.world import make_world
from pipeline.config import parse
from pipeline.progress import ProgressWriter
from stages.contract import StageResult, StageSpec


def run(spec: StageSpec) -> StageResult:
    """Make the world of `spec.settings`, or find it made; the result's digest is the world's own."""
    world = parse(WorldSpec, dict(spec.settings["world"]), where="world")
    folder = Path(spec.settings["folder"])
    scenes = world.train_images + world.val_images + world.train_videos + world.val_videos
    progress = ProgressWriter(spec.folder, scenes, unit="scene")
    report = make_world(world, folder, progress=lambda done, total, kind: progress.update(done))
    sheet = contact_sheet(folder, Path(spec.folder) / "world.png")
    return StageResult(
        stage=spec.name,
        key=spec.key,
        digest=report.digest,
        metrics={name: float(count) for name, count in report.counts.items()},
        files={"world": str(folder), "contact sheet": str(sheet)},
    )

"""Which data a stage reads, by content: it enters the stage's key and stands in its MLflow run. Loads no torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.sources import open_listing
from data.spec import DatasetSpec
from pipeline.config import parse
from pipeline.remote import is_remote, shown
from pipeline.tracking import Run


def stage_datasets(settings: Mapping[str, Any]) -> dict[str, DatasetSpec]:
    """The data sets in the settings of a stage, by what the stage calls them."""
    if "dataset" in settings:  # frame extraction has one, and makes its frames
        found = {settings["dataset"]: {**settings["data"], "frames": None}}
    else:
        found = {**settings.get("data", {})}
        found |= {name: settings[name] for name in ("images", "videos") if settings.get(name)}
        found |= {f"more.{name}": values for name, values in settings.get("more", {}).items()}
    return {name: parse(DatasetSpec, values, where=name) for name, values in found.items()}


def data_digests(settings: Mapping[str, Any], made: Collection[Path]) -> dict[str, str]:
    """Digests of the data sets of a stage that were there before the run, as `data:<name>`.

    made: folders of the run; what lies in them has the digest of the stage that made it.
    Raises DataError when a data set cannot be listed.
    """

    def is_made(path: str) -> bool:
        return not is_remote(path) and any(Path(path).is_relative_to(f) for f in made)

    digests = {}
    for name, spec in stage_datasets(settings).items():
        if is_made(spec.root):
            continue
        if spec.frames is not None and is_made(spec.frames):
            spec = replace(spec, frames=None)
        digests[f"data:{name}"] = open_listing(spec).digest
    return digests


def record_data(run: Run, settings: Mapping[str, Any], prefix: str = "") -> None:
    """Write digest, size and place of each data set of a stage to its MLflow run, `prefix` before its name."""
    for name, spec in stage_datasets(settings).items():
        listing = open_listing(spec)
        run.log_dataset(
            prefix + name,
            listing.digest,
            shown(spec.root),
            {"format": spec.format, "items": len(listing)},
        )

"""Readers of data sets in the formats they are published in."""

from __future__ import annotations

import os
from dataclasses import replace

from data.manifest import Manifest, Scan, open_manifest
from data.sources.base import Dataset
from data.spec import DatasetSpec, Format
from pipeline.remote import is_remote
from pipeline.storage import local_path

__all__ = ["Dataset", "open_dataset", "open_listing"]


def open_dataset(spec: DatasetSpec, name: str | None = None) -> Dataset:
    """List what is at `spec.root`, or find it listed, and return its reader.

    name: how clips and messages call the data set; by default its format.
    Raises DataError that says what was expected where, when the folder or a part of it is missing.
    """
    spec = _placed(spec)
    scan, reader = _format(spec.format)
    return reader(name or spec.format, spec, open_manifest(spec, scan))


def open_listing(spec: DatasetSpec) -> Manifest:
    """The manifest of a data set alone: its names, counts and digest."""
    return open_manifest(_placed(spec), _format(spec.format)[0])


def _format(name: Format) -> tuple[Scan, type[Dataset]]:
    from data.sources import coco, davis, folder, sa1b, sav, sav_val

    formats: dict[Format, tuple[Scan, type[Dataset]]] = {
        "sa1b": (sa1b.scan, sa1b.Sa1b),
        "sav": (sav.scan, sav.SavVideos),
        "sav_val": (sav_val.scan, sav_val.SavValVideos),
        "davis": (davis.scan, davis.LabelMaps),
        "coco": (coco.scan, coco.CocoInstances),
        "folder": (folder.scan, davis.LabelMaps),
    }
    return formats[name]


def _placed(spec: DatasetSpec) -> DatasetSpec:
    """The spec with whole paths, so that a manifest does not depend on the current folder."""

    def whole(path: str) -> str:
        return path.rstrip("/") if is_remote(path) else os.path.abspath(local_path(path))

    return replace(spec, root=whole(spec.root), frames=spec.frames and whole(spec.frames))

"""Readers of data sets in the formats they are published in."""

from __future__ import annotations

from data.sources.base import Dataset
from data.spec import DatasetSpec

__all__ = ["Dataset", "open_dataset"]


def open_dataset(spec: DatasetSpec, name: str | None = None) -> Dataset:
    """List what is at `spec.root` and return its reader.

    name: how clips and messages call the data set; by default its format.
    Raises DataError that says what was expected where, when the folder or a part of it is missing.
    """
    from data.sources.coco import CocoInstances
    from data.sources.davis import DavisVideos
    from data.sources.folder import LabelledFolder
    from data.sources.sa1b import Sa1b
    from data.sources.sav import SavVideos
    from data.sources.sav_val import SavValVideos

    readers = {
        "sa1b": Sa1b.open,
        "sav": SavVideos.open,
        "sav_val": SavValVideos.open,
        "davis": DavisVideos.open,
        "coco": CocoInstances.open,
        "folder": LabelledFolder.open,
    }
    return readers[spec.format](spec, name or spec.format)

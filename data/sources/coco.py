"""COCO instances: one json for all pictures; masks as polygons or run lengths. Crowds are left
out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from data.sources.base import Dataset, choose_names, manifest_digest, need_folder
from data.spec import DatasetSpec
from pipeline import rle
from pipeline.cache import SHARED
from pipeline.errors import DataError
from pipeline.pictures import read_bytes, read_rgb

EXPECTED = "annotations/instances_<split>.json and the pictures in <split>/ or images/"


class CocoInstances(Dataset):
    """One item is one picture with at least one object; objects have the `id` of their annotation.

    The json is read once, when the data set is opened.
    """

    def __init__(
        self,
        name: str,
        spec: DatasetSpec,
        names: Sequence[str],
        digest: str,
        items: Sequence[tuple[Path, Mapping[int, Any]]],
        source: Path,
    ) -> None:
        super().__init__(name, spec, names, digest)
        self._items = items
        self._source = source

    @classmethod
    def open(cls, spec: DatasetSpec, name: str) -> CocoInstances:
        """Read the json of `spec.split`, or the only one there is."""
        root = need_folder(Path(spec.root), EXPECTED)
        source = _annotation_file(root, spec.split)
        files, objects = _parse(source)
        present = {Path(files[i]).stem: i for i in objects}
        names = choose_names(spec, present, root)
        folder = _picture_folder(root, source, files[present[names[0]]])
        items = [(folder / files[present[stem]], objects[present[stem]]) for stem in names]
        content = {
            stem: [
                source.stat().st_size,
                *objects[present[stem]],
            ]
            for stem in names
        }
        return cls(name, spec, names, manifest_digest(spec, content), items, source)

    @override
    def frame_numbers(self, index: int) -> Sequence[int]:
        return (0,)

    @override
    def visible(self, index: int, position: int) -> tuple[int, ...]:
        return tuple(self._items[index][1])

    @override
    def pictures(self, index: int, positions: Sequence[int]) -> list[np.ndarray]:
        path = self._items[index][0]
        picture = SHARED.get(("picture", str(path)), lambda: read_rgb(path), lambda p: p.nbytes)
        return [picture] * len(positions)

    @override
    def masks(
        self, index: int, position: int, objects: Sequence[int], size: tuple[int, int]
    ) -> np.ndarray:
        segments = self._items[index][1]
        masks = np.zeros((len(objects), *size), dtype=bool)
        for mask, i in zip(masks, objects, strict=True):
            if i not in segments:
                continue
            where = f"{self._source}, annotation {i}"
            if isinstance(segments[i], list):
                mask[:] = rle.decode_polygons(segments[i], size, where)
            else:
                mask[:] = rle.decode(segments[i], size, where)
        return masks

    @override
    def stream(self, index: int) -> Iterator[tuple[int, np.ndarray]]:
        yield 0, self.pictures(index, [0])[0]


def _annotation_file(root: Path, split: str | None) -> Path:
    folder = need_folder(root / "annotations", EXPECTED)
    if split is not None:
        path = folder / f"instances_{split}.json"
        if not path.is_file():
            raise DataError(f"{path} does not exist; expected {EXPECTED}")
        return path
    found = sorted(folder.glob("instances_*.json"))
    if len(found) != 1:
        names = ", ".join(path.stem.removeprefix("instances_") for path in found) or "none"
        raise DataError(
            f"{folder} holds {len(found)} instances_*.json ({names}); name one with `split`"
        )
    return found[0]


def _picture_folder(root: Path, source: Path, first: str) -> Path:
    split = source.stem.removeprefix("instances_")
    places = [root / split, root / "images" / split, root / "images", root]
    for place in places:
        if (place / first).is_file():
            return place
    raise DataError(
        f"{source} names {first}, which is in none of {', '.join(str(place) for place in places)}"
    )


def _parse(source: Path) -> tuple[dict[int, str], dict[int, dict[int, Any]]]:
    """File name of each picture, and the segmentations of its objects by id."""
    objects: dict[int, dict[int, Any]] = {}
    try:
        content = json.loads(read_bytes(source))
        files = {int(image["id"]): str(image["file_name"]) for image in content["images"]}
        for annotation in sorted(content["annotations"], key=lambda a: a["id"]):
            if annotation.get("iscrowd") or not annotation.get("area", 1):
                continue
            picture = objects.setdefault(int(annotation["image_id"]), {})
            picture[int(annotation["id"])] = annotation["segmentation"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{source} is not a COCO instances file ({type(error).__name__}: {error})"
        ) from error
    unknown = objects.keys() - files.keys()
    if unknown:
        raise DataError(f"{source}: annotations for picture {min(unknown)}, which is not listed")
    return files, objects

"""SA-V validation and test sets: frames at 24 a second, and a folder of binary PNGs per object at
6.

`JPEGImages_24fps/<video>/00000.jpg`, `Annotations_6fps/<video>/<object>/00000.png`, `sav_val.txt`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from typing_extensions import override

from data.labels import decode_labels
from data.manifest import Place
from data.manifest_writer import ManifestWriter
from data.names import choose_names
from data.sources.base import Dataset, numbered, require_size
from data.spec import DatasetSpec
from data.tree import Entry, Tree
from pipeline.cache import SHARED
from pipeline.errors import DataError
from pipeline.remote import shown

EXPECTED = "SA-V val or test: JPEGImages_24fps/, Annotations_6fps/ and a list such as sav_val.txt"


class SavValVideos(Dataset):
    """Objects have the numbers of their folders; a mask that is missing is an absent object."""

    @override
    def visible(self, index: int, position: int) -> tuple[int, ...]:
        self.check(index)
        found = []
        for part in self.manifest.parts(index, position):
            mask = _mask(part.place)
            area = int(mask.sum())
            if area and self.suits(area, mask.size):
                found.append(part.member)
        return tuple(found)

    @override
    def masks(
        self, index: int, position: int, objects: Sequence[int], size: tuple[int, int]
    ) -> np.ndarray:
        places = {part.member: part.place for part in self.manifest.parts(index, position)}
        masks = np.zeros((len(objects), *size), dtype=bool)
        for mask, i in zip(masks, objects, strict=True):
            if i in places:
                mask[:] = require_size(_mask(places[i]), size, places[i].path)
        return masks


def _mask(place: Place) -> np.ndarray:
    return SHARED.get(
        ("mask", place), lambda: decode_labels(place.read(), place.path) != 0, lambda m: m.nbytes
    )


def scan(spec: DatasetSpec, writer: ManifestWriter) -> None:
    """List the videos of `spec.split`, of the only `sav_*.txt`, or all of them."""
    tree, root = writer.tree, spec.root
    tree.need(root, EXPECTED)
    pictures = tree.need(f"{root}/JPEGImages_24fps", EXPECTED)
    annotations = tree.need(f"{root}/Annotations_6fps", EXPECTED)
    tree.deepen(pictures)
    tree.deepen(annotations)
    lists = [e for e in tree.files(root) if e.name.startswith("sav_") and e.name.endswith(".txt")]
    split = None
    if spec.split is None and len(lists) == 1:
        split = lists[0].name
        writer.watch(root, lists[0])
    for video in choose_names(spec, tree.folders(annotations), EXPECTED, split):
        try:
            _add(writer, video, f"{pictures}/{video}", f"{annotations}/{video}")
        except DataError as error:
            writer.add(video, [], [], error=str(error))


def _objects(tree: Tree, annotations: str) -> dict[int, str]:
    """The folder of every object of a video, by its number."""
    found: dict[int, str] = {}
    for name in tree.folders(annotations):
        if not name.isdecimal() or int(name) in found:
            what = "is no number" if not name.isdecimal() else f"is that of {found[int(name)]}, too"
            raise DataError(
                f"{shown(annotations)}/{name}: the name {what}, expected the number of an object, "
                "each once; rename the folder, or remove it"
            )
        found[int(name)] = f"{annotations}/{name}"
    return found


def _add(writer: ManifestWriter, video: str, pictures: str, annotations: str) -> None:
    tree = writer.tree
    frames = numbered(tree, tree.need(pictures, f"the frames of {video}"))
    masks: dict[tuple[int, int], tuple[str, Entry]] = {}
    for i, folder in _objects(tree, annotations).items():
        for number, entry in numbered(tree, folder, (".png",)).items():
            masks[number, i] = (folder, entry)
    annotated = sorted({number for number, _ in masks})
    if not annotated:
        raise DataError(
            f"{annotations} holds no masks; expected <object>/<frame>.png, as 000/00000.png"
        )
    missing = [number for number in annotated if number not in frames]
    if missing:
        raise DataError(
            f"{pictures} lacks frame {missing[0]}, expected as it has a mask in {annotations}; "
            "fetch the frame, or remove the mask"
        )
    position = {number: place for place, number in enumerate(annotated)}
    writer.add(
        video,
        [(number, writer.whole(pictures, frames[number])) for number in annotated],
        [(position[number], i, writer.whole(*masks[number, i])) for number, i in sorted(masks)],
    )

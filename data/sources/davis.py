"""DAVIS, MOSE, LVOS and YouTube-VOS: a folder of frames and a folder of label PNGs per video.

`JPEGImages/[480p/]<video>/00000.jpg`, `Annotations/[480p/]<video>/00000.png`: palette index =
object, or 0/255 grey for one object (DAVIS 2016). Frames without a PNG are not annotated
(YouTube-VOS: four of five). Where `meta.json` lies beside (YouTube-VOS), it says which numbers are
objects and on which frame each appears first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from typing_extensions import override

from data.labels import decode_labels, label_areas
from data.manifest_writer import ManifestWriter, Span
from data.names import choose_names
from data.sources.base import Dataset, numbered, require_size
from data.spec import DatasetSpec
from pipeline.cache import SHARED
from pipeline.errors import DataError
from pipeline.fetch import read_current

EXPECTED = "JPEGImages/<video>/*.jpg and Annotations/<video>/*.png (or both with 480p/ between)"
RESOLUTIONS = ("480p", "Full-Resolution")
META = "meta.json"
NO_FRAME = -1
"""In place of a frame's position: the part says from which frame number on an object exists."""


class LabelMaps(Dataset):
    """Objects have the numbers of the label pictures, one for each annotated frame."""

    @override
    def visible(self, index: int, position: int) -> tuple[int, ...]:
        labels, areas, _ = self._labels(index, position)
        first = {part.member: part.place.start for part in self.manifest.parts(index, NO_FRAME)}
        number = self.manifest.frame_numbers(index)[position] if first else 0
        return tuple(
            i
            for i, area in areas.items()
            if self.suits(area, labels.size) and (not first or first.get(i, number + 1) <= number)
        )

    @override
    def masks(
        self, index: int, position: int, objects: Sequence[int], size: tuple[int, int]
    ) -> np.ndarray:
        labels, _, where = self._labels(index, position)
        wanted = np.asarray(objects, dtype=np.int64)[:, None, None]
        return require_size(labels, size, where)[None] == wanted

    def _labels(self, index: int, position: int) -> tuple[np.ndarray, dict[int, int], str]:
        """The label map of one annotated frame, the pixels of each object in it, and its name."""
        self.check(index)
        (part,) = self.manifest.parts(index, position)

        def make() -> tuple[np.ndarray, dict[int, int], str]:
            labels = decode_labels(part.place.read(), part.place.path)
            return labels, label_areas(labels), part.place.path

        return SHARED.get(("labels", part.place), make, lambda found: found[0].nbytes + 200)


def scan(spec: DatasetSpec, writer: ManifestWriter) -> None:
    """List the videos that have annotations, those of `spec.split` where it is given."""
    tree, root = writer.tree, spec.root
    tree.need(root, EXPECTED)
    tree.need(f"{root}/JPEGImages", EXPECTED)
    annotations = tree.need(f"{root}/Annotations", EXPECTED)
    present = tree.folders(annotations)
    inner = next((f"/{part}" for part in RESOLUTIONS if part in present), "")
    pictures, labels = f"{root}/JPEGImages{inner}", annotations + inner
    tree.need(pictures, EXPECTED)
    tree.deepen(pictures)
    tree.deepen(labels)
    objects = _objects(spec, writer)
    for video in choose_names(spec, tree.folders(labels), EXPECTED):
        _add(writer, video, pictures, labels, objects.get(video, {}))


def _add(
    writer: ManifestWriter, video: str, pictures: str, labels: str, first: Mapping[int, int]
) -> None:
    """One video; what is wrong with it is told to whoever asks for it."""
    pictures, labels = f"{pictures}/{video}", f"{labels}/{video}"
    try:
        writer.tree.need(pictures, "the frames of a video that has masks")
        frames = numbered(writer.tree, pictures)
        masks = numbered(writer.tree, labels, (".png",))
        if not masks:
            raise DataError(f"{labels} holds no masks; expected 00000.png ...")
        for number, entry in masks.items():
            if number not in frames:
                raise DataError(
                    f"{pictures} lacks frame {number}, expected as it has a mask "
                    f"({labels}/{entry.name}); fetch the frame, or remove the mask"
                )
    except DataError as error:
        writer.add(video, [], [], error=str(error))
        return
    parts = [(NO_FRAME, i, Span(-1, number, 0)) for i, number in sorted(first.items())]
    parts += [
        (position, 0, writer.whole(labels, entry)) for position, entry in enumerate(masks.values())
    ]
    writer.add(video, [(n, writer.whole(pictures, frames[n])) for n in masks], parts)


def _objects(spec: DatasetSpec, writer: ManifestWriter) -> dict[str, dict[int, int]]:
    """The first frame number of every object of every video, from meta.json where there is one."""
    found = next((entry for entry in writer.tree.files(spec.root) if entry.name == META), None)
    if found is None:
        return {}
    path = f"{spec.root}/{META}"
    writer.watch(spec.root, found)
    content = read_current(path)
    writer.contents[META] = hashlib.sha256(content).hexdigest()
    try:
        videos: Mapping[str, Any] = json.loads(content)["videos"]
        return {
            video: {
                int(i): min(int(frame) for frame in about["frames"])
                for i, about in values["objects"].items()
            }
            for video, values in videos.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is not a list of videos ({type(error).__name__}: {error}); expected "
            '{"videos": {<video>: {"objects": {<number>: {"frames": ["00000", ...]}}}}}'
        ) from error

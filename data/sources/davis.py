"""DAVIS, MOSE, LVOS and YouTube-VOS: a folder of frames and a folder of label PNGs per video.

`JPEGImages/[480p/]<video>/00000.jpg`, `Annotations/[480p/]<video>/00000.png`: palette index =
object, or 0/255 grey for one object (DAVIS 2016). Frames without a PNG are not annotated
(YouTube-VOS: four of five).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from typing_extensions import override

from data.labels import label_ids, read_labels
from data.sources.base import Dataset, choose_names, manifest_digest, need_folder, numbered_files
from data.sources.sav_val import same_size
from data.spec import DatasetSpec
from pipeline.cache import SHARED
from pipeline.errors import DataError
from pipeline.pictures import read_rgb

EXPECTED = "JPEGImages/<video>/*.jpg and Annotations/<video>/*.png (or both with 480p/ between)"
RESOLUTIONS = ("480p", "Full-Resolution")


class _Listing(NamedTuple):
    """frames and label files by number, and the numbers that have both."""

    frames: dict[int, Path]
    labels: dict[int, Path]
    annotated: tuple[int, ...]


class DavisVideos(Dataset):
    """Objects have the numbers of the label pictures."""

    def __init__(
        self,
        name: str,
        spec: DatasetSpec,
        names: Sequence[str],
        digest: str,
        folders: tuple[Path, Path],
    ) -> None:
        super().__init__(name, spec, names, digest)
        self._folders = folders

    @classmethod
    def open(cls, spec: DatasetSpec, name: str) -> DavisVideos:
        """List the videos that have annotations, those of `spec.split` where it is given."""
        root = need_folder(Path(spec.root), EXPECTED)
        need_folder(root / "JPEGImages", EXPECTED)
        annotations = need_folder(root / "Annotations", EXPECTED)
        inner = next((part for part in RESOLUTIONS if (annotations / part).is_dir()), "")
        folders = (need_folder(root / "JPEGImages" / inner, EXPECTED), annotations / inner)
        present = [path.name for path in folders[1].iterdir() if path.is_dir()]
        names = choose_names(spec, present, root)
        counts = {video: sum(1 for _ in (folders[1] / video).iterdir()) for video in names}
        return cls(name, spec, names, manifest_digest(spec, counts), folders)

    @override
    def frame_numbers(self, index: int) -> Sequence[int]:
        return self._listing(index).annotated

    @override
    def visible(self, index: int, position: int) -> tuple[int, ...]:
        return self._labels(index, position)[1]

    @override
    def pictures(self, index: int, positions: Sequence[int]) -> list[np.ndarray]:
        listing = self._listing(index)
        files = [listing.frames[listing.annotated[position]] for position in positions]
        return [
            SHARED.get(("picture", str(path)), partial(read_rgb, path), lambda p: p.nbytes)
            for path in files
        ]

    @override
    def masks(
        self, index: int, position: int, objects: Sequence[int], size: tuple[int, int]
    ) -> np.ndarray:
        listing = self._listing(index)
        path = listing.labels[listing.annotated[position]]
        labels = same_size(self._labels(index, position)[0], size, path)
        wanted = np.asarray(objects, dtype=np.int64)[:, None, None]
        return labels[None] == wanted

    @override
    def stream(self, index: int) -> Iterator[tuple[int, np.ndarray]]:
        for number, path in self._listing(index).frames.items():
            yield number, read_rgb(path)

    @override
    def frame_name(self, index: int, number: int) -> str:
        return self._listing(index).frames[number].stem

    def _labels(self, index: int, position: int) -> tuple[np.ndarray, tuple[int, ...]]:
        """The label map of one annotated frame, and the objects in it."""
        listing = self._listing(index)
        path = listing.labels[listing.annotated[position]]

        def make() -> tuple[np.ndarray, tuple[int, ...]]:
            labels = read_labels(path)
            return labels, label_ids(labels)

        return SHARED.get(("labels", str(path)), make, lambda found: found[0].nbytes + 100)

    def _listing(self, index: int) -> _Listing:
        video = self.names[index]
        return SHARED.get(
            ("listing", str(self._folders[1]), video),
            lambda: _list(*(folder / video for folder in self._folders)),
            lambda listing: 200 * (len(listing.frames) + len(listing.labels)) + 500,
        )


def _list(frame_folder: Path, label_folder: Path) -> _Listing:
    frames = numbered_files(need_folder(frame_folder, "the frames of a video that has masks"))
    labels = numbered_files(label_folder, (".png",))
    if not labels:
        raise DataError(f"{label_folder} holds no masks; expected 00000.png ...")
    missing = [number for number in labels if number not in frames]
    if missing:
        raise DataError(f"{frame_folder} lacks frame {missing[0]}, which has a mask")
    return _Listing(frames, labels, tuple(labels))

"""SA-V validation and test sets: frames at 24 a second, and a folder of binary PNGs per object at
6.

`JPEGImages_24fps/<video>/00000.jpg`, `Annotations_6fps/<video>/<object>/00000.png`, `sav_val.txt`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from typing_extensions import override

from data.labels import read_labels
from data.sources.base import Dataset, choose_names, manifest_digest, need_folder, numbered_files
from data.spec import DatasetSpec
from pipeline.cache import SHARED
from pipeline.errors import DataError
from pipeline.pictures import read_rgb

EXPECTED = "SA-V val or test: JPEGImages_24fps/, Annotations_6fps/ and a list such as sav_val.txt"


class _Listing(NamedTuple):
    """frames by number; annotated frame numbers; mask files by object, then frame number."""

    frames: dict[int, Path]
    annotated: tuple[int, ...]
    objects: dict[int, dict[int, Path]]


class SavValVideos(Dataset):
    """Objects have the numbers of their folders; a mask that is missing is an absent object."""

    @classmethod
    def open(cls, spec: DatasetSpec, name: str) -> SavValVideos:
        """List the videos of `spec.split`, of the only `sav_*.txt`, or all of them."""
        root = need_folder(Path(spec.root), EXPECTED)
        need_folder(root / "JPEGImages_24fps", EXPECTED)
        annotations = need_folder(root / "Annotations_6fps", EXPECTED)
        lists = sorted(root.glob("sav_*.txt"))
        listed = spec if spec.split or len(lists) != 1 else replace(spec, split=lists[0].name)
        present = [path.name for path in annotations.iterdir() if path.is_dir()]
        names = choose_names(listed, present, root)
        counts = {
            video: [
                sum(1 for _ in path.iterdir()) for path in sorted((annotations / video).iterdir())
            ]
            for video in names
        }
        return cls(name, spec, names, manifest_digest(spec, counts))

    @override
    def frame_numbers(self, index: int) -> Sequence[int]:
        return self._listing(index).annotated

    @override
    def visible(self, index: int, position: int) -> tuple[int, ...]:
        listing = self._listing(index)
        number = listing.annotated[position]
        return tuple(
            i
            for i, files in listing.objects.items()
            if number in files and _mask(files[number]).any()
        )

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
        number = listing.annotated[position]
        masks = np.zeros((len(objects), *size), dtype=bool)
        for mask, i in zip(masks, objects, strict=True):
            path = listing.objects.get(i, {}).get(number)
            if path is not None:
                mask[:] = same_size(_mask(path), size, path)
        return masks

    @override
    def stream(self, index: int) -> Iterator[tuple[int, np.ndarray]]:
        for number, path in self._listing(index).frames.items():
            yield number, read_rgb(path)

    @override
    def frame_name(self, index: int, number: int) -> str:
        return self._listing(index).frames[number].stem

    def _listing(self, index: int) -> _Listing:
        root, video = Path(self.spec.root), self.names[index]
        return SHARED.get(
            ("listing", str(root), video),
            lambda: _list(root, video),
            lambda listing: (
                200 * (len(listing.frames) + sum(map(len, listing.objects.values()))) + 500
            ),
        )


def same_size(mask: np.ndarray, size: tuple[int, int], path: Path) -> np.ndarray:
    """`mask` when it has the size of its picture; else DataError."""
    if mask.shape != tuple(size):
        raise DataError(
            f"{path} is {mask.shape[0]}x{mask.shape[1]} (height x width), its picture "
            f"{size[0]}x{size[1]}; they belong to different copies of the data set"
        )
    return mask


def _mask(path: Path) -> np.ndarray:
    return SHARED.get(("mask", str(path)), lambda: read_labels(path) != 0, lambda m: m.nbytes)


def _list(root: Path, video: str) -> _Listing:
    frames = numbered_files(
        need_folder(root / "JPEGImages_24fps" / video, f"the frames of {video}")
    )
    objects = {
        int(folder.name): numbered_files(folder, (".png",))
        for folder in sorted((root / "Annotations_6fps" / video).iterdir())
        if folder.is_dir() and folder.name.isdecimal()
    }
    annotated = tuple(sorted({number for files in objects.values() for number in files}))
    if not annotated:
        raise DataError(
            f"{root / 'Annotations_6fps' / video} holds no masks; expected "
            "<object>/<frame>.png, as 000/00000.png"
        )
    missing = [number for number in annotated if number not in frames]
    if missing:
        raise DataError(
            f"{root / 'JPEGImages_24fps' / video} lacks frame {missing[0]}, which has a mask"
        )
    return _Listing(frames, annotated, objects)

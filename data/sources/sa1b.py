"""SA-1B: pictures with many masks, as folders of jpg and json or as the tar shards of the release.

Tars are not unpacked: the headers are read once, then each member from its place in the file.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from typing_extensions import override

from data.sources.base import Dataset, choose_names, manifest_digest, need_folder
from data.spec import DatasetSpec
from pipeline import rle
from pipeline.cache import SHARED
from pipeline.errors import DataError
from pipeline.pictures import decode_rgb, read_bytes

EXPECTED = "a folder of sa_N.jpg with sa_N.json beside, or of sa_NNNNNN.tar shards holding them"


class _Place(NamedTuple):
    """Where the bytes of a file are: the whole of `path`, or a part of the tar at `path`."""

    path: str
    offset: int
    size: int
    in_tar: bool


class Sa1b(Dataset):
    """One item is one picture; its objects are the annotations of non-zero area, by their `id`."""

    def __init__(
        self,
        name: str,
        spec: DatasetSpec,
        names: Sequence[str],
        digest: str,
        places: Sequence[tuple[_Place, _Place]],
    ) -> None:
        super().__init__(name, spec, names, digest)
        self._places = places

    @classmethod
    def open(cls, spec: DatasetSpec, name: str) -> Sa1b:
        """List pictures below `spec.root`, one level deep, and inside its tars."""
        root = need_folder(Path(spec.root), EXPECTED)
        places: dict[str, dict[str, _Place]] = {}
        for folder in [root, *sorted(path for path in root.iterdir() if path.is_dir())]:
            for file, place in _files(folder):
                stem, suffix = os.path.splitext(file)
                kind = ".jpg" if suffix.lower() in (".jpg", ".jpeg") else suffix.lower()
                if kind in (".jpg", ".json"):
                    places.setdefault(stem, {})[kind] = place
        complete = {stem for stem, found in places.items() if len(found) == 2}
        if not complete:
            raise DataError(f"{root} holds no pair of jpg and json; expected {EXPECTED}")
        _all_paired(root, places)
        names = choose_names(spec, complete, root)
        pairs = [(places[stem][".jpg"], places[stem][".json"]) for stem in names]
        sizes = {
            stem: (jpg.size, text.size) for stem, (jpg, text) in zip(names, pairs, strict=True)
        }
        return cls(name, spec, names, manifest_digest(spec, sizes), pairs)

    @override
    def frame_numbers(self, index: int) -> Sequence[int]:
        return (0,)

    @override
    def visible(self, index: int, position: int) -> tuple[int, ...]:
        return tuple(self._annotations(index))

    @override
    def pictures(self, index: int, positions: Sequence[int]) -> list[np.ndarray]:
        place = self._places[index][0]
        where = f"{place.path}:{self.names[index]}.jpg" if place.in_tar else place.path
        picture = SHARED.get(
            ("picture", place), lambda: decode_rgb(_read(place, where), where), lambda p: p.nbytes
        )
        return [picture] * len(positions)

    @override
    def masks(
        self, index: int, position: int, objects: Sequence[int], size: tuple[int, int]
    ) -> np.ndarray:
        annotations = self._annotations(index)
        where = f"{self.name}/{self.names[index]}.json"
        masks = np.zeros((len(objects), *size), dtype=bool)
        for mask, i in zip(masks, objects, strict=True):
            if i in annotations:
                mask[:] = rle.decode(annotations[i], size, f"{where}, annotation {i}")
        return masks

    @override
    def stream(self, index: int) -> Iterator[tuple[int, np.ndarray]]:
        yield 0, self.pictures(index, [0])[0]

    def _annotations(self, index: int) -> Mapping[int, Any]:
        """Run-length masks by object id."""
        place = self._places[index][1]
        return SHARED.get(("json", place), lambda: self._parse(index), lambda _: 2 * place.size)

    def _parse(self, index: int) -> Mapping[int, Any]:
        place = self._places[index][1]
        where = f"{place.path}:{self.names[index]}.json" if place.in_tar else place.path
        try:
            annotations = json.loads(_read(place, where))["annotations"]
            kept = [a for a in annotations if a["area"] > 0]
            return {int(a["id"]): a["segmentation"] for a in sorted(kept, key=lambda a: a["id"])}
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{where} is not an SA-1B annotation ({type(error).__name__}: {error}); "
                "expected {image, annotations: [{id, area, segmentation}]}"
            ) from error


def _files(folder: Path) -> Iterator[tuple[str, _Place]]:
    """(file name, place) of every file in `folder` and in its tars."""
    with os.scandir(folder) as entries:
        found = sorted((entry for entry in entries if entry.is_file()), key=lambda e: e.name)
    for entry in found:
        if entry.name.endswith(".tar"):
            yield from _members(entry.path)
        else:
            yield entry.name, _Place(entry.path, 0, entry.stat().st_size, in_tar=False)


def _members(path: str) -> Iterator[tuple[str, _Place]]:
    """(file name, place) of every file in a tar; only headers are read."""
    try:
        with tarfile.open(path, "r:") as tar:
            total = os.path.getsize(path)
            for member in tar:
                if not member.isfile():
                    continue
                if member.offset_data + member.size > total:
                    raise DataError(f"{path} is cut off inside {member.name}; fetch it again")
                base = member.name.rsplit("/", 1)[-1]
                yield base, _Place(path, member.offset_data, member.size, in_tar=True)
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{path} is not a whole tar file ({error}); fetch it again") from error


def _read(place: _Place, where: str) -> bytes:
    if not place.in_tar:
        return read_bytes(place.path)
    try:
        with open(place.path, "rb", buffering=0) as file:
            content = os.pread(file.fileno(), place.size, place.offset)
    except OSError as error:
        raise DataError(f"{where} cannot be read ({error.strerror})") from error
    if len(content) != place.size:
        raise DataError(f"{where}: the tar is cut off; fetch it again")
    return content


def _all_paired(root: Path, places: Mapping[str, Mapping[str, _Place]]) -> None:
    """Raise DataError for a picture without annotations, or the reverse: half a copy."""
    for stem, found in places.items():
        if len(found) == 1 and stem.startswith("sa_"):
            missing = ".json" if ".jpg" in found else ".jpg"
            raise DataError(f"{root} has {stem} without its {missing}; the copy is incomplete")

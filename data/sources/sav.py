"""SA-V training set: an mp4 per video with its masklets in `_manual.json` and `_auto.json` beside
it.

`masklet[annotated frame][object]` is a run-length mask, null or all-zero where the object is
absent; manual masklets may overlap. The frames come from the mp4, or from a folder of extracted
ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from typing_extensions import override

from data.sources.base import Dataset, choose_names, manifest_digest, need_folder, numbered_files
from data.spec import DatasetSpec
from pipeline import rle
from pipeline.cache import SHARED
from pipeline.errors import DataError
from pipeline.pictures import read_bytes, read_rgb
from pipeline.video import iterate_frames, read_frames

EXPECTED = "folders or files of SA-V: sav_0NNNNN.mp4 with sav_0NNNNN_manual.json (or _auto.json)"


class _Masklets(NamedTuple):
    """masks[annotated frame][object]; ids of the objects in that order."""

    masks: list[list[dict[str, Any] | None]]
    where: str


def list_videos(spec: DatasetSpec) -> list[Path]:
    """The mp4 of every video the spec keeps, to extract frames from. Raises DataError where one is
    missing."""
    dataset = SavVideos.open(replace(spec, frames=None), spec.format)
    videos = [dataset.video(index) for index in range(len(dataset))]
    for path in videos:
        if not path.is_file():
            raise DataError(f"{path} does not exist; expected the video beside its annotations")
    return videos


class SavVideos(Dataset):
    """Masklets are numbered as in their file; with `annotations: both` the automatic ones follow
    the manual."""

    def __init__(
        self,
        name: str,
        spec: DatasetSpec,
        names: Sequence[str],
        digest: str,
        files: Sequence[tuple[Path, ...]],
    ) -> None:
        super().__init__(name, spec, names, digest)
        self._files = files

    @classmethod
    def open(cls, spec: DatasetSpec, name: str) -> SavVideos:
        """Find the annotation files below `spec.root`, at most one folder deep, and what they
        belong to."""
        root = need_folder(Path(spec.root), EXPECTED)
        found: dict[str, list[Path]] = {}
        kinds = ("manual", "auto") if spec.annotations == "both" else (spec.annotations,)
        for kind in kinds:
            ending = f"_{kind}.json"
            for path in sorted([*root.glob(f"*{ending}"), *root.glob(f"*/*{ending}")]):
                found.setdefault(path.name.removesuffix(ending), []).append(path)
        if not found:
            raise DataError(f"{root} holds no *_{kinds[0]}.json; expected {EXPECTED}")
        names = choose_names(spec, found, root)
        files = [tuple(found[video]) for video in names]
        if spec.frames is not None:
            need_folder(Path(spec.frames), "a folder of extracted frames per video (`frames`)")
        sizes = {
            video: [path.stat().st_size for path in paths]
            for video, paths in zip(names, files, strict=True)
        }
        return cls(name, spec, names, manifest_digest(spec, sizes), files)

    @override
    def frame_numbers(self, index: int) -> Sequence[int]:
        count = len(self._masklets(index)[0].masks)
        return range(0, count * self.spec.annotated_every, self.spec.annotated_every)

    @override
    def visible(self, index: int, position: int) -> tuple[int, ...]:
        return tuple(
            number
            for number, (mask, where) in enumerate(self._row(index, position))
            if mask is not None and rle.area(mask, where)
        )

    @override
    def pictures(self, index: int, positions: Sequence[int]) -> list[np.ndarray]:
        numbers = [position * self.spec.annotated_every for position in positions]
        if self.spec.frames is None:
            return read_frames(self.video(index), numbers, every=self.spec.annotated_every)
        files = self._extracted(index)
        missing = [number for number in numbers if number not in files]
        if missing:
            raise DataError(
                f"{Path(self.spec.frames) / self.names[index]} lacks frame {missing[0]}; "
                f"expected every {self.spec.annotated_every}th frame: run extract_frames again"
            )
        return [_picture(files[number]) for number in numbers]

    @override
    def masks(
        self, index: int, position: int, objects: Sequence[int], size: tuple[int, int]
    ) -> np.ndarray:
        row = self._row(index, position)
        masks = np.zeros((len(objects), *size), dtype=bool)
        for mask, number in zip(masks, objects, strict=True):
            if number < len(row) and row[number][0] is not None:
                mask[:] = rle.decode(row[number][0], size, row[number][1])
        return masks

    @override
    def stream(self, index: int) -> Iterator[tuple[int, np.ndarray]]:
        if self.spec.frames is None:
            yield from enumerate(iterate_frames(self.video(index)))
            return
        for number, path in self._extracted(index).items():
            yield number, read_rgb(path)

    def _row(self, index: int, position: int) -> list[tuple[dict[str, Any] | None, str]]:
        """Mask and place of every object on one annotated frame."""
        return [
            (mask, f"{part.where}, masklet[{position}][{number}]")
            for part in self._masklets(index)
            for number, mask in enumerate(part.masks[position])
        ]

    def _masklets(self, index: int) -> tuple[_Masklets, ...]:
        paths = self._files[index]
        return SHARED.get(
            ("masklets", paths),
            lambda: _parse(paths),
            lambda _: 2 * sum(path.stat().st_size for path in paths),
        )

    def video(self, index: int) -> Path:
        """The mp4 beside the annotations."""
        return self._files[index][0].with_name(f"{self.names[index]}.mp4")

    def _extracted(self, index: int) -> dict[int, Path]:
        folder = Path(self.spec.frames or "") / self.names[index]
        need_folder(folder, "the extracted frames 00000.jpg ...: run extract_frames first")
        return SHARED.get(
            ("listing", str(folder)), lambda: numbered_files(folder), lambda files: 200 * len(files)
        )


def _picture(path: Path) -> np.ndarray:
    return SHARED.get(("picture", str(path)), lambda: read_rgb(path), lambda p: p.nbytes)


def _parse(paths: Sequence[Path]) -> tuple[_Masklets, ...]:
    """The masklets of each file, cut to the frames all of them have."""
    parts = [_Masklets(_parse_file(path), str(path)) for path in paths]
    frames = {len(part.masks) for part in parts}
    if len(frames) > 1:
        raise DataError(
            f"{paths[0]} has {len(parts[0].masks)} annotated frames, {paths[1]} "
            f"{len(parts[1].masks)}; they belong to different videos"
        )
    return tuple(parts)


def _parse_file(path: Path) -> list[list[dict[str, Any] | None]]:
    try:
        content = json.loads(read_bytes(path))
        masklet = content["masklet"]
        widths = {len(row) for row in masklet}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is not an SA-V annotation ({type(error).__name__}: {error}); expected "
            "{masklet: [annotated frame][object] run-length masks}"
        ) from error
    if len(widths) != 1:
        raise DataError(
            f"{path}: `masklet` has rows of {sorted(widths) or 'no'} objects; expected one length"
        )
    return masklet

"""SA-V training set: an mp4 per video with its masklets in `_manual.json` and `_auto.json` beside
it.

`masklet[annotated frame][object]` is a run-length mask, null or all-zero where the object is
absent; manual masklets may overlap. The frames come from the mp4, or from a folder of extracted
ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from typing_extensions import override

from data.manifest import Place
from data.manifest_writer import ManifestWriter, Span
from data.masklets import Masklets, read_masklets, read_row
from data.names import choose_names
from data.sources.base import Dataset, numbered
from data.spec import DatasetSpec
from data.tree import Entry
from pipeline import rle
from pipeline.cache import SHARED
from pipeline.errors import DataError
from pipeline.fetch import local_copy
from pipeline.remote import is_remote, shown
from pipeline.video import iterate_frames, read_frames

EXPECTED = "folders or files of SA-V: sav_0NNNNN.mp4 with sav_0NNNNN_manual.json (or _auto.json)"


class _Source(NamedTuple):
    """One annotation file of a video, and the number its first object has."""

    place: Place
    masklets: Masklets
    first: int


class SavVideos(Dataset):
    """Masklets are numbered as in their file; with `annotations: both` the automatic ones follow
    the manual."""

    @override
    def frame_numbers(self, index: int) -> range:
        source = self._sources(index)[0]
        masklets, step = source.masklets, self.spec.annotated_every or source.masklets.step
        if not step:
            raise DataError(
                f"{source.place.path}: fps and video_frame_count fit no step between its "
                f"{len(masklets.rows)} annotated frames (`masklet`); give `annotated_every`"
            )
        return range(0, len(masklets.rows) * step, step)

    @override
    def visible(self, index: int, position: int) -> tuple[int, ...]:
        found: list[int] = []
        for source in self._sources(index):
            for number, area in enumerate(source.masklets.areas[position].tolist()):
                pixels = source.masklets.pixels
                if area and self.suits(area, pixels) and self._steady(source, position, number):
                    found.append(source.first + number)
        return tuple(found)

    @override
    def masks(
        self, index: int, position: int, objects: Sequence[int], size: tuple[int, int]
    ) -> np.ndarray:
        masks = np.zeros((len(objects), *size), dtype=bool)
        for source in self._sources(index):
            wanted = {i - source.first: mask for i, mask in zip(objects, masks, strict=True)}
            count = source.masklets.areas.shape[1]
            if any(0 <= number < count for number in wanted):
                for number, given in enumerate(_row(source, position)):
                    if number in wanted and given is not None:
                        where = f"{source.place.path}, masklet[{position}][{number}]"
                        rle.decode(given, size, where, out=wanted[number])
        return masks

    @override
    def pictures(self, index: int, positions: Sequence[int]) -> list[np.ndarray]:
        every = self.frame_numbers(index)
        numbers = [every[position] for position in positions]
        if self.spec.frames is None:
            return read_frames(self.video(index), numbers, every=every.step)
        found = self._extracted(index)
        missing = [number for number in numbers if number not in found]
        if missing:
            raise DataError(
                f"{shown(self.spec.frames)}/{self.names[index]} lacks frame {missing[0]}; "
                f"expected every {every.step}th frame: run extract_frames again"
            )
        return [self.picture(index, found[number]) for number in numbers]

    @override
    def stream(self, index: int) -> Iterator[tuple[int, np.ndarray]]:
        if self.spec.frames is None:
            yield from enumerate(iterate_frames(self.video(index)))
            return
        self._extracted(index)
        yield from super().stream(index)

    @override
    def frame_name(self, index: int, number: int) -> str:
        if self.spec.frames is None:
            return f"{number:05d}"
        return super().frame_name(index, number)

    def video(self, index: int) -> Path:
        """The mp4 beside the annotations, or the copy of it on this machine."""
        place = self.manifest.picture(index, 0)
        return local_copy(place.path, place.version)

    def _extracted(self, index: int) -> dict[int, Place]:
        """The extracted frames of a video, by number."""
        numbers = self.manifest.frame_numbers(index)
        if not numbers:
            raise DataError(
                f"{shown(self.spec.frames or '')}/{self.names[index]} holds no frames; expected the "
                "extracted frames 00000.jpg ...: run extract_frames first"
            )
        return {n: self.manifest.picture(index, row) for row, n in enumerate(numbers)}

    def _sources(self, index: int) -> list[_Source]:
        """The annotation files of a video; they have the same frames."""
        self.check(index)
        found: list[_Source] = []
        for part in self.manifest.parts(index):
            place = part.place
            masklets = SHARED.get(
                ("masklets", place), partial(read_masklets, place), lambda m: 2 * m.areas.nbytes
            )
            if found and len(masklets.rows) != len(found[0].masklets.rows):
                raise DataError(
                    f"{found[0].place.path} has {len(found[0].masklets.rows)} annotated frames, "
                    f"{place.path} {len(masklets.rows)}; they belong to different videos"
                )
            first = sum(source.masklets.areas.shape[1] for source in found)
            found.append(_Source(place, masklets, first))
        return found

    def _steady(self, source: _Source, position: int, number: int) -> bool:
        """Whether a mask passes the stability filter; manual ones have no score and do."""
        least, scores = self.spec.min_stability_score, source.masklets.scores
        if not least:
            return True
        if not len(scores):
            raise DataError(
                f"{source.place.path}: no masklet_stability_score of [frame][object] numbers; leave "
                "min_stability_score out for files without it"
            )
        return not scores[position, number] < least


def _row(source: _Source, position: int) -> list[Any]:
    return SHARED.get(
        ("row", source.place, position),
        lambda: read_row(source.place, source.masklets, position),
        lambda _: 2 * int(np.diff(source.masklets.rows[position])[0]),
    )


def scan(spec: DatasetSpec, writer: ManifestWriter) -> None:
    """Find the annotation files below `spec.root`, at most one folder deep, and what they belong
    to."""
    tree, root = writer.tree, spec.root
    tree.need(root, EXPECTED)
    tree.deepen(root)
    kinds = ("manual", "auto") if spec.annotations == "both" else (spec.annotations,)
    found: dict[str, dict[str, tuple[str, Entry]]] = {}
    errors: dict[str, str] = {}
    videos: dict[str, Entry] = {}
    for folder in [root, *(f"{root}/{name}" for name in tree.folders(root))]:
        files = tree.named(folder)
        videos |= {
            f"{folder}/{name}": entry for name, entry in files.items() if name.endswith("mp4")
        }
        for kind in kinds:
            ending = f"_{kind}.json"
            for name, entry in files.items():
                if not name.endswith(ending):
                    continue
                video = name.removesuffix(ending)
                first, _ = found.setdefault(video, {}).setdefault(kind, (folder, entry))
                if first != folder:
                    errors[video] = (
                        f"{shown(folder)}/{name} is also in {shown(first)}, expected one file for "
                        "each video; rename or remove one of them"
                    )
    if not found:
        raise DataError(f"{shown(root)} holds no *_{kinds[0]}.json; expected {EXPECTED}")
    if spec.frames is not None:
        tree.need(spec.frames, "a folder of extracted frames per video (`frames`)")
        tree.deepen(spec.frames)
    for video in choose_names(spec, found, EXPECTED):
        chosen = [found[video][kind] for kind in kinds if kind in found[video]]
        parts = [(0, 0, writer.whole(*file)) for file in chosen]
        try:
            frames = _frames(spec, writer, video, chosen[0][0], videos)
            writer.add(video, frames, parts, errors.get(video, ""))
        except DataError as error:
            writer.add(video, [], parts, error=str(error))


def _frames(
    spec: DatasetSpec, writer: ManifestWriter, video: str, folder: str, videos: dict[str, Entry]
) -> list[tuple[int, Span]]:
    """The mp4 beside the annotations (also where it is missing: reading will say so), or the
    extracted frames there are."""
    if spec.frames is None:
        missing = Entry(f"{video}.mp4", 0, 0)
        return [(0, writer.whole(folder, videos.get(f"{folder}/{video}.mp4", missing)))]
    place = f"{spec.frames}/{video}"
    if not writer.tree.has(place):
        return []
    return [(n, writer.whole(place, e)) for n, e in numbered(writer.tree, place).items()]


def list_videos(spec: DatasetSpec) -> list[Path]:
    """The mp4 of every video the spec keeps, to extract frames from. Raises DataError where one is
    missing, or where they are not on this machine."""
    if is_remote(spec.root):
        raise DataError(
            f"{shown(spec.root)}: frames are extracted from local videos; copy them, or leave out "
            "`frames` and extract_frames: clips are then read from the mp4 through the cache"
        )
    from data.sources import open_dataset

    videos = open_dataset(replace(spec, frames=None))
    assert isinstance(videos, SavVideos)
    paths = [videos.video(index) for index in range(len(videos))]
    for path in paths:
        if not path.is_file():
            raise DataError(
                f"{path} does not exist, expected the video beside its annotations; fetch it"
            )
    return paths

"""Somebody's own pictures: `images/NAME.jpg` with label maps `masks/NAME.png` (palette index =
object, or 0/255)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from typing_extensions import override

from data.labels import label_ids, read_labels
from data.sources.base import Dataset, choose_names, manifest_digest, need_folder
from data.sources.sav_val import same_size
from data.spec import DatasetSpec
from pipeline.cache import SHARED
from pipeline.pictures import PICTURE_SUFFIXES, read_rgb

EXPECTED = "images/NAME.jpg (or .png) and masks/NAME.png"


class LabelledFolder(Dataset):
    """One item is one picture that has a mask file."""

    def __init__(
        self,
        name: str,
        spec: DatasetSpec,
        names: Sequence[str],
        digest: str,
        files: Sequence[tuple[Path, Path]],
    ) -> None:
        super().__init__(name, spec, names, digest)
        self._files = files

    @classmethod
    def open(cls, spec: DatasetSpec, name: str) -> LabelledFolder:
        """List the pictures that have a mask."""
        root = need_folder(Path(spec.root), EXPECTED)
        pictures = {
            path.stem: path
            for path in sorted(need_folder(root / "images", EXPECTED).iterdir())
            if path.suffix.lower() in PICTURE_SUFFIXES
        }
        labels = {
            path.stem: path
            for path in sorted(need_folder(root / "masks", EXPECTED).iterdir())
            if path.suffix.lower() == ".png"
        }
        names = choose_names(spec, pictures.keys() & labels.keys(), root)
        files = [(pictures[stem], labels[stem]) for stem in names]
        sizes = {
            stem: [path.stat().st_size for path in pair]
            for stem, pair in zip(names, files, strict=True)
        }
        return cls(name, spec, names, manifest_digest(spec, sizes), files)

    @override
    def frame_numbers(self, index: int) -> Sequence[int]:
        return (0,)

    @override
    def visible(self, index: int, position: int) -> tuple[int, ...]:
        return label_ids(self._labels(index))

    @override
    def pictures(self, index: int, positions: Sequence[int]) -> list[np.ndarray]:
        path = self._files[index][0]
        picture = SHARED.get(("picture", str(path)), lambda: read_rgb(path), lambda p: p.nbytes)
        return [picture] * len(positions)

    @override
    def masks(
        self, index: int, position: int, objects: Sequence[int], size: tuple[int, int]
    ) -> np.ndarray:
        labels = same_size(self._labels(index), size, self._files[index][1])
        return labels[None] == np.asarray(objects, dtype=np.int64)[:, None, None]

    @override
    def stream(self, index: int) -> Iterator[tuple[int, np.ndarray]]:
        yield 0, self.pictures(index, [0])[0]

    def _labels(self, index: int) -> np.ndarray:
        path = self._files[index][1]
        return SHARED.get(("labels", str(path)), lambda: read_labels(path), lambda m: m.nbytes)

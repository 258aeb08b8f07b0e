"""What every data set can do, and the helpers its readers share.

A reader knows its format and nothing else: which frames have annotations, which objects are
visible on one, and how to read a picture and chosen masks. `load` puts these together into a Clip.

Positions count the annotated frames of a video (0, 1, 2, ...); frame numbers are those of its
files.
"""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from data.spec import DatasetSpec, Kind
from data.types import Clip
from pipeline.errors import DataError
from pipeline.pictures import PICTURE_SUFFIXES


class Dataset(ABC):
    """Annotated pictures or videos, read in place.

    Opening lists what is there; pixels and masks are read when asked for. Instances hold no open
    files and may be sent to other processes.
    """

    def __init__(self, name: str, spec: DatasetSpec, names: Sequence[str], digest: str) -> None:
        self.name = name
        self.spec = spec
        self.names = tuple(names)
        self.digest = digest
        """sha256 over the names and sizes of what belongs to the data set; not over its bytes."""

    @property
    def kind(self) -> Kind:
        """Whether this holds pictures or videos."""
        return self.spec.kind

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def frame_numbers(self, index: int) -> Sequence[int]:
        """The numbers of the annotated frames of a video, ascending; [0] for a picture."""

    @abstractmethod
    def visible(self, index: int, position: int) -> tuple[int, ...]:
        """The objects that can be seen on one annotated frame, ascending."""

    @abstractmethod
    def pictures(self, index: int, positions: Sequence[int]) -> list[np.ndarray]:
        """Annotated frames as uint8 [H, W, 3], RGB; not to be written to."""

    @abstractmethod
    def masks(
        self, index: int, position: int, objects: Sequence[int], size: tuple[int, int]
    ) -> np.ndarray:
        """Bool [O, H, W] masks of `objects` on one annotated frame of `size` (H, W); all False
        where one is absent. Raises DataError when the annotation has another size."""

    @abstractmethod
    def stream(self, index: int) -> Iterator[tuple[int, np.ndarray]]:
        """Every frame, annotated or not, in order: its number and uint8 [H, W, 3]; one in
        memory."""

    def frame_name(self, index: int, number: int) -> str:
        """What the files of a frame are called, without their ending."""
        return f"{number:05d}"

    def frame_count(self, index: int) -> int:
        """How many annotated frames a video has; 1 for a picture."""
        return len(self.frame_numbers(index))

    def load(
        self,
        index: int,
        frames: Sequence[int] | None = None,
        objects: Sequence[int] | None = None,
    ) -> Clip:
        """Annotated frames of one video, or one picture, at their own size.

        frames: positions among the annotated frames, in the order wanted; None means all.
        objects: ids; None means those visible on at least one of these frames.
        Raises DataError naming the file that is missing or broken.
        """
        numbers = self.frame_numbers(index)
        positions = range(len(numbers)) if frames is None else list(frames)
        if not positions or min(positions) < 0 or max(positions) >= len(numbers):
            raise DataError(
                f"{self.name}/{self.names[index]}: frames {list(positions)} were asked for; "
                f"it has {len(numbers)} annotated ones"
            )
        if objects is None:
            objects = sorted({i for position in positions for i in self.visible(index, position)})
        pictures = self.pictures(index, positions)
        size = pictures[0].shape[:2]
        if any(picture.shape[:2] != size for picture in pictures):
            raise DataError(f"{self.name}/{self.names[index]}: its frames differ in size")
        masks = np.empty((len(positions), len(objects), *size), dtype=bool)
        for t, position in enumerate(positions):
            masks[t] = self.masks(index, position, objects, size)
        return Clip(
            name=self.names[index],
            dataset=self.name,
            frames=np.stack(pictures),
            masks=masks,
            object_ids=tuple(objects),
            frame_numbers=tuple(int(numbers[position]) for position in positions),
        )


def need_folder(path: Path, what: str) -> Path:
    """`path` when it is a folder; else a DataError that says what was expected there."""
    if not path.is_dir():
        found = "is a file" if path.exists() else "does not exist"
        raise DataError(f"{path} {found}; expected {what}")
    return path


def numbered_files(folder: Path, suffixes: Sequence[str] = PICTURE_SUFFIXES) -> dict[int, Path]:
    """Files of `folder` whose names are numbers of any width, by number, ascending."""
    found: dict[int, Path] = {}
    for path in folder.iterdir():
        if path.stem.isdecimal() and path.suffix.lower() in suffixes:
            if int(path.stem) in found:
                raise DataError(f"{path} and {found[int(path.stem)]} are the same frame")
            found[int(path.stem)] = path
    return dict(sorted(found.items()))


def natural(name: str) -> tuple[object, ...]:
    """Sort key that puts sa_2 before sa_10."""
    return tuple(
        (0, int(part), part) if part.isdecimal() else (1, 0, part)
        for part in re.split(r"(\d+)", name)
    )


def choose_names(spec: DatasetSpec, available: Iterable[str], where: Path) -> list[str]:
    """The names the spec keeps, in natural order.

    Raises DataError for names of the spec or its list file that are not there, or when nothing is
    left.
    """
    present = set(available)
    wanted = present
    if spec.split is not None and spec.format != "coco":
        wanted = _listed(spec, where)
        _all_present(wanted, present, where, f"the list {spec.split}")
    if spec.names:
        _all_present(set(spec.names), wanted, where, "`names`")
        wanted = set(spec.names)
    if spec.fraction < 1:
        wanted = {name for name in wanted if _share_of(name) < spec.fraction}
    if not wanted:
        raise DataError(
            f"{where} has nothing to read as {spec.format}"
            + (f" (of {len(present)} found, the spec keeps none)" if present else "")
        )
    return sorted(wanted, key=natural)


def manifest_digest(spec: DatasetSpec, entries: Mapping[str, object]) -> str:
    """sha256 of the format and, for each name, whatever identifies its files (sizes, counts)."""
    digest = hashlib.sha256(f"{spec.format} {spec.annotations} {spec.annotated_every}".encode())
    for name in sorted(entries):
        digest.update(f"\n{name} {entries[name]}".encode())
    return digest.hexdigest()


def _listed(spec: DatasetSpec, root: Path) -> set[str]:
    path = Path(spec.split or "")
    path = path if path.is_absolute() else root / path
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read; expected a text file with one name per line (`split`)"
        ) from error
    return {line.strip() for line in lines if line.strip()}


def _all_present(wanted: set[str], present: set[str], where: Path, origin: str) -> None:
    missing = sorted(wanted - present, key=natural)
    if missing:
        raise DataError(
            f"{where}: {origin} names {len(missing)} that are not there, first {missing[0]!r}; "
            f"{len(present)} were found"
        )


def _share_of(name: str) -> float:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64

"""What every data set can do, and what its readers share.

A reader knows its format and nothing else: how to list its items into a manifest, which objects
are visible on a frame, and how to read chosen masks. `load` puts pictures and masks together into
a Clip.

Positions count the annotated frames of a video (0, 1, 2, ...); frame numbers are those of its
files.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from data.manifest import Manifest, Place
from data.manifest_writer import WHOLE
from data.spec import DatasetSpec, Kind
from data.tree import Entry, Tree
from data.types import Clip
from pipeline.cache import SHARED
from pipeline.errors import DataError
from pipeline.fetch import read_bytes
from pipeline.pictures import PICTURE_SUFFIXES, decode_rgb
from pipeline.remote import shown


class Dataset(ABC):
    """Annotated pictures or videos, read in place.

    Opening maps the manifest; pixels and masks are read when asked for. Instances hold no open
    files and may be sent to other processes.
    """

    def __init__(self, name: str, spec: DatasetSpec, manifest: Manifest) -> None:
        self.name = name
        self.spec = spec
        self.manifest = manifest
        self.names = manifest.names
        self.digest = manifest.digest
        """The data's identity: see `Manifest.digest`."""

    @property
    def kind(self) -> Kind:
        """Whether this holds pictures or videos."""
        return self.spec.kind

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def visible(self, index: int, position: int) -> tuple[int, ...]:
        """The objects that can be seen on one annotated frame and that the spec's filters let
        through, ascending."""

    @abstractmethod
    def masks(
        self, index: int, position: int, objects: Sequence[int], size: tuple[int, int]
    ) -> np.ndarray:
        """Bool [O, H, W] masks of `objects` on one annotated frame of `size` (H, W); all False
        where one is absent. Raises DataError when the annotation has another size."""

    def frame_numbers(self, index: int) -> Sequence[int]:
        """The numbers of the annotated frames of a video, ascending; [0] for a picture."""
        self.check(index)
        return self.manifest.frame_numbers(index)

    def frame_count(self, index: int) -> int:
        """How many annotated frames a video has; 1 for a picture."""
        return len(self.frame_numbers(index))

    def pictures(self, index: int, positions: Sequence[int]) -> list[np.ndarray]:
        """Annotated frames as uint8 [H, W, 3], RGB; not to be written to."""
        self.check(index)
        return [
            self.picture(index, self.manifest.picture(index, position)) for position in positions
        ]

    def stream(self, index: int) -> Iterator[tuple[int, np.ndarray]]:
        """Every frame, annotated or not, in order: its number and uint8 [H, W, 3]; one in
        memory."""
        if self.kind == "image":
            yield 0, self.pictures(index, [0])[0]
            return
        for number, (folder, entry) in self._frames(index).items():
            path = f"{folder}/{entry.name}"
            yield number, decode_rgb(read_bytes(path, version=entry.stamp), path)

    def frame_name(self, index: int, number: int) -> str:
        """What the files of a frame are called, without their ending."""
        return stem(self._frames(index)[number][1].name)

    def check(self, index: int) -> None:
        """Raise DataError when the listing has found something wrong with an item."""
        error = self.manifest.errors.get(index)
        if error is not None:
            raise DataError(error)

    def picture(self, index: int, place: Place) -> np.ndarray:
        """The picture at `place`, from the memory of this process where it was read before."""
        return SHARED.get(
            ("picture", place),
            lambda: decode_rgb(place.read(), self.where(index, place)),
            lambda pixels: pixels.nbytes,
        )

    def where(self, index: int, place: Place, ending: str = ".jpg") -> str:
        """What a message calls the file, or the member of a tar, at `place`."""
        if place.start == WHOLE:
            return place.path
        return f"{place.path}:{self.names[index]}{ending}"

    def suits(self, area: float, pixels: int) -> bool:
        """Whether an object of `area` on a picture of `pixels` passes the spec's area filter."""
        return self.spec.min_area * pixels <= area <= self.spec.max_area * pixels

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
        for position, picture in zip(positions, pictures, strict=True):
            if picture.shape[:2] != size:
                raise DataError(
                    f"{shown(self.spec.root)}, {self.names[index]}: frame {numbers[position]} is "
                    f"{picture.shape[0]}x{picture.shape[1]} (height x width), expected "
                    f"{size[0]}x{size[1]} as the first; extract the frames again, or split the video"
                )
        if len(positions) == 1:  # a picture with many masks: half the memory
            pixels, masks = pictures[0][None], self.masks(index, positions[0], objects, size)[None]
        else:
            pixels = np.stack(pictures)
            masks = np.empty((len(positions), len(objects), *size), dtype=bool)
            for t, position in enumerate(positions):
                masks[t] = self.masks(index, position, objects, size)
        return Clip(
            name=self.names[index],
            dataset=self.name,
            frames=pixels,
            masks=masks,
            object_ids=tuple(objects),
            frame_numbers=tuple(int(numbers[position]) for position in positions),
        )

    def _frames(self, index: int) -> Mapping[int, tuple[str, Entry]]:
        """(folder, file) of every frame by its number, annotated or not."""
        folder = self.manifest.picture(index, 0).path.rpartition("/")[0]

        def make() -> dict[int, tuple[str, Entry]]:
            return {n: (folder, entry) for n, entry in numbered(Tree(), folder).items()}

        return SHARED.get(("frames", folder), make, lambda found: 300 * len(found))


def numbered(
    tree: Tree, folder: str, suffixes: Sequence[str] = PICTURE_SUFFIXES
) -> dict[int, Entry]:
    """The files of a folder whose names are numbers of any width, by number, ascending."""
    found: dict[int, Entry] = {}
    for entry in tree.files(folder):
        number = stem(entry.name)
        if number.isdecimal() and entry.name[len(number) :].lower() in suffixes:
            if int(number) in found:
                raise DataError(
                    f"{shown(folder)}/{entry.name} and {found[int(number)].name} are the same frame, "
                    "expected one file; remove the other"
                )
            found[int(number)] = entry
    return dict(sorted(found.items()))


def stem(name: str) -> str:
    """A file's name without its ending."""
    return name.rpartition(".")[0] or name


def require_size(mask: np.ndarray, size: tuple[int, int], where: str) -> np.ndarray:
    """`mask` when it has the size of its picture; else DataError."""
    if mask.shape != tuple(size):
        raise DataError(
            f"{where} is {mask.shape[0]}x{mask.shape[1]} (height x width), expected "
            f"{size[0]}x{size[1]} as its picture; fetch both again, they belong to different copies"
        )
    return mask

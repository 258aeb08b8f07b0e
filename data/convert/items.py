"""What every source of labels gives: items of frames, a frame being a picture file and shapes on
it, drawn only when they are written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from pipeline import rle
from pipeline.errors import DataError
from pipeline.fetch import read_bytes
from pipeline.pictures import open_picture

TURNING = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""


@dataclass(frozen=True)
class Shape:
    """One region of one object. Exactly one of polygons, run and file is given.

    object: its number in the item; regions of the same number are parts of one object. polygons: each
    x0, y0, x1, y1, ... in pixels. run: a run-length mask. file: a PNG whose non-zero pixels are the
    region. origin: the x, y of the file's corner in the picture. where: file and field, for
    messages.
    """

    object: int
    label: str
    where: str
    polygons: tuple[tuple[float, ...], ...] = ()
    run: Any = None
    file: Path | bytes | None = None
    origin: tuple[int, int] | None = None


@dataclass(frozen=True)
class Frame:
    """number: in its video; 0 for a picture. size: (H, W) that the labels were drawn on, where the
    source says so. shown: on the picture as its EXIF orientation shows it rather than as stored."""

    number: int
    picture: Path
    shapes: tuple[Shape, ...]
    size: tuple[int, int] | None = None
    shown: bool = False


@dataclass(frozen=True)
class Item:
    """A picture (one frame) or a video; its name is the name of its files. found_in: for messages."""

    name: str
    frames: tuple[Frame, ...]
    found_in: str

    @property
    def labels(self) -> dict[int, str]:
        """What each object is called."""
        return {shape.object: shape.label for frame in self.frames for shape in frame.shapes}


Found = Iterator[Item | DataError]
"""Items, and in the place of each that is malformed the error that says why."""


@dataclass(frozen=True)
class Upright:
    """How a picture lies in its file. size: (H, W) as labels see it. turned: its pixels have to be
    turned, as its EXIF orientation says, to lie so."""

    size: tuple[int, int]
    turned: bool


def posture(frame: Frame) -> Upright:
    """Whether the labels of a frame were drawn on the pixels as stored or as shown.

    Raises DataError when they are of another size than the picture.
    """
    try:
        with Image.open(frame.picture) as picture:
            stored = (picture.height, picture.width)
            orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except OSError as error:
        reason = error.strerror or str(error).split("<")[0].strip()
        raise DataError(
            f"{frame.picture} is not a whole picture ({reason}), expected one; fetch it again"
        ) from error
    shown = stored[::-1] if orientation in TURNING else stored
    ways = [Upright(stored, turned=False), Upright(shown, turned=orientation != 1)]
    for way in reversed(ways) if frame.shown else ways:
        if frame.size is None or frame.size == way.size:
            return way
    assert frame.size is not None
    raise DataError(
        f"{frame.picture}: found a picture of {stored[1]}x{stored[0]} (width x height), expected "
        f"{frame.size[1]}x{frame.size[0]} as its labels say; "
        "label it again, or fetch the picture that was labelled"
    )


def draw(frame: Frame, size: tuple[int, int]) -> dict[int, np.ndarray]:
    """The mask of every object of a frame, bool [H, W], by its number, ascending; those without a
    pixel are left out."""
    masks: dict[int, np.ndarray] = {}
    for shape in frame.shapes:
        drawn = _drawn(shape, size)
        before = masks.get(shape.object)
        masks[shape.object] = drawn if before is None else before | drawn
    return {number: masks[number] for number in sorted(masks) if masks[number].any()}


def _drawn(shape: Shape, size: tuple[int, int]) -> np.ndarray:
    if shape.polygons:
        return rle.decode_polygons([list(p) for p in shape.polygons], size, shape.where)
    if shape.file is not None:
        return _from_file(shape, size)
    return rle.decode(shape.run, size, shape.where)


def _from_file(shape: Shape, size: tuple[int, int]) -> np.ndarray:
    """The non-zero pixels of a PNG, the whole picture's or a part placed at `origin`."""
    assert shape.file is not None
    content = shape.file if isinstance(shape.file, bytes) else read_bytes(shape.file)
    pixels = np.asarray(open_picture(content, shape.where))
    inside = np.asarray(pixels[..., :3].any(-1) if pixels.ndim == 3 else pixels != 0)
    if shape.origin is None:
        if inside.shape != size:
            raise DataError(
                f"{shape.where}: found a mask of {inside.shape[1]}x{inside.shape[0]} (width x "
                f"height), expected {size[1]}x{size[0]} as its picture; export it at full size"
            )
        return inside
    x, y = shape.origin
    whole = np.zeros(size, bool)
    part = whole[max(y, 0) : y + inside.shape[0], max(x, 0) : x + inside.shape[1]]
    part |= inside[max(-y, 0) :, max(-x, 0) :][: part.shape[0], : part.shape[1]]
    return whole


def below(root: Path, *parts: str) -> Path:
    """`parts` below `root`, however the writer's system separates folders.

    Raises ValueError for a path that leaves the folder.
    """
    path = root.joinpath(*(part.replace("\\", "/") for part in parts))
    if not path.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"{'/'.join(parts)!r} leaves {root}")
    return path


def unique_names(items: Sequence[Item]) -> Iterator[DataError]:
    """An error for every item whose name another one has already."""
    seen: dict[str, str] = {}
    for item in items:
        if item.name in seen:
            yield DataError(
                f"{item.found_in}: found a second item called {item.name} (the first: "
                f"{seen[item.name]}), expected different names; rename one"
            )
        seen.setdefault(item.name, item.found_in)

"""A video as a sequence of frames, wherever they come from: a folder of pictures, a video file, an
array.

Frames are read when they are asked for and not kept, so a video may be of any length. All of them
have the size of the first; the one that has not is named.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.pictures import PICTURE_SUFFIXES, read_rgb
from pipeline.video import check_whole, frame_total, iterate_from

Frame = NDArray[np.uint8]
"""uint8 [H, W, 3], RGB."""
AHEAD = 64
"""A video file is decoded on, rather than entered anew, to reach a frame this far ahead."""
KEPT_BYTES, LEAST_KEPT = 64 << 20, 8
"""Decoded frames of a video file that stay at hand."""


@runtime_checkable
class Frames(Protocol):
    """A read-only sequence of frames of one size; in order is cheap, any order is right."""

    @property
    def name(self) -> str:
        """What errors call it."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Frame: ...


FrameSource = str | os.PathLike[str] | Frame | torch.Tensor | Sequence[Frame] | Frames


def open_frames(source: FrameSource) -> Frames:
    """The frames of a folder of pictures, of a video file, or of an array.

    Pictures come in the order of their numbers where every name is one, else in that of their
    names. Arrays are uint8 [T, H, W, 3], RGB, or a sequence of [H, W, 3], which may read its
    frames as they are asked for. Raises DataError where there are no frames, and later at a frame
    that is broken or of another size.
    """
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        return PictureFrames(path) if path.is_dir() else VideoFileFrames(path)
    if isinstance(source, torch.Tensor):
        return ArrayFrames(source.cpu().numpy())
    if isinstance(source, np.ndarray):
        return ArrayFrames(source)
    if isinstance(source, Frames):
        return source
    if isinstance(source, Sequence) and not isinstance(source, str):
        return ArrayFrames(source)
    raise DataError(
        f"a video cannot be a {type(source).__name__}; expected a folder of pictures, a video "
        "file, or uint8 frames [T, H, W, 3] (`track` also takes a stream)"
    )


class PictureFrames:
    """A folder of pictures, one per frame."""

    def __init__(self, folder: Path) -> None:
        self.name = str(folder)
        self.files = _in_order(
            path
            for path in folder.iterdir()
            if path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".")
        )
        if not self.files:
            raise DataError(
                f"{folder} holds no pictures ({', '.join(PICTURE_SUFFIXES)}); "
                "expected a folder with one per frame"
            )
        self.size = _size(read_rgb(self.files[0]), str(self.files[0]))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> Frame:
        path = self.files[_within(number, self)]
        return _checked(read_rgb(path), self.size, f"{path} (frame {number})")


class VideoFileFrames:
    """A video file. Read in order it is decoded as one stream; the frames decoded last are kept, so
    that reading backwards enters the file anew once in a while and not at every frame."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        check_whole(path)
        self._path = path
        self._length = frame_total(path)
        self._stream: Iterator[Frame] = iter(())
        self._next = self._length
        """The frame that the stream gives next; the length of the video where there is none."""
        self._latest = -1
        self._kept: OrderedDict[int, Frame] = OrderedDict()
        self._room = 1
        first = self[0]
        self._room = max(LEAST_KEPT, KEPT_BYTES // first.nbytes)
        self.size = (first.shape[0], first.shape[1])

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, number: int) -> Frame:
        number = _within(number, self)
        if number not in self._kept:
            self._decode_to(number)
        self._latest = number
        size = None if number == 0 else self.size
        check_frame(self._kept[number], size, f"{self.name}, frame {number}")
        return self._kept[number]

    def _decode_to(self, number: int) -> None:
        if not 0 <= number - self._next <= AHEAD:
            backwards = number < self._latest
            self._next = max(0, number - self._room // 2) if backwards else number
            self._stream = iterate_from(self._path, self._next)
        try:
            for frame in self._stream:
                self._kept[self._next] = frame
                self._next += 1
                if len(self._kept) > self._room:
                    self._kept.popitem(last=False)
                if self._next > number:
                    return
        except DataError as error:
            reached, self._next = self._next, self._length
            raise DataError(f"{self.name}: frame {reached} cannot be read: {error}") from error
        reached, self._next = self._next, self._length
        raise DataError(
            f"{self.name} ends before frame {reached}, expected {self._length} frames; "
            "it is truncated, fetch it again"
        )


class ArrayFrames:
    """Frames in memory, or a sequence that makes them."""

    def __init__(self, frames: Frame | Sequence[Frame]) -> None:
        self.name = "the given frames"
        self._frames = frames
        if len(frames) == 0:
            raise DataError("the given frames are none; expected at least one")
        self.size = _size(np.asarray(frames[0]), "frame 0 of the given frames")

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, number: int) -> Frame:
        frame = np.asarray(self._frames[_within(number, self)])
        return _checked(frame, self.size, f"frame {number} of the given frames")


def check_frame(frame: Frame, size: tuple[int, int] | None, where: str) -> tuple[int, int]:
    """The size of one frame of a stream. Raises DataError unless it is uint8 RGB of `size`."""
    found = _size(np.asarray(frame), where)
    if size is not None and found != size:
        raise DataError(
            f"{where} is {found[0]} x {found[1]} (height x width), but the video began with "
            f"{size[0]} x {size[1]}; frames of one video have one size"
        )
    return found


def _checked(frame: Frame, size: tuple[int, int], where: str) -> Frame:
    check_frame(frame, size, where)
    return frame


def _size(frame: Frame, where: str) -> tuple[int, int]:
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or not frame.size:
        raise DataError(
            f"{where} is {frame.dtype} {list(frame.shape)}; expected uint8 [H, W, 3] in RGB"
        )
    return frame.shape[0], frame.shape[1]


def _within(number: int, frames: Sequence[Frame] | Frames) -> int:
    """`number`, which exists. IndexError, as sequences raise it, ends an iteration."""
    if not 0 <= number < len(frames):
        raise IndexError(f"frame {number} of a video of {len(frames)} frames")
    return number


def _in_order(paths: Iterable[Path]) -> list[Path]:
    """By number where every name is a number, else by name."""
    files = sorted(paths)
    if all(path.stem.isdecimal() for path in files):
        files.sort(key=lambda path: int(path.stem))
    return files

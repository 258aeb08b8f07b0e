"""Frames of a video file by number, without decoding what lies far before them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from pipeline.cache import SHARED
from pipeline.errors import DataError


@dataclass(frozen=True)
class _Timeline:
    """Presentation times of a file's frames, in its own units; a frame's number is its rank among
    them."""

    times: np.ndarray
    """int64 [frames], ascending."""
    keys: np.ndarray
    """int64: the times at which decoding can start."""


@contextmanager
def open_video(path: str | Path) -> Iterator[tuple[Any, Any]]:
    """The container and its first video stream. Raises DataError for a file that holds no video,
    and for damage met while it is being read."""
    where = Path(path)
    if not where.is_file():
        raise DataError(f"{where} does not exist; expected a video file")
    if where.stat().st_size == 0:
        raise DataError(f"{where} is empty (0 bytes); fetch the video again")
    try:
        with av.open(str(where)) as container:
            if not container.streams.video:
                raise DataError(f"{where} holds no video stream")
            stream = container.streams.video[0]
            # One thread: loaders and the extractor run a process per core.
            stream.codec_context.thread_count = 1
            yield container, stream
    except av.error.FFmpegError as error:
        raise DataError(
            f"{where} is not a whole video ({str(error).split(':')[0]}); fetch it again"
        ) from error


def iterate_frames(path: str | Path) -> Iterator[np.ndarray]:
    """Every frame in order as uint8 [H, W, 3], RGB, one at a time."""
    with open_video(path) as (container, stream):
        for frame in container.decode(stream):
            yield frame.to_ndarray(format="rgb24")


def read_frames(path: str | Path, numbers: Sequence[int], every: int = 1) -> list[np.ndarray]:
    """Frames `numbers` (0 is the first) as uint8 [H, W, 3], RGB.

    Frames whose number is a multiple of `every` and that are passed on the way are kept in the
    cache too: a later clip is likely to want them.
    """
    key = str(path)
    found: dict[int, np.ndarray] = {}
    for number in set(numbers):
        frame = SHARED.peek(("video", key, number))
        if frame is not None:
            found[number] = frame
    missing = sorted(set(numbers) - found.keys())
    if missing:
        wanted = set(missing)
        for number, decoded in _decode_from(path, missing[0], missing[-1]):
            if number in wanted or number % every == 0:
                picture = decoded.to_ndarray(format="rgb24")
                SHARED.put(("video", key, number), picture, picture.nbytes)
                if number in wanted:
                    found[number] = picture
                    wanted.discard(number)
        if wanted:
            raise DataError(
                f"{path} ends before frame {min(wanted)}; "
                "it is truncated, or belongs to other annotations"
            )
    return [found[number] for number in numbers]


def frame_total(path: str | Path) -> int:
    """Number of frames, from the packets of the file (nothing is decoded)."""
    return len(_timeline(path).times)


def _decode_from(path: str | Path, first: int, last: int) -> Iterator[tuple[int, Any]]:
    """(number, frame) from the last key frame at or before `first` up to `last`."""
    timeline = _timeline(path)
    times = timeline.times
    if first >= len(times):
        return
    with open_video(path) as (container, stream):
        keys = timeline.keys[timeline.keys <= times[first]]
        if len(keys) and keys[-1] > times[0]:
            container.seek(int(keys[-1]), stream=stream, backward=True)
        for frame in container.decode(stream):
            number = int(np.searchsorted(times, frame.pts))
            if number > last:
                return
            yield number, frame


def _timeline(path: str | Path) -> _Timeline:
    return SHARED.get(
        ("timeline", str(path)),
        lambda: _scan(path),
        lambda line: line.times.nbytes + line.keys.nbytes + 256,
    )


def _scan(path: str | Path) -> _Timeline:
    times: list[int] = []
    keys: list[int] = []
    with open_video(path) as (container, stream):
        for packet in container.demux(stream):
            if packet.pts is None or packet.is_discard:
                continue
            times.append(packet.pts)
            if packet.is_keyframe:
                keys.append(packet.pts)
    if not times:
        raise DataError(f"{path} holds no frames; fetch the video again")
    return _Timeline(np.array(sorted(times)), np.array(sorted(keys), dtype=np.int64))

"""Frames of a video file as players show them: streamed, or by number without decoding what lies
far before them.

A frame's number is its rank by presentation time, whatever the rate does in between. Frames are
turned and mirrored as the file's display matrix asks, here and therefore everywhere: in clips read
from the video, in extracted frames, in predictions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import av
import numpy as np
from av.sidedata.sidedata import Type as SideData

from pipeline.cache import SHARED
from pipeline.errors import DataError

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".ts")
UNTIMED = ("avi", "h264", "hevc", "m4v")
"""Containers that hold no presentation times (AVI has room for none where frames are reordered)."""


@dataclass(frozen=True)
class _Timeline:
    """Presentation times of a file's frames, in its own units; a frame's number is its rank among
    them."""

    times: np.ndarray
    """int64 [frames], ascending."""
    keys: np.ndarray
    """int64: the times at which decoding can start."""
    unit: float
    """Seconds."""
    counted: bool
    """The file has no times worth the name: frames are counted from its start."""


class Turn(NamedTuple):
    """How stored pixels become what is shown: rows and columns exchanged, then mirrored."""

    exchanged: bool = False
    down: bool = False
    right: bool = False


class Decoded(NamedTuple):
    """A frame as PyAV decodes it, and how it is shown."""

    frame: Any
    turn: Turn

    def pixels(self, layout: Literal["rgb24", "bgr24"] = "rgb24") -> np.ndarray:
        """Upright, uint8 [H, W, 3]."""
        pixels = self.frame.to_ndarray(format=layout)
        if self.turn.exchanged:
            pixels = pixels.transpose(1, 0, 2)
        if self.turn.down or self.turn.right:
            pixels = pixels[:: -1 if self.turn.down else 1, :: -1 if self.turn.right else 1]
        return np.ascontiguousarray(pixels)


@contextmanager
def open_video(path: str | Path) -> Iterator[tuple[Any, Any]]:
    """The container and its first video stream. Raises DataError for a file that holds no video,
    and for damage met while it is being read."""
    where = Path(path)
    if not where.is_file():
        raise DataError(f"{where} does not exist, expected a video file; fetch it")
    if where.stat().st_size == 0:
        raise DataError(f"{where} is empty (0 bytes), expected a video; fetch it again")
    try:
        # A title in some other alphabet is no reason to refuse a video.
        with av.open(str(where), metadata_errors="replace") as container:
            if not container.streams.video:
                kinds = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
                raise DataError(
                    f"{where} holds no video stream (found {kinds}), expected one; "
                    "fetch it again, or leave the file out"
                )
            stream = container.streams.video[0]
            # One thread: loaders and the extractor run a process per core.
            stream.codec_context.thread_count = 1
            yield container, stream
    except av.error.FFmpegError as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(
            f"{where} is not a whole video ({reason}), expected one that plays to its end; "
            "fetch it again"
        ) from error


def decoded_frames(path: str | Path) -> Iterator[Decoded]:
    """Every frame in order, one in memory.

    Raises DataError when a frame is damaged, or the file ends before the time it promises.
    """
    count, end = 0, 0.0
    with open_video(path) as (container, stream):
        for decoded in _decoded(container, stream):
            frame = decoded.frame
            if frame.is_corrupt:
                raise DataError(
                    f"{path}: frame {count} is damaged, expected a whole video; fetch it again"
                )
            count += 1
            if frame.pts is not None:
                end = max(end, float((frame.pts + (frame.duration or 0)) * stream.time_base))
            yield decoded
        promised, until = stream.frames, _promised_end(stream)
    if not count:
        raise DataError(f"{path} holds no frames, expected a video; fetch it again")
    # An edit list may hide frames that are counted; then the times end where they should.
    if promised and count < promised and (until is None or end < until - 1.5 * until / promised):
        raise DataError(
            f"{path} is truncated: found {count} frames, expected the {promised} its header "
            "promises; fetch it again"
        )
    if not promised and until is not None and end < until - 0.5:
        raise DataError(
            f"{path} is truncated: found {end:.1f} seconds, expected the {until:.1f} its header "
            "promises; fetch it again"
        )


def iterate_frames(path: str | Path) -> Iterator[np.ndarray]:
    """Every frame in order as uint8 [H, W, 3], RGB, one at a time."""
    for frame in decoded_frames(path):
        yield frame.pixels()


def iterate_from(path: str | Path, first: int) -> Iterator[np.ndarray]:
    """Frames `first`, `first` + 1, ... as uint8 [H, W, 3], RGB, one at a time, to the file's end.

    Raises DataError when one of them is damaged.
    """
    for number, decoded in _decode_from(path, first, frame_total(path)):
        if number >= first:
            if decoded.frame.is_corrupt:
                raise DataError(
                    f"{path}: frame {number} is damaged, expected a whole video; fetch it again"
                )
            yield decoded.pixels()


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
                picture = decoded.pixels()
                SHARED.put(("video", key, number), picture, picture.nbytes)
                if number in wanted:
                    found[number] = picture
                    wanted.discard(number)
        if wanted:
            raise DataError(
                f"{path} ends before frame {min(wanted)}: found {frame_total(path)} frames, expected "
                "those of its annotations; fetch both again, it is cut off or belongs to others"
            )
    return [found[number] for number in numbers]


def frame_total(path: str | Path) -> int:
    """Number of frames, from the packets of the file (nothing is decoded)."""
    return len(_timeline(path).times)


def check_whole(path: str | Path) -> None:
    """Raise DataError where the file's packets end before the time its header promises (nothing is
    decoded)."""
    line = _timeline(path)
    with open_video(path) as (_, stream):
        promised, until = stream.frames, _promised_end(stream)
    if until is None:
        return
    step = until / promised if promised else 0.5
    if line.times[-1] * line.unit < until - 2.5 * step:
        raise DataError(
            f"{path} is truncated: found {len(line.times)} frames, expected {promised or 'more'} "
            f"up to {until:.1f} seconds, as its header promises; fetch it again"
        )


def frame_times(path: str | Path) -> np.ndarray:
    """Seconds from the first frame to each, float64 [frames], ascending (nothing is decoded)."""
    line = _timeline(path)
    return (line.times - line.times[0]) * line.unit


def numbers_at_rate(times: np.ndarray, fps: float) -> list[int]:
    """The frames on the screen at 0, 1/fps, 2/fps ... seconds, each once.

    times: float64 [frames], as `frame_times` gives them.
    >>> numbers_at_rate(np.array([0.0, 0.1, 0.2, 1.0, 1.1]), fps=2)
    [0, 2, 3]
    """
    hair = 1e-6  # times are rounded to the file's unit, and a tick may fall on a frame
    end = times[-1] + (float(np.median(np.diff(times))) if len(times) > 1 else hair)
    ticks = np.arange(max(1, math.ceil((end - hair) * fps))) / fps
    shown = np.searchsorted(times, ticks + hair, side="right") - 1
    return [int(number) for number in np.unique(shown)]


def _decoded(container: Any, stream: Any) -> Iterator[Decoded]:
    """Frames from where the container stands."""
    turn: Turn | None = None
    for frame in container.decode(stream):
        if turn is None:
            # Once: a frame whose side data was looked at refers to itself, and lives until Python
            # next looks for such circles; frames are large.
            turn = _turn(frame.side_data.get(SideData.DISPLAYMATRIX))
        yield Decoded(frame, turn)


def _turn(matrix: Any) -> Turn:
    """What a display matrix (nine int32, x' = a x + c y, y' = b x + d y) asks for; turns that are
    no quarters count as the nearest one."""
    if matrix is None:
        return Turn()
    a, b, _, c, d = (int(value) for value in np.frombuffer(bytes(matrix), np.int32)[:5])
    if abs(b) > abs(a):
        return Turn(exchanged=True, down=b < 0, right=c < 0)
    return Turn(down=d < 0, right=a < 0)


def _promised_end(stream: Any) -> float | None:
    """The second at which the file says its video ends; None where it does not say."""
    if stream.duration is not None and stream.frames:
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base)
    tag = stream.metadata.get("DURATION", "")  # Matroska: 00:01:12.500000000
    try:
        hours, minutes, seconds = (float(part) for part in tag.split(":"))
    except ValueError:
        return None
    return 3600 * hours + 60 * minutes + seconds


def _decode_from(path: str | Path, first: int, last: int) -> Iterator[tuple[int, Decoded]]:
    """(number, frame) from the last key frame at or before `first` up to `last`."""
    timeline = _timeline(path)
    times = timeline.times
    if first >= len(times):
        return
    with open_video(path) as (container, stream):
        keys = timeline.keys[timeline.keys <= times[first]]
        if len(keys) and keys[-1] > times[0]:
            container.seek(int(keys[-1]), stream=stream, backward=True)
        for count, decoded in enumerate(_decoded(container, stream)):
            number = count if timeline.counted else int(np.searchsorted(times, decoded.frame.pts))
            if number > last:
                return
            yield number, decoded


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
        unit, counted = float(stream.time_base), container.format.name in UNTIMED
        if counted:
            unit = float(1 / (stream.average_rate or stream.guessed_rate or 25))
        for packet in container.demux(stream):
            if packet.size == 0 or packet.is_discard or (packet.pts is None and not counted):
                continue
            times.append(len(times) if counted else packet.pts)
            if packet.is_keyframe and not counted:
                keys.append(packet.pts)
    if not times:
        raise DataError(f"{path} holds no frames, expected a video; fetch it again")
    starts = np.array(sorted(keys), dtype=np.int64)
    return _Timeline(np.array(sorted(times)), starts, unit, counted)

"""Frames out of one video, once, before training: a folder of JPEGs, whole or not there at all.

Videos are decoded as a stream, so memory does not grow with their length. A folder is made under
another name and renamed when its last frame is written; a finished one is checked and left alone.
`data.extract_many` does this for many videos.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipeline.errors import ConfigError, DataError, StorageError
from pipeline.fetch import read_bytes
from pipeline.video import decoded_frames, frame_times, numbers_at_rate

RECORD = ".extracted.json"
"""In each finished folder: what it was made from, and what it holds."""


@dataclass(frozen=True)
class ExtractOptions:
    """Which frames of a video are kept, and how. Files are named by frame number in any case."""

    every: int = 4
    """Every Nth frame, by rank."""
    fps: float | None = None
    """Instead: the frames on the screen at this many times a second."""
    quality: int = 95
    """Of the JPEGs, 1 to 100."""
    short_side: int | None = None
    """Shrink frames whose shorter side has more pixels to this many."""
    long_side: int | None = None
    """The same for the longer side."""

    def __post_init__(self) -> None:
        if self.every < 1 or not 1 <= self.quality <= 100:
            raise ConfigError(
                f"every={self.every}, quality={self.quality}: "
                "expected every >= 1 and quality from 1 to 100"
            )
        if self.fps is not None and not self.fps > 0:
            raise ConfigError(f"fps={self.fps}: expected more than 0 frames a second")
        sides = [side for side in (self.short_side, self.long_side) if side is not None]
        if len(sides) > 1 or min(sides, default=1) < 1:
            raise ConfigError(
                f"short_side={self.short_side}, long_side={self.long_side}: "
                "expected one of them, 1 or more pixels"
            )


@dataclass(frozen=True)
class ExtractReport:
    """One video's frames.

    frames: how many were kept, of `decoded`. bytes: of the JPEGs. reused: they were there already.
    """

    video: str
    folder: str
    frames: int
    decoded: int
    bytes: int
    seconds: float
    reused: bool


def extract_frames(
    video: Path,
    out_dir: Path,
    options: ExtractOptions | None = None,
    annotation: Path | None = None,
) -> ExtractReport:
    """Write the frames of `video` that `options` keep to `out_dir` as 00000.jpg ..., upright, named
    by frame number.

    annotation: an SA-V json whose `video_frame_count` has to be that of the video. A folder that
    was made from the same file in the same way, and is still whole, is left alone; other frames are
    replaced, anything else there is an error. Raises DataError when the video is missing, broken or
    not as long as it or its annotation says, StorageError when the frames cannot be written; then
    nothing is left behind.
    """
    video, out_dir, options = Path(video), Path(out_dir), options or ExtractOptions()
    started = time.monotonic()
    source = _source(video, options, annotation)
    record = _finished(out_dir, source)
    reused = record is not None
    if record is None:
        record = _write(video, out_dir, options, annotation, source)
    return ExtractReport(
        video=str(video),
        folder=str(out_dir),
        frames=record["frames"],
        decoded=record["decoded"],
        bytes=record["bytes"],
        seconds=time.monotonic() - started,
        reused=reused,
    )


def is_current(report: ExtractReport) -> bool:
    """Whether the frames of an earlier extraction are there, and the video has not changed since;
    what a look at every frame would tell is not asked."""
    try:
        record = json.loads((Path(report.folder) / RECORD).read_text())
        return bool(record["video_bytes"] == Path(report.video).stat().st_size)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _source(video: Path, options: ExtractOptions, annotation: Path | None) -> dict[str, Any]:
    """What the frames depend on. Name and size stand for the content of a file: reading 50,000
    videos to skip them would take hours."""
    source: dict[str, Any] = asdict(options)
    for role, path in (("video", video), ("annotation", annotation)):
        try:
            source[role] = path and path.name
            source[f"{role}_bytes"] = path and path.stat().st_size
        except OSError as error:
            raise DataError(
                f"{path} cannot be read ({error.strerror}); expected a{'n' * (role[0] == 'a')} {role}"
            ) from error
    return source


def _write(
    video: Path,
    out_dir: Path,
    options: ExtractOptions,
    annotation: Path | None,
    source: dict[str, Any],
) -> dict[str, Any]:
    """Decode into a folder beside `out_dir`, then put it in its place."""
    _require_frames(out_dir)
    part = out_dir.with_name(f".{out_dir.name}.{os.getpid()}.part")
    try:
        _clear_old_parts(out_dir)
        part.mkdir(parents=True)
        decoded = 0
        for number, pixels in _kept(video, options):
            decoded = number + 1
            if pixels is not None:
                (part / f"{number:05d}.jpg").write_bytes(_jpeg(pixels, options))
        _compare_count(video, decoded, annotation)
        record = {**source, "decoded": decoded, **_contents(part)}
        (part / RECORD).write_text(json.dumps(record))
        if out_dir.exists():
            shutil.rmtree(out_dir)
        part.rename(out_dir)
    except OSError as error:
        raise StorageError(
            f"{out_dir}: frames cannot be written ({error.strerror or error}); "
            "give a folder you can write to, with room"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return record


def _require_frames(folder: Path) -> None:
    """Raise StorageError where `folder` holds anything but frames: it would be lost."""
    if not folder.exists():
        return
    names = [folder.name] if not folder.is_dir() else (path.name for path in folder.iterdir())
    strange = next((n for n in names if n != RECORD and not re.fullmatch(r"\d+\.jpg", n)), None)
    if strange is not None:
        raise StorageError(
            f"{folder} is to be replaced by frames, but holds {strange}; expected frames 00000.jpg ... "
            "or nothing: give another folder, or move it away"
        )


def _kept(video: Path, options: ExtractOptions) -> Iterator[tuple[int, np.ndarray | None]]:
    """(number, BGR pixels) of every frame in order; no pixels for those that are not kept."""
    if options.fps is None:
        for number, frame in enumerate(decoded_frames(video)):
            yield number, frame.pixels("bgr24") if number % options.every == 0 else None
        return
    wanted = set(numbers_at_rate(frame_times(video), options.fps))
    for number, frame in enumerate(decoded_frames(video)):
        yield number, frame.pixels("bgr24") if number in wanted else None


def _jpeg(pixels: np.ndarray, options: ExtractOptions) -> bytes:
    """BGR pixels, shrunk where the options say so, as a JPEG."""
    height, width = pixels.shape[:2]
    scale = 1.0
    if options.short_side is not None:
        scale = options.short_side / min(height, width)
    if options.long_side is not None:
        scale = options.long_side / max(height, width)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    _, content = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, options.quality])
    return content.tobytes()


def _compare_count(video: Path, decoded: int, annotation: Path | None) -> None:
    if annotation is None:
        return
    try:
        expected = int(json.loads(read_bytes(annotation))["video_frame_count"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{annotation}, video_frame_count: cannot be read ({type(error).__name__}: {error}), "
            "expected the number of frames of the video; fetch the annotation again"
        ) from error
    if decoded != expected:
        raise DataError(
            f"{video}: found {decoded} frames, expected {expected} (video_frame_count in "
            f"{annotation}); fetch both again, they belong to different copies"
        )


def _contents(folder: Path) -> dict[str, Any]:
    """Number and bytes of the JPEGs in a folder, and a digest of their names and sizes."""
    with os.scandir(folder) as entries:
        files = sorted((e.name, e.stat().st_size) for e in entries if e.name.endswith(".jpg"))
    return {
        "frames": len(files),
        "bytes": sum(size for _, size in files),
        "listing": hashlib.sha256(_lines(files).encode()).hexdigest(),
    }


def _lines(files: Iterable[tuple[str, int]]) -> str:
    return "\n".join(f"{name} {size}" for name, size in files)


def _finished(folder: Path, source: dict[str, Any]) -> dict[str, Any] | None:
    """The record of a folder made from `source` that still holds what it did; else None."""
    try:
        record = json.loads((folder / RECORD).read_text())
        expected = {**source, **_contents(folder)}
        same = all(record[key] == value for key, value in expected.items())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if same else None


def _clear_old_parts(out_dir: Path) -> None:
    """Remove what a process that no longer runs has left of this folder."""
    for path in out_dir.parent.glob(f".{out_dir.name}.*.part"):
        number = path.name.removesuffix(".part").rsplit(".", 1)[-1]
        if number.isdecimal() and not _runs(int(number)):
            shutil.rmtree(path, ignore_errors=True)


def _runs(process: int) -> bool:
    """Whether a process of this number exists; this one does not count, its folders are from an
    earlier life of the number."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

"""Frames out of videos, once, before training: a folder of JPEGs per video, whole or not there at
all.

Videos are decoded as a stream, so memory does not grow with their length. A folder is made under
another name and renamed when its last frame is written; a finished one is checked and left alone.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2

from pipeline.errors import ConfigError, DataError, StorageError
from pipeline.video import open_video

RECORD = ".extracted.json"
"""In each finished folder: what it was made from, and what it holds."""


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


Progress = Callable[[int, int, ExtractReport], None]
"""Called with videos done, videos in all, and the report of the latest."""


def extract_frames(video: Path, out_dir: Path, every: int, quality: int = 95) -> ExtractReport:
    """Write frames 0, every, 2*every, ... of `video` as `out_dir`/00000.jpg ..., named by frame
    number.

    A folder that was made from the same file in the same way, and is still whole, is left alone;
    any other is replaced. Raises DataError when the video is missing, broken or shorter than it
    says, StorageError when the frames cannot be written; then nothing is left behind.
    """
    video, out_dir = Path(video), Path(out_dir)
    if every < 1 or not 1 <= quality <= 100:
        raise ConfigError(
            f"every={every}, quality={quality}: expected every >= 1 and quality from 1 to 100"
        )
    started = time.monotonic()
    try:
        # Name and size stand for the content: reading 50,000 videos to skip them would take hours.
        source = {
            "video": video.name,
            "video_bytes": video.stat().st_size,
            "every": every,
            "quality": quality,
        }
    except OSError as error:
        raise DataError(f"{video} cannot be read ({error.strerror}); expected a video") from error
    kept = _finished(out_dir, source)
    if kept is None:
        kept = _write(video, out_dir, source)
    return ExtractReport(
        video=str(video),
        folder=str(out_dir),
        frames=kept["frames"],
        decoded=kept["decoded"],
        bytes=kept["bytes"],
        seconds=time.monotonic() - started,
        reused=kept["reused"],
    )


def extract_many(
    videos: Sequence[Path],
    root: Path,
    every: int,
    quality: int = 95,
    workers: int = 1,
    progress: Progress | None = None,
) -> list[ExtractReport]:
    """Extract every video to `root`/<name without suffix>, `workers` at a time, one core each.

    A broken video does not stop the others; at the end DataError names all that failed.
    Reports come in the order of `videos`.
    """
    videos = [Path(video) for video in videos]
    if not videos:
        return []
    name, count = max(Counter(video.stem for video in videos).items(), key=lambda item: item[1])
    if count > 1:
        raise DataError(f"{count} videos are called {name}; their frames would share a folder")
    reports: dict[Path, ExtractReport] = {}
    failures: list[str] = []
    jobs = {video: (video, Path(root) / video.stem, every, quality) for video in videos}

    def done(video: Path, result: Callable[[], ExtractReport]) -> None:
        try:
            reports[video] = result()
        except DataError as error:
            failures.append(str(error))
            return
        if progress is not None:
            progress(len(reports) + len(failures), len(videos), reports[video])

    if workers <= 1 or len(videos) <= 1:
        for video, job in jobs.items():
            done(video, partial(extract_frames, *job))
    else:
        with ProcessPoolExecutor(
            min(workers, len(videos)), multiprocessing.get_context("spawn"), _start_worker
        ) as pool:
            try:
                futures = {pool.submit(extract_frames, *job): video for video, job in jobs.items()}
                for future in as_completed(futures):
                    done(futures[future], future.result)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    if failures:
        more = f" (and {len(failures) - 3} more)" if len(failures) > 3 else ""
        raise DataError(
            f"{len(failures)} of {len(videos)} videos could not be extracted: "
            + "; ".join(sorted(failures)[:3])
            + more
        )
    return [reports[video] for video in videos]


def _write(video: Path, out_dir: Path, source: dict[str, Any]) -> dict[str, Any]:
    """Decode into a folder beside `out_dir`, then put it in its place."""
    part = out_dir.with_name(f".{out_dir.name}.{os.getpid()}.part")
    try:
        _clear_old_parts(out_dir)
        part.mkdir(parents=True)
        decoded, sizes = _decode(video, part, source["every"], source["quality"])
        record = {**source, "decoded": decoded, "frames": len(sizes), "bytes": sum(sizes)}
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
    return {**record, "reused": False}


def _decode(video: Path, folder: Path, every: int, quality: int) -> tuple[int, list[int]]:
    """Frames decoded, and the size in bytes of each JPEG written."""
    sizes: list[int] = []
    decoded = 0
    with open_video(video) as (container, stream):
        promised = stream.frames
        for frame in container.decode(stream):
            if decoded % every == 0:
                pixels = frame.to_ndarray(format="bgr24")
                ok, jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
                if not ok:
                    raise DataError(f"{video}: frame {decoded} cannot be written as JPEG")
                (folder / f"{decoded:05d}.jpg").write_bytes(jpeg.tobytes())
                sizes.append(len(jpeg))
            decoded += 1
    if not decoded:
        raise DataError(f"{video} holds no frames; fetch the video again")
    if promised and decoded < promised:
        raise DataError(
            f"{video} is truncated: it promises {promised} frames and {decoded} can be decoded; "
            "fetch it again"
        )
    return decoded, sizes


def _finished(folder: Path, source: dict[str, Any]) -> dict[str, Any] | None:
    """The record of a folder made from `source` that still holds what it did; else None."""
    try:
        record = json.loads((folder / RECORD).read_text())
        if any(record[key] != value for key, value in source.items()):
            return None
        sizes = [
            (folder / f"{number:05d}.jpg").stat().st_size
            for number in range(0, record["decoded"], record["every"])
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if len(sizes) != record["frames"] or sum(sizes) != record["bytes"]:
        return None
    return {**record, "reused": True}


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


def _start_worker() -> None:
    """One thread each; Ctrl-C is left to the parent, and none outlives it."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)

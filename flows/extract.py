"""`extract-frames`: JPEG frames of videos, in this process or as jobs that share the videos."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from flows.jobs import launch_config
from flows.parts import progress_bar
from pipeline.errors import DataError
from pipeline.storage import require_writable, size_text, write_json

if TYPE_CHECKING:
    from data.extract_many import Extraction
    from pipeline.progress import Progress
    from pipeline.settings import LaunchConfig
    from stages.extract_frames import Shard

REPORT = "extraction.json"
JOBS = ".jobs"
"""Below the output folder: logs and progress of the jobs."""


def extract_frames(arguments: argparse.Namespace) -> int:
    """`extract-frames`: 0 when every video is whole, 2 when some failed; each has its line."""
    from data.extract import ExtractOptions
    from data.extract_many import check_names
    from stages.extract_frames import Shard

    source: Path = arguments.videos
    if not source.exists():
        raise DataError(f"--videos {source}: there is no such file or folder")
    videos = [source] if source.is_file() else _videos_below(source)
    check_names(videos)
    options = ExtractOptions(
        every=1 if arguments.fps else arguments.every,
        fps=arguments.fps,
        quality=arguments.quality,
        short_side=arguments.short_side,
        long_side=arguments.long_side,
    )
    config = launch_config(arguments, arguments.workers)
    out = require_writable(arguments.out, "output folder")
    whole = Shard(
        videos=tuple(str(video.absolute()) for video in videos),
        out=str(out),
        options=options,
        annotations=str(arguments.annotations.absolute()) if arguments.annotations else None,
        workers=arguments.workers,
        folder=str(out / JOBS),
    )
    count = min(arguments.jobs, len(videos))
    extraction = _here(whole) if config is None else _shared(whole, count, config)
    report = arguments.report or out / REPORT
    write_json(report, extraction.summary())
    return _say(extraction, out, report)


def _here(whole: Shard) -> Extraction:
    from data.extract_many import extract_many
    from pipeline.environment import free_cores

    with progress_bar("extracting") as (bar, task):
        return extract_many(
            [Path(video) for video in whole.videos],
            Path(whole.out),
            whole.options,
            annotations=Path(whole.annotations) if whole.annotations else None,
            workers=whole.workers or free_cores(),
            progress=lambda done, total, latest: bar.update(task, completed=done, total=total),
        )


def _shared(whole: Shard, count: int, config: LaunchConfig) -> Extraction:
    """The videos dealt out over the jobs of one array, which an earlier call may have begun."""
    from data.extract_many import Extraction
    from pipeline.array import launch_array
    from stages.extract_frames import is_whole, run_shard

    with progress_bar("extracting") as (bar, task):

        def look(progress: Progress | None) -> None:
            done = progress.step if progress else 0
            bar.update(task, completed=done, total=len(whole.videos))

        parts = launch_array(
            run_shard,
            _shards(whole, count, config),
            whole.folder,
            config,
            name="extract",
            on_poll=look,
            valid=is_whole,
        )
    return Extraction.merged(parts)


def _shards(whole: Shard, count: int, config: LaunchConfig) -> list[Shard]:
    """The videos dealt out in turn: the same list gives the same shards, whenever it is asked."""
    from pipeline.array import shard_folders
    from pipeline.environment import free_cores

    workers = whole.workers
    if workers is None and config.launcher == "local":
        workers = max(1, free_cores() // count)
    return [
        replace(whole, videos=whole.videos[number::count], workers=workers, folder=str(place))
        for number, place in enumerate(shard_folders(whole.folder, count))
    ]


def _videos_below(folder: Path) -> Sequence[Path]:
    from pipeline.video import VIDEO_SUFFIXES

    videos = sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
    if not videos:
        raise DataError(f"--videos {folder} holds no {', '.join(VIDEO_SUFFIXES)} file")
    return videos


def _say(extraction: Extraction, out: Path, report: Path) -> int:
    totals = extraction.summary()
    print(
        f"{out}: {totals['frames']} frames of {len(extraction.reports)} videos, "
        f"{size_text(totals['bytes'])} ({totals['extracted']} extracted now); {report}"
    )
    for video in sorted(extraction.failures):
        print(f"error: {extraction.failures[video]}", file=sys.stderr)
    if extraction.failures:
        total = totals["videos"]
        print(f"error: {len(extraction.failures)} of {total} videos failed", file=sys.stderr)
        return 2
    return 0

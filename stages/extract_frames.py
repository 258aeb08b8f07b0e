"""Take the annotated frames out of the videos, once, so that training reads pictures instead of decoding films."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.extract import ExtractOptions, ExtractReport, is_current
from data.extract_many import Extraction, extract_many
from data.sources.sav import list_videos
from data.spec import DatasetSpec
from pipeline.config import parse
from pipeline.environment import free_cores
from pipeline.errors import ConfigError, DataError
from pipeline.progress import ProgressWriter
from pipeline.stop import check_stop
from stages.contract import StageResult, StageSpec
from stages.settings import ExtractStage


def run(spec: StageSpec) -> StageResult:
    """Extract every video of the data set; what is there and whole already is left alone.

    With `launch.shards` the frames have been taken out by `run_part` before, and are only checked here. Raises
    ConfigError when the data set has no `frames` folder to extract into, DataError naming every broken video.
    """
    stage, data, videos = _work_of(spec)
    progress = ProgressWriter(spec.folder, len(videos), unit="video")

    def tell(done: int, total: int, latest: str) -> None:
        progress.update(done)
        check_stop()

    options = ExtractOptions(every=stage.every, quality=stage.quality)
    extraction = extract_many(
        videos, Path(str(data.frames)), options, workers=stage.workers, progress=tell
    )
    extraction.check()
    reports = extraction.reports
    return StageResult(
        stage=spec.name,
        key=spec.key,
        digest=_digest(reports),
        metrics={
            "videos": float(len(reports)),
            "frames": float(sum(report.frames for report in reports)),
            "bytes": float(sum(report.bytes for report in reports)),
        },
        files={"frames": str(data.frames)},
    )


def run_part(spec: StageSpec, number: int, count: int, folder: str) -> None:
    """Extract every `count`-th video of the data set from the `number`-th on; the broken ones are left to `run`."""
    stage, data, videos = _work_of(spec)
    options = ExtractOptions(every=stage.every, quality=stage.quality)
    mine = tuple(str(video) for video in videos[number::count])
    run_shard(Shard(mine, str(data.frames), options, None, stage.workers, folder))


def _work_of(spec: StageSpec) -> tuple[ExtractStage, DatasetSpec, list[Path]]:
    """The stage's settings, its data set, and the videos of that."""
    values = {name: value for name, value in spec.settings.items() if name != "data"}
    stage = parse(ExtractStage, values, where=spec.name)
    data = parse(DatasetSpec, spec.settings["data"], where=stage.dataset)
    if data.format != "sav" or data.frames is None:
        raise ConfigError(
            f"datasets.{stage.dataset}: format {data.format}, frames {data.frames}; extraction needs format sav and "
            "`frames`, the folder to extract into"
        )
    videos = list(list_videos(data))
    if not videos:
        raise DataError(
            f"{data.root} holds no .mp4 file; expected SA-V videos such as sav_000/sav_000001.mp4"
        )
    return stage, data, videos


@dataclass(frozen=True)
class Shard:
    """A part of many videos as a job of its own, on whatever machine it lands."""

    videos: tuple[str, ...]
    out: str
    options: ExtractOptions
    annotations: str | None
    workers: int | None
    """Videos decoded side by side; None: as many as the job has cores."""
    folder: str
    """The job's, where its progress is written."""


def run_shard(job: Shard) -> Extraction:
    """Extract the videos of one shard; those that are broken are in the answer, not an error."""
    progress = ProgressWriter(job.folder, len(job.videos), unit="video")

    def tell(done: int, total: int, latest: str) -> None:
        progress.update(done)
        check_stop()

    return extract_many(
        [Path(video) for video in job.videos],
        Path(job.out),
        job.options,
        annotations=Path(job.annotations) if job.annotations else None,
        workers=job.workers or free_cores(),
        progress=tell,
    )


def is_whole(extraction: Extraction) -> bool:
    """Whether an earlier extraction needs no second look: no video was broken or has changed, and the frames are
    still there."""
    return not extraction.failures and all(map(is_current, extraction.reports))


def _digest(reports: Sequence[ExtractReport]) -> str:
    """Identity of the extracted frames: videos, frame counts and sizes."""
    lines = sorted(f"{Path(r.video).name} {r.frames} {r.bytes}" for r in reports)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()

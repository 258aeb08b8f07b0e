"""Frames out of many videos, several at a time; a broken one is noted and the others go on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data.extract import ExtractOptions, ExtractReport, extract_frames
from pipeline.errors import DataError
from pipeline.workers import call_each

Progress = Callable[[int, int, str], None]
"""Called with videos done, videos in all, and the name of the latest."""


@dataclass(frozen=True)
class Extraction:
    """What came of many videos.

    reports: of those that are whole, in the order they were given. failures: the others, each with
    one line that says why.
    """

    reports: Sequence[ExtractReport] = ()
    failures: dict[str, str] = field(default_factory=dict)

    def check(self) -> None:
        """Raise DataError naming the videos that failed, if any did."""
        if self.failures:
            lines = [self.failures[video] for video in sorted(self.failures)]
            more = f" (and {len(lines) - 3} more)" if len(lines) > 3 else ""
            raise DataError(
                f"{len(lines)} of {len(lines) + len(self.reports)} videos could not be extracted: "
                + "; ".join(lines[:3])
                + more
            )

    def summary(self) -> dict[str, Any]:
        """For a json file: the totals, the failures, and every video's report."""
        return {
            "videos": len(self.reports) + len(self.failures),
            "extracted": sum(not report.reused for report in self.reports),
            "reused": sum(report.reused for report in self.reports),
            "frames": sum(report.frames for report in self.reports),
            "bytes": sum(report.bytes for report in self.reports),
            "failed": [
                {"video": video, "reason": self.failures[video]} for video in sorted(self.failures)
            ],
            "reports": [asdict(report) for report in self.reports],
        }

    @staticmethod
    def merged(parts: Sequence[Extraction]) -> Extraction:
        """Several shards as one, ordered by video."""
        reports = [report for part in parts for report in part.reports]
        failures = {video: why for part in parts for video, why in part.failures.items()}
        return Extraction(sorted(reports, key=lambda report: report.video), failures)


def extract_many(
    videos: Sequence[Path],
    root: Path,
    options: ExtractOptions | None = None,
    *,
    annotations: Path | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> Extraction:
    """Extract every video to `root`/<name without suffix>, `workers` at a time, one core each.

    annotations: a folder of SA-V json files, one for every video, whose frame counts have to be
    those of the videos; by default those found beside the videos are used, where there are any.
    Raises DataError where two videos share a name, StorageError when frames cannot be written.
    """
    videos, options = [Path(video) for video in videos], options or ExtractOptions()
    check_names(videos)
    jobs, failures = _jobs(videos, Path(root), options, annotations)
    reports: dict[Path, ExtractReport] = {}

    order = list(jobs)
    for number, result in call_each(extract_frames, jobs.values(), min(workers, len(jobs))):
        video = order[number]
        try:
            reports[video] = result()
        except DataError as error:
            failures[str(video)] = str(error)
        if progress is not None:
            progress(len(reports) + len(failures), len(videos), video.name)
    return Extraction([reports[video] for video in videos if video in reports], failures)


def check_names(videos: Sequence[Path]) -> None:
    """Raise DataError where two videos would share a folder."""
    names = Counter(video.stem for video in videos)
    name, count = max(names.items(), key=lambda item: item[1], default=("", 0))
    if count > 1:
        where = ", ".join(str(video) for video in videos if video.stem == name)
        raise DataError(
            f"{count} videos are called {name} ({where}), expected different names: their frames "
            "would share a folder; extract them one by one into different ones"
        )


Job = tuple[Path, Path, ExtractOptions, Path | None]


def _jobs(
    videos: Sequence[Path], root: Path, options: ExtractOptions, annotations: Path | None
) -> tuple[dict[Path, Job], dict[str, str]]:
    """The arguments of `extract_frames` for every video, and those whose annotation is missing."""
    listed = None
    if annotations is not None:
        if not annotations.is_dir():
            raise DataError(f"{annotations} is no folder; expected one of SA-V json files")
        listed = {path.name: path for path in sorted(annotations.rglob("*.json"))}
    jobs: dict[Path, Job] = {}
    failures: dict[str, str] = {}
    for video in videos:
        names = [f"{video.stem}{ending}.json" for ending in ("_manual", "_auto", "")]
        if listed is None:
            beside = (video.with_name(name) for name in names[:2])
            found = next((path for path in beside if path.is_file()), None)
        else:
            found = next((listed[name] for name in names if name in listed), None)
            if found is None:
                failures[str(video)] = (
                    f"{video} has no annotation below {annotations}, expected {names[0]}, "
                    f"{names[1]} or {names[2]}; fetch it, or leave the video out"
                )
                continue
        jobs[video] = (video, root / video.stem, options, found)
    return jobs, failures

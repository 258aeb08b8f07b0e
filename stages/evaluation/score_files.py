"""J&F as files: a table of objects and one of videos to read, JSON for programs, and every single
score for `compare`.

Every file says how its numbers were made (law 9): tool, protocol, split, resolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipeline.storage import atomic_file, write_json
from stages.evaluation.details import DETAILS, write_details
from stages.evaluation.jf import ObjectScore, VideoScore, VideoScores

FILES = {
    "objects": "objects.csv",
    "videos": "videos.csv",
    "details": DETAILS,
    "scores": "scores.json",
}
MEANS = ("j", "j_recall", "j_decay", "f", "f_recall", "f_decay", "presence")


def clear_scores(folder: Path) -> None:
    """Remove what an earlier `write_scores` left in `folder`: nothing there shall be taken for the
    score of what is going to be measured."""
    for name in FILES.values():
        (folder / name).unlink(missing_ok=True)


def write_scores(scores: VideoScores, folder: Path) -> dict[str, Path]:
    """Write the files of `FILES` into `folder`; their places by name."""
    places = {name: folder / file for name, file in FILES.items()}
    for name, text in (("objects", results_csv(scores)), ("videos", videos_csv(scores))):
        with atomic_file(places[name]) as file:
            file.write(text.encode())
    write_details(places["details"], videos=scores)
    write_json(places["scores"], as_json(scores))
    return places


def results_csv(scores: VideoScores) -> str:
    """One line per object, in the columns of the reference evaluator's results.csv: percentages
    with one decimal."""
    objects = [
        (video.name, f"{o.object_id:03}", o) for video in scores.videos for o in video.objects
    ]
    return _table(scores, "obj", objects)


def videos_csv(scores: VideoScores) -> str:
    """One line per video with the number of its objects, in columns as those of `results_csv`."""
    videos = [(video.name, str(len(video.objects)), video) for video in scores.videos]
    return _table(scores, "n", [row for row in videos if row[2].objects])


def as_json(scores: VideoScores) -> dict[str, Any]:
    """Everything but the frames' own values: percentages, unrounded."""
    protocol = scores.protocol
    return {
        "tool": f"sam2-pipeline {_version()}",
        "protocol": {
            "text": str(protocol),
            "late_objects": protocol.late_objects,
            "skip_first_and_last": protocol.skip_first_and_last,
            "given": scores.given,
        },
        "split": scores.split,
        "resolution": scores.sizes,
        "videos": len(scores.videos),
        "objects": len(scores.objects),
        "frames": sum(len(score.frames) for score in scores.objects),
        "jf": scores.jf,
        **{name: scores.mean(name) for name in MEANS},
        "jf_returned": scores.jf_returned,
        "by_video": {video.name: _video(video) for video in scores.videos},
    }


def _video(video: VideoScore) -> dict[str, Any]:
    height, width = video.size
    return {
        "resolution": f"{width}x{height}",
        "jf": video.jf if video.objects else None,
        "objects": {str(score.object_id): _object(score) for score in video.objects},
        "unscored": [str(name) for name in video.unscored],
    }


def _object(score: ObjectScore) -> dict[str, Any]:
    return {
        "frames": len(score.frames),
        "jf": score.jf,
        **{name: getattr(score, name) for name in MEANS},
        "jf_returned": score.jf_returned,
    }


def _table(
    scores: VideoScores, second: str, rows: Sequence[tuple[str, str, ObjectScore | VideoScore]]
) -> str:
    width = max(len(name) for name in ("Global score", *(video.name for video in scores.videos)))
    lines = [f"{'sequence':<{width}},{second:>3},  J&F,    J,    F"]
    lines += [
        f"{name:<{width}},{label:>3}, {one.jf:>4.1f}, {one.j:>4.1f}, {one.f:>4.1f}"
        for name, label, one in (("Global score", "", scores), *rows)
    ]
    return "\n".join(lines) + "\n"


def _version() -> str:
    try:
        return version("sam2-pipeline")
    except PackageNotFoundError:
        return "unknown"

"""`evaluate`: its words, and predicted masks against true ones; `flows.measure` takes a checkpoint."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.jobs import add_job_options, add_workers, launch_config
from flows.measure import measure_checkpoint
from pipeline.errors import ConfigError, DataError
from pipeline.storage import require_writable

if TYPE_CHECKING:
    from pipeline.settings import LaunchConfig
    from stages.evaluation.folders import Comparison
    from stages.evaluation.jf import VideoScore, VideoScores

EXAMPLES = """examples:
  predicted masks against the true ones, on 8 cores
    sam2-pipeline evaluate --gt /data/DAVIS/Annotations/480p --pred davis/masks \\
        --split /data/DAVIS/ImageSets/2017/val.txt --workers 8
  … as DAVIS counts objects that appear late, all frames scored
    sam2-pipeline evaluate --gt truth --pred masks --late-objects davis --all-frames
  a checkpoint, whatever its size, on videos and pictures
    sam2-pipeline evaluate --checkpoint runs/smoke/final.pt --videos /data/DAVIS --out runs/davis
  … by what a user needs to correct, in place of the usual
    sam2-pipeline evaluate --checkpoint runs/smoke/final.pt --videos /data/DAVIS \\
        --protocol interactive mode=online frames=4

docs/evaluation.md tells what the numbers mean."""
JOBS = ".jobs"
"""Below the output folder: logs and progress of the jobs."""
NAMED = 5
"""How many names a note lists."""
OF_MASKS = ("predictions", "truth", "partial", "layout", "late_objects", "all_frames", "workers")
OF_WEIGHTS = ("checkpoint", "preset", "image_size", "device", "videos", "images", "protocol")
"""Words that mean something for the one way or the other."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """What may stand on the command line."""
    parser.add_argument(
        "--out", type=Path, default=Path("runs/evaluate"), help="for the results (runs/evaluate)"
    )
    parser.add_argument(
        "--split",
        type=Path,
        metavar="FILE",
        help="only the videos or pictures of this list, one a line; of COCO a word: val2017",
    )
    add_job_options(parser, "videos and pictures")
    masks = parser.add_argument_group("masks against masks")
    masks.add_argument(
        "--pred", "--predictions", dest="predictions", type=Path, help="predicted masks"
    )
    masks.add_argument(
        "--gt", "--truth", dest="truth", type=Path, help="true masks: DAVIS, MOSE or SA-V layout"
    )
    masks.add_argument(
        "--partial", action="store_true", help="score what both folders have; else all or nothing"
    )
    masks.add_argument(
        "--layout", choices=("davis", "sav"), help="label maps, or a folder an object; told by GT"
    )
    masks.add_argument(
        "--late-objects",
        choices=("sav", "davis"),
        help="count objects from their first sight (sav, the default), or on every frame (davis)",
    )
    masks.add_argument(
        "--all-frames", action="store_true", help="score the first and last annotated frame, too"
    )
    add_workers(masks)
    weights = parser.add_argument_group("a checkpoint on data")
    weights.add_argument("--checkpoint", help="weights: a file, URL, runs:/… or models:/…")
    weights.add_argument("--runs", type=Path, default=Path("runs"), help="the runs folder (runs)")
    weights.add_argument("--preset", help="the size the weights must have; found out by itself")
    weights.add_argument("--image-size", type=int, metavar="N", help="the network's input side")
    weights.add_argument("--device", help="cpu, cuda, cuda:1, …; default: a GPU where there is one")
    weights.add_argument("--videos", type=Path, help="a folder in DAVIS, MOSE or SA-V layout")
    weights.add_argument("--images", type=Path, help="a folder in SA-1B or COCO layout")
    weights.add_argument(
        "--protocol",
        action="append",
        nargs="+",
        default=[],
        metavar=("KIND", "key=value"),
        help="in place of the usual: clicks, interactive, coco, occlusion or vos, with its settings",
    )


def evaluate(arguments: argparse.Namespace) -> int:
    """Score, write the results, and say where they are."""
    masks = arguments.predictions or arguments.truth
    for name in OF_WEIGHTS if masks else OF_MASKS:
        if getattr(arguments, name) not in (None, False, []):
            what = "masks against masks" if masks else "a checkpoint, or needs --pred with --gt"
            raise ConfigError(f"evaluate: --{name.replace('_', '-')} does not go with {what}")
    if masks:
        return _score_masks(arguments)
    if not arguments.checkpoint or not (arguments.videos or arguments.images):
        raise ConfigError(
            "evaluate needs --pred with --gt, or --checkpoint with --videos or --images"
        )
    return measure_checkpoint(arguments)


def _score_masks(arguments: argparse.Namespace) -> int:
    """Masks against masks."""
    from flows.parts import progress_bar
    from pipeline.environment import free_cores
    from stages.evaluation.folders import compare, conclude, score_videos
    from stages.evaluation.jf import Protocol
    from stages.evaluation.score_files import clear_scores, write_scores

    for option, words in (("predictions", "--pred"), ("truth", "--gt")):
        folder = getattr(arguments, option)
        if folder is None:
            raise ConfigError(f"evaluate: {words} is missing; masks are held against true ones")
        if not folder.is_dir():
            raise DataError(f"{words} {folder}: there is no such folder")
    comparison = compare(
        arguments.truth.absolute(),
        arguments.predictions.absolute(),
        layout=arguments.layout,
        protocol=Protocol(arguments.late_objects or "sav", not arguments.all_frames),
        names=_names(arguments.split) if arguments.split else (),
        strict=not arguments.partial,
    )
    config = launch_config(arguments, arguments.workers)
    out = require_writable(arguments.out, "output folder")
    clear_scores(out)
    if config is None:
        with progress_bar("J&F") as (bar, task):
            bar.update(task, total=len(comparison.videos))
            workers = min(arguments.workers or free_cores(), len(comparison.videos))
            videos = score_videos(
                comparison, workers, lambda done: bar.update(task, completed=done)
            )
    else:
        videos = _score_in_jobs(comparison, arguments.jobs, config, out / JOBS, arguments.workers)
    scores = conclude(comparison, videos)
    places = write_scores(scores, out)
    print_scores(scores)
    print(f"{out}: {', '.join(place.name for place in places.values())}")
    return 0


def _score_in_jobs(
    comparison: Comparison, jobs: int, config: LaunchConfig, folder: Path, workers: int | None
) -> list[VideoScore]:
    """The videos shared out over jobs; those that are done, of the same files, are not repeated."""
    from flows.parts import progress_bar
    from pipeline.array import launch_array, shard_folders
    from stages.evaluation.folders import Share, score_share

    parts = comparison.parts(jobs)
    each = workers or (1 if config.launcher == "local" else None)
    shares = [
        Share(part, each, str(place))
        for part, place in zip(parts, shard_folders(folder, len(parts)), strict=True)
    ]
    with progress_bar("J&F") as (bar, task):

        def look(progress: Any) -> None:
            done = progress.step if progress else 0
            bar.update(task, completed=done, total=len(comparison.videos))

        found = launch_array(
            score_share, shares, folder, config, name="jf", key=_stamp(comparison), on_poll=look
        )
    return [video for part in found for video in part]


def _stamp(comparison: Comparison) -> str:
    """Changes when one of the compared files does."""
    digest = hashlib.sha256()
    for root in (comparison.truth, comparison.prediction):
        for video in comparison.videos:
            for path in sorted((root / video).rglob("*.png")):
                found = path.stat()
                digest.update(f"{path} {found.st_size} {found.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def print_scores(scores: VideoScores) -> None:
    """The headline, its protocol, and what a reader should know before believing it."""
    from stages.evaluation.jf import listing

    print(f"J&F {scores.jf:.1f}  J {scores.j:.1f}  F {scores.f:.1f}  ({scores.protocol})")
    recall, decay = (
        "  ".join(f"{part.upper()} {scores.mean(f'{part}_{what}'):.1f}" for part in "jf")
        for what in ("recall", "decay")
    )
    print(f"recall {recall}   decay {decay}")
    count = f"{len(scores.objects)} objects in {len(scores.videos)} videos at {scores.sizes}"
    print(f"{count}, split {scores.split[:12]}")
    left = [f"{video.name}/{name}" for video in scores.videos for name in video.unscored]
    if left:
        print(f"no score, as the truth shows them on no scored frame: {listing(left, NAMED)}")
    if scores.j == scores.f == 100:
        print("every mask equals the true one: are the predictions a copy of the truth?")


def _names(file: Path) -> list[str]:
    if not file.is_file():
        raise DataError(f"--split {file}: there is no such file; expected one video a line")
    names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    return [name for name in names if name and not name.startswith("#")]

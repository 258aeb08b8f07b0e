"""The parts of a run as commands of their own, on a person's own files."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline.errors import ConfigError, DataError, StorageError
from pipeline.storage import require_writable, sha256

if TYPE_CHECKING:
    from stages.contract import StageResult
    from stages.settings import ModelChoice


def synth(arguments: argparse.Namespace) -> int:
    """`synth`: a synthetic world in a folder."""
    from data.world.spec import WorldSpec
    from data.world.world import make_world

    spec = WorldSpec(
        seed=arguments.seed,
        train_images=arguments.images,
        train_videos=arguments.videos,
        val_images=arguments.val_images,
        val_videos=arguments.val_videos,
    )
    with progress_bar("drawing") as (bar, task):

        def tell(done: int, total: int, latest: str) -> None:
            bar.update(task, completed=done, total=total)

        world = make_world(spec, arguments.out, progress=tell, workers=arguments.workers)
    how = "was there already" if world.reused else f"drawn in {world.seconds:.0f} s"
    print(f"{world.root}: {how}")
    for name, count in world.counts.items():
        print(f"  {name:<20} {count}")
    return 0


def evaluate(arguments: argparse.Namespace) -> int:
    """`evaluate`: predicted masks against true ones, or a checkpoint on pictures and videos."""
    if arguments.predictions or arguments.truth:
        return _score_masks(arguments)
    if not arguments.checkpoint or not (arguments.videos or arguments.images):
        raise ConfigError(
            "evaluate needs --predictions with --truth, or --checkpoint with --videos or --images"
        )
    result = measure(
        arguments.checkpoint,
        arguments.out,
        chosen_model(arguments),
        images=arguments.images,
        videos=arguments.videos,
    )
    for name, value in result.metrics.items():
        print(f"{name:<20} {value:.4g}")
    for name, place in result.files.items():
        print(f"{name:<20} {place}")
    return 0


def _score_masks(arguments: argparse.Namespace) -> int:
    from stages.evaluation.folders import score_folders

    for option in ("predictions", "truth"):
        folder = getattr(arguments, option)
        if folder is None:
            raise ConfigError(f"evaluate: --{option} is missing; masks are held against true ones")
        if not folder.is_dir():
            raise DataError(f"--{option} {folder}: there is no such folder")
    scores = score_folders(arguments.truth, arguments.predictions, progress=True)
    print(f"J&F {scores.jf:.1f}  J {scores.j:.1f}  F {scores.f:.1f}  ({scores.protocol})")
    return 0


def measure(
    checkpoint: str,
    out: Path,
    model: ModelChoice,
    *,
    images: Path | None,
    videos: Path | None,
) -> StageResult:
    """Run the evaluation stage on a checkpoint outside of any recipe; its results lie in `out`.

    What was measured there before, of the same weights on the same data, is not measured again.
    """
    from pipeline.launch import launch
    from pipeline.settings import LaunchConfig
    from pipeline.tracking import fetch_checkpoint, prepare_store
    from stages.contract import CheckpointRef, StageSpec, read_result, write_spec
    from stages.job import run_stage
    from stages.settings import Evaluation

    folder = require_writable(out, "output folder")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    weights = fetch_checkpoint(checkpoint, "", folder / "cache", uri)
    spec = StageSpec(
        name="evaluate",
        kind="evaluate",
        settings={
            "model": asdict(model),
            "seed": 0,
            "evaluation": asdict(Evaluation()),
            "images": _dataset(images, "images"),
            "videos": _dataset(videos, "videos"),
        },
        folder=str(folder),
        tracking={"uri": uri, "experiment": "evaluate"},
        input=CheckpointRef(str(weights.resolve()), sha256(weights), "", 0, ""),
    )
    result = read_result(folder, spec.key)
    if result is None:
        prepare_store(uri, "evaluate", folder / "artifacts")
        launch(
            run_stage, str(write_spec(spec)), folder, LaunchConfig(), name="evaluate", key=spec.key
        )
        result = read_result(folder, spec.key)
    if result is None:
        raise StorageError(f"the evaluation left no result in {folder}; see {folder / 'logs'}")
    return result


def chosen_model(arguments: argparse.Namespace) -> ModelChoice:
    """The network that --preset and --image-size name."""
    from stages.settings import ModelChoice

    size = arguments.image_size or (96 if arguments.preset == "micro" else 1024)
    return ModelChoice(preset=arguments.preset, image_size=size)


def _dataset(root: Path | None, option: str) -> dict[str, Any] | None:
    """The data set in a folder, told by its layout."""
    from data.layout import video_layout
    from data.spec import DatasetSpec

    if root is None:
        return None
    folder = root.expanduser().absolute()
    if not folder.is_dir():
        raise DataError(f"--{option} {root}: there is no such folder")
    if option == "videos":
        kind = video_layout(folder) or "davis"
    else:
        kind = "coco" if (folder / "annotations").is_dir() else "sa1b"
    return asdict(DatasetSpec(format=kind, root=str(folder)))  # type: ignore[arg-type]


@contextmanager
def progress_bar(what: str) -> Iterator[tuple[Progress, Any]]:
    """A progress bar where there is a terminal to show it."""
    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        yield bar, bar.add_task(what, total=None)

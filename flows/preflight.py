"""What can be known before anything starts: folders, data, weights and space.

A run that must fail should fail in the first second, with a line that says what to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data.world.folder import check_space
from flows.run import Run
from pipeline.errors import CheckpointError, DataError
from pipeline.private import make_private
from pipeline.storage import is_remote, require_space, require_writable
from pipeline.weights_head import HEAD, refused
from stages.contract import TRAINING_KINDS
from stages.recipe import PlannedStage

BYTES_PER_TRAINING = 60_000_000
"""Checkpoints and curves of one training stage of the smallest model."""
MARGIN = 10_000_000
"""For logs and records."""


def check(run: Run) -> None:
    """Raise a PipelineError for the first thing that would stop `run` half way.

    Looks at what the wanted stages need that is not made on the way: the run folder (can we write
    it, and nobody else?), data folders, the given checkpoint, and free space.
    """
    require_writable(make_private(run.recipe.folder), "run folder")
    _require_data(run)
    _require_checkpoint(run.recipe.checkpoint)
    _require_space(run)
    run.require_earlier()


def _require_checkpoint(checkpoint: str | None) -> None:
    """Raise CheckpointError for a local file that is not there, or whose first bytes are not those of weights."""
    if not checkpoint or "://" in checkpoint or checkpoint.startswith("runs:/"):
        return
    path = Path(checkpoint).expanduser()
    if not path.is_file():
        raise CheckpointError(f"checkpoint={checkpoint}: there is no file {path.absolute()}")
    with open(path, "rb") as file:
        if message := refused(f"checkpoint={checkpoint}", file.read(HEAD)):
            raise CheckpointError(message)


def _require_data(run: Run) -> None:
    """Raise DataError with a line for every folder that is not there."""
    missing: dict[str, set[str]] = {}
    for name, folder in _data_folders(run):
        if not is_remote(folder) and not Path(folder).exists():
            missing.setdefault(folder, set()).add(name)
    lines = []
    for folder, found in missing.items():
        names = [name for name in run.recipe.datasets if name in found]
        lines.append(
            f"there is no folder {folder} (data set {', '.join(names)}); "
            f"give the right one with datasets.{names[0]}.root=…"
        )
    if lines:
        raise DataError("\n".join(lines))


def _data_folders(run: Run) -> Iterator[tuple[str, str]]:
    """(name, folder) of every data set that a wanted stage reads and nothing of this run makes."""
    for stage in run.wanted:
        for name, values in _datasets(run, stage):
            root = run.recipe.datasets[name].root
            if not root.startswith(("world:", "run:")):
                yield name, str(values["root"])


def _datasets(run: Run, stage: PlannedStage) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(name, description) of every data set that a stage reads."""
    settings = stage.settings
    if stage.kind == "extract_frames":
        yield settings["dataset"], settings["data"]
    elif stage.kind in TRAINING_KINDS:
        yield from settings["data"].items()
    elif stage.kind == "evaluate" and run.recipe.evaluation is not None:
        more = {f"more.{name}": one for name, one in settings["more"].items()}
        found = {**settings, **more}
        for what, name in run.recipe.evaluation.datasets.items():
            yield name, found[what]


def _require_space(run: Run) -> None:
    """Room for what is not done yet, as far as it can be foreseen."""
    training = 0
    for stage in run.wanted:
        if (run.folder(stage.name) / "done.json").is_file():
            continue
        if stage.kind == "make_world" and run.recipe.world is not None:
            check_space(run.recipe.world, run.recipe.world_folder)
        elif stage.kind in TRAINING_KINDS:
            training += BYTES_PER_TRAINING
    require_space(run.recipe.folder, MARGIN + training, "this run")

"""One stage of a run: reuse what is done, else launch its job, look after it, and read its
result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from flows.run import Run
from flows.watch import Watcher
from pipeline.errors import StageError
from pipeline.launch import launch
from pipeline.progress import Progress
from pipeline.settings import LaunchConfig
from stages.contract import TRAINING_KINDS, StageResult, StageSpec, read_result
from stages.job import run_stage
from stages.recipe import PlannedStage


def perform(run: Run, stage: PlannedStage, watchers: Sequence[Watcher]) -> StageResult:
    """The result of `stage`, made now or before (law 5).

    Raises StageError, with the end of the job's log, when the job ends without a result; whatever
    interrupts the wait (Ctrl-C, a cancelled flow run) has ended the job when it comes out of here.
    """
    spec = run.spec(stage)
    run.settle(spec)
    result = run.finished(spec)
    reused = result is not None
    if result is None:
        for watcher in watchers:
            watcher.stage_begins(spec)
        result = _launch(run, spec, watchers)
    for watcher in watchers:
        watcher.stage_ends(run, spec, result, reused)
    return result


def _launch(run: Run, spec: StageSpec, watchers: Sequence[Watcher]) -> StageResult:
    folder = Path(spec.folder)

    def look(progress: Progress | None) -> None:
        if progress is not None:
            for watcher in watchers:
                watcher.stage_moves(spec, progress)

    launch(
        run_stage,
        str(folder / "spec.json"),
        folder,
        _resources(run.recipe.launch, spec),
        name=f"{run.recipe.folder.name}-{spec.name}",
        key=spec.key,
        on_poll=look,
    )
    result = read_result(folder, spec.key)
    if result is None:
        raise StageError(
            f"stage {spec.name} ended without a result in {folder / 'done.json'}; "
            f"its log is in {folder / 'logs'}"
        )
    return result


def _resources(config: LaunchConfig, spec: StageSpec) -> LaunchConfig:
    """What the job may use: all ranks of the recipe for training, one task for anything else."""
    if spec.kind in TRAINING_KINDS:
        return config
    needs_gpu = spec.kind == "evaluate" and bool(config.gpus_per_node)
    return replace(config, nodes=1, tasks_per_node=1, gpus_per_node=1 if needs_gpu else None)

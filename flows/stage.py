"""One stage of a run: reuse what is done, else launch its job, look after it, and read its
result."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from flows.mirrors import complete_mirrors
from flows.run import Run
from flows.watch import Watcher
from pipeline.array import launch_array, shard_folders
from pipeline.claim import claim
from pipeline.errors import StageError
from pipeline.launch import launch, running_job, wait_for_rest
from pipeline.owner import Owner
from pipeline.progress import Progress, read_progress
from pipeline.settings import LaunchConfig
from stages.contract import TRAINING_KINDS, StageResult, StageSpec, read_result
from stages.job import SHARED_KINDS, Part, run_part, run_stage
from stages.recipe import PlannedStage

logger = logging.getLogger(__name__)


def perform(run: Run, stage: PlannedStage, watchers: Sequence[Watcher]) -> StageResult:
    """The result of `stage`, made now or before (law 5).

    While another flow works on the very same stage, wait for what comes of it. Raises StageError,
    with the end of the job's log, when the job ends without a result; whatever interrupts the wait
    (Ctrl-C, a cancelled flow run) has ended the job when it comes out of here.
    """
    spec = run.spec(stage)
    folder = Path(spec.folder)

    def look(progress: Progress | None) -> None:
        for watcher in watchers:
            watcher.stage_moves(spec, progress)

    def wait(holder: Owner | None) -> None:
        begin()
        look(read_progress(folder))

    @cache
    def begin() -> None:
        for watcher in watchers:
            watcher.stage_begins(spec)

    with claim(folder, key=spec.key, on_wait=wait):
        run.settle(spec)
        result = run.finished(spec)
        reused = result is not None
        if result is None:
            begin()
            try:
                result = _launch(run, spec, look)
            except BaseException:  # also a cancelled flow run
                for watcher in watchers:
                    watcher.stage_fails(spec)
                raise
        else:
            wait_for_rest(folder, run.recipe.launch)
            complete_mirrors(folder)
    for watcher in watchers:
        watcher.stage_ends(run, spec, result, reused)
    return result


def _launch(run: Run, spec: StageSpec, look: Callable[[Progress | None], None]) -> StageResult:
    folder = Path(spec.folder)
    if spec.kind in SHARED_KINDS and run.recipe.launch.shards > 1:
        _share_out(run.recipe.launch, spec, look)
    try:
        launch(
            run_stage,
            str(folder / "spec.json"),
            folder,
            _resources(run.recipe.launch, spec),
            name=f"{run.recipe.folder.name}-{spec.name}",
            key=spec.key,
            on_poll=look,
        )
    except StageError as error:  # it may have failed after its work was done
        result = run.finished(spec)
        if result is None:
            raise
        logger.warning("%s is done, although its job ended badly: %s", spec.name, error)
        return result
    result = read_result(folder, spec.key)
    if result is None:
        raise StageError(
            f"stage {spec.name} ended without a result in {folder / 'done.json'}; "
            f"its log is in {folder / 'logs'}"
        )
    return result


def _share_out(
    config: LaunchConfig, spec: StageSpec, look: Callable[[Progress | None], None]
) -> None:
    """Do the stage's work as the shards of an array, unless it is past that; the stage itself then
    finds it done."""
    folder, count = Path(spec.folder), config.shards
    running = running_job(folder, config)
    if running is not None and running.key == spec.key:
        return
    parts = [
        Part(str(folder / "spec.json"), number, count, str(place))
        for number, place in enumerate(shard_folders(folder, count))
    ]
    launch_array(
        run_part,
        parts,
        folder,
        _resources(config, spec),
        name=f"{folder.parent.name}-{spec.name}",
        key=spec.key,
        on_poll=look,
        valid=lambda _: False,  # what was done before is checked by doing it again
    )


def _resources(config: LaunchConfig, spec: StageSpec) -> LaunchConfig:
    """What the job may use: all ranks of the recipe for training, one task for anything else."""
    if spec.kind in TRAINING_KINDS:
        return config
    share = config.ram_gb and max(1, config.ram_gb // config.tasks_per_node)
    one = replace(config, nodes=1, tasks_per_node=1, gpus_per_node=None, ram_gb=share)
    if spec.kind == "evaluate" and config.gpus_per_node:
        return replace(one, gpus_per_node=1)
    if config.cpu_partition is None:
        return one
    return replace(one, partition=config.cpu_partition, constraint=None)

"""The Prefect flows: `sam2`, a recipe from data to report, and `sam2-stage`, one stage of it.

They decide what runs when and what is handed over; the work happens in jobs that know nothing of
Prefect. Nothing here, and nothing it imports, loads torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from datetime import datetime
from functools import partial
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run
from prefect.states import Cancelled, State

from flows import preflight
from flows.form import AnyStage, RecipeName, StageName
from flows.memory import fit_ahead
from flows.reap import looked_after
from flows.registry import promote
from flows.run import Request, Run
from flows.stage import perform
from flows.tracking import open_parent_run
from flows.watch import PrefectPage, Watcher
from stages.contract import StageResult
from stages.recipe import PlannedStage

_onlookers: ContextVar[tuple[Watcher, ...]] = ContextVar("onlookers", default=())


@contextmanager
def watched_by(watcher: Watcher) -> Iterator[None]:
    """Flows called inside the block also tell `watcher` what happens."""
    token = _onlookers.set((*_onlookers.get(), watcher))
    try:
        yield
    finally:
        _onlookers.reset(token)


def _flow_run_name() -> str:
    given = flow_run.parameters
    what = given.get("run_name") or given.get("recipe") or "sam2"
    stage = given.get("stage")
    when = datetime.now().strftime("%d %b %H:%M")
    return f"{what} / {stage} ({when})" if stage else f"{what} ({when})"


@flow(name="sam2", flow_run_name=_flow_run_name, persist_result=False, retries=0)
def sam2(
    recipe: RecipeName = "smoke",
    overrides: list[str] = [],  # noqa: B006 - Prefect shows the default in its form
    start_at: AnyStage = "",
    stop_after: AnyStage = "",
    checkpoint: str = "",
    run_name: str = "",
) -> Any:
    """Train SAM 2 by a recipe: data, training stages, an evaluation after each, and the report.

    Stages that are done are reused, half-done ones continue, and a job that still runs is joined.

    Args:
        recipe: What is trained on what. `smoke` and `small` make their own data, `three_stage` and
            `finetune` take yours.
        overrides: Changes to the recipe, one `key=value` each, for example
            `stages.video_train.steps=2000` or `seed=1`.
        start_at: First stage to run, one of the recipe. Earlier stages must be done in this run, or
            an input checkpoint be given. Empty: the first.
        stop_after: Last stage to run; its evaluation still follows. Empty: the last.
        checkpoint: Weights for the first stage that runs: a .pt file, a URL, or `runs:/ID/PATH` of
            MLflow. Empty: what the recipe says, or the stage before.
        run_name: Folder below the runs folder; a run of the same name continues where it stopped.
            Empty: the recipe's name, and the seed when it is not 0.
    """
    return conduct(
        Request(
            recipe,
            tuple(overrides),
            start_at=start_at or None,
            stop_after=stop_after or None,
            checkpoint=checkpoint or None,
            run_name=run_name or None,
        )
    )


@flow(name="sam2-stage", flow_run_name=_flow_run_name, persist_result=False, retries=0)
def sam2_stage(
    stage: StageName,
    recipe: RecipeName = "smoke",
    overrides: list[str] = [],  # noqa: B006
    checkpoint: str = "",
    run_name: str = "",
) -> Any:
    """Run one stage of a recipe, or continue it where it stopped; data it needs is made first.

    Args:
        stage: Its name in the recipe, for example `video_train` or `video_train.evaluate`.
        recipe: What is trained on what.
        overrides: Changes to the recipe, one `key=value` each.
        checkpoint: Weights the stage starts from, or measures: a .pt file, a URL, or
            `runs:/ID/PATH` of MLflow. Empty: those of the stage before it in this run.
        run_name: Folder below the runs folder. Empty: the recipe's name, and the seed when it is
            not 0.
    """
    return conduct(
        Request(
            recipe,
            tuple(overrides),
            checkpoint=checkpoint or None,
            run_name=run_name or None,
            stage=stage,
        )
    )


def conduct(request: Request) -> State | None:
    """Go through the stages of `request`; None when all are done, else the state to end in."""
    return go_through(Run.of(request), promote)


def go_through(
    run: Run, after_stage: Callable[[Run, PlannedStage], Sequence[str]] = lambda run, stage: ()
) -> State | None:
    """Go through the stages of `run`, telling Prefect and whoever else looks on; its results are in
    it afterwards. None when all are done, else the state to end in.

    after_stage: called with each stage that is done; the lines it returns are told, too."""
    watchers = (PrefectPage(get_run_logger()), *_onlookers.get())  # type: ignore[arg-type]
    preflight.check(run)
    _tag(run)
    stages = run.wanted
    _tell(watchers, lambda watcher: watcher.run_begins(run, stages))
    fit_ahead(run, lambda line: _tell(watchers, lambda watcher: watcher.run_notes(line)))
    try:
        with _looked_after(run, watchers), open_parent_run(run):
            for stage in stages:
                named = _stage_task.with_options(task_run_name=stage.name)
                used = [run.results[name] for name in _uses(stage) if name in run.results]
                run.results[stage.name] = named(partial(perform, run, stage, watchers), used)
                for line in after_stage(run, stage):
                    _tell(watchers, lambda watcher, line=line: watcher.run_notes(line))  # type: ignore[misc]
    except KeyboardInterrupt:
        return Cancelled(message="stopped by Ctrl-C; the same command continues it")
    _tell(watchers, lambda watcher: watcher.run_ends(run))
    return None


@task(name="stage", cache_policy=NO_CACHE, persist_result=False, retries=0)
def _stage_task(work: Callable[[], StageResult], used: Sequence[StageResult]) -> StageResult:
    """One stage, as Prefect sees it; `used` draws the lines between stages on its page.

    What is done already is decided by our own key, not by Prefect's cache.
    """
    return work()


def _looked_after(run: Run, watchers: Sequence[Watcher]) -> AbstractContextManager[None]:
    """Say what was left behind, and leave nothing unnoticed ourselves."""
    return looked_after(
        run, str(flow_run.id), lambda line: _tell(watchers, lambda w: w.run_notes(line))
    )


def _uses(stage: PlannedStage) -> set[str]:
    """The stages whose results `stage` builds on."""
    return {*stage.after, *([stage.checkpoint_from] if stage.checkpoint_from else [])}


def _tell(watchers: Sequence[Watcher], say: Callable[[Watcher], None]) -> None:
    for watcher in watchers:
        say(watcher)


def _tag(run: Run) -> None:
    """Tags to find the flow run by."""
    tags = {"sam2", run.recipe.name, run.recipe.folder.name}
    with suppress(Exception), get_client(sync_client=True) as client:
        client.update_flow_run(flow_run.id, tags=sorted(tags | set(flow_run.tags)))

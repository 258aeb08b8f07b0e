"""The Prefect flow `mose-finetune`: a fine-tuning every night, held against the night before.

Check the data, train and measure by a recipe, compare with earlier nights on the same videos, and
register the model unless it is worse. Each night is a run of its own, `<run_name>-YYYY-MM-DD`,
seeded with its date; what another night did or failed to do does not touch it.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed, State
from pydantic import Field

from flows.form import RecipeName
from flows.nightly_compare import Outcome, earlier_nights, last_measured, outcome_of
from flows.nightly_data import DataCheck, check_data
from flows.nightly_page import NightPage
from flows.recipe import go_through
from flows.registry import model_name
from flows.run import Request, Run
from pipeline.claim import holder_of
from pipeline.errors import ConfigError, PipelineError
from pipeline.storage import write_json
from stages.contract import read_result

MISSED_AFTER = timedelta(hours=12)
"""A scheduled night that could not begin for so long is left out: the next one is near."""
BY_SCHEDULE = "auto-scheduled"
"""The tag Prefect gives to runs of a schedule."""
HOW_TO_BEGIN = "set SAM2_DATA, or `data` in the deployment's parameters, or pause the schedule"
RECORD_FILE = "nightly.json"
"""In the run folder: how the night ended."""


def _run_name() -> str:
    given = flow_run.parameters
    return f"{given['run_name']}-{given['night'] or _tonight()}"


@flow(name="mose-finetune", flow_run_name=_run_name, persist_result=False, retries=0)
def mose_finetune(
    recipe: RecipeName = "mose_finetune",
    data: str = "",
    checkpoint: str = "",
    overrides: list[str] = [],  # noqa: B006 - Prefect shows the default in its form
    tolerance: Annotated[float, Field(ge=0)] = 0.3,
    alias: str = "mose",
    examine: Annotated[int, Field(ge=0)] = 200,
    keep: Annotated[int, Field(ge=0)] = 0,
    run_name: str = "mose-nightly",
    night: str = "",
) -> Any:
    """Fine-tune for a night, compare with the night before, and register the model unless it is
    worse.

    Args:
        recipe: What is trained on what; it must measure videos after training.
        data: Folder of the training videos (`datasets.train.root`). Empty: what the recipe says.
        checkpoint: Weights to start from: a .pt file, a URL, or `runs:/ID/PATH` of MLflow.
        overrides: Changes to the recipe, one `key=value` each. `seed=0` gives every night the same
            seed; without, the seed is the date.
        tolerance: Points of J&F nobody minds. A night is worse when its mean lost more than that
            and the 95 % interval over videos excludes zero.
        alias: Name in the model registry that moves to this night's model unless it is worse.
        examine: Videos of each data set that are opened before training; 0 opens all.
        keep: Nights whose checkpoints and masks stay in the runs folder; older ones keep their
            figures, and MLflow its copy of their weights. 0 keeps all.
        run_name: Nights of one series have this name and their date as run folder; only nights of
            the same series are compared.
        night: The date, YYYY-MM-DD. Empty: the day this run was scheduled for, in UTC.
    """
    missed = _missed(given=night)
    if missed:
        return missed
    day = _date(night or _tonight())
    words = [f"seed={day:%Y%m%d}", *([f"datasets.train.root={data}"] if data else []), *overrides]
    request = Request(
        recipe, tuple(words), checkpoint=checkpoint or None, run_name=f"{run_name}-{day}"
    )
    run = Run.of(request)
    last_measured(run)  # a recipe that cannot be compared should not train first
    page = NightPage(run)
    checked: DataCheck = _check.with_options(task_run_name="data")(run, examine)
    page.data(checked)
    if unclaimed(run, words):
        return Cancelled(name="Skipped", message=f"{_told(checked.problems)}; {HOW_TO_BEGIN}")
    if checked.problems:
        return Failed(name="DataBroken", message=_told(checked.problems))
    ended = go_through(run)
    if ended is not None:
        return ended
    outcome: Outcome = _compare.with_options(task_run_name="compare")(run, tolerance, alias)
    version = None
    if not outcome.worse:
        version = _promote.with_options(task_run_name="register")(run, outcome, alias)
    page.outcome(outcome, alias, version)
    _record(run, checked, outcome, version)
    if keep:
        for old in clear_nights(run.recipe.folder, keep, outcome.holder):
            get_run_logger().info("%s: checkpoints and masks are removed (keep=%d)", old, keep)
    said = f"{outcome.text}; {outcome.decision(alias, version)}"
    return Failed(name="Worse", message=said) if outcome.worse else Completed(message=said)


@task(name="data", cache_policy=NO_CACHE, persist_result=False, retries=0)
def _check(run: Run, examine: int) -> DataCheck:
    """The doctor's look at the data sets."""
    return check_data(run.recipe, examine)


@task(name="compare", cache_policy=NO_CACHE, persist_result=False, retries=0)
def _compare(run: Run, tolerance: float, alias: str) -> Outcome:
    """Tonight against the last comparable night, and against the one the alias stands at."""
    outcome = outcome_of(run, tolerance, _holder(run, alias))
    get_run_logger().info(outcome.text)
    return outcome


@task(
    name="register", cache_policy=NO_CACHE, persist_result=False, retries=2, retry_delay_seconds=10
)
def _promote(run: Run, outcome: Outcome, alias: str) -> int:
    """A version of the model for tonight's checkpoint, and the alias on it, unless a later night has
    it. Once: a night that is run again finds it done."""
    from pipeline import registry

    uri, model, reference = run.recipe.tracking_uri, model_name(run), outcome.night.checkpoint
    jf = outcome.night.jf
    tags = {
        "night": outcome.night.name,
        "verdict": outcome.against[0].change.verdict if outcome.against else "first",
        "video.jf": f"{jf.mean:.2f}",
        "video.protocol": jf.protocol,
        "video.split": jf.split,
    }
    version = registry.register(
        uri, model, reference.uri, sha256=reference.sha256, run_id=reference.run_id, tags=tags
    )
    if not outcome.late:
        registry.move_alias(uri, model, alias, version)
    return version


def _holder(run: Run, alias: str) -> str | None:
    """The night whose model the alias stands at."""
    from pipeline import registry

    held = registry.version_at(run.recipe.tracking_uri, model_name(run), alias)
    return held.tags.get("night") if held is not None else None


def _record(run: Run, checked: DataCheck, outcome: Outcome, version: int | None) -> None:
    """How the night ended, for whoever reads folders."""
    jf = outcome.night.jf
    write_json(
        run.recipe.folder / RECORD_FILE,
        {
            "night": outcome.night.name,
            "jf": jf.mean,
            "split": jf.split,
            "protocol": jf.protocol,
            "against": [
                {
                    "night": found.before.name,
                    "why": found.why,
                    **asdict(found.change.difference),
                    "verdict": found.change.verdict,
                    "differing": found.differing,
                }
                for found in outcome.against
            ],
            "worse": outcome.worse,
            "version": version,
            "data": [asdict(item) for item in checked.sets],
        },
    )


def clear_nights(tonight: Path, keep: int, holder: str | None) -> list[str]:
    """Remove what is large of the nights before the last `keep`, tonight (a run folder) counted:
    checkpoints, masks, and weights that MLflow has too; the names of the nights where there was any.

    Figures and settings stay, so they can still be compared with. holder: the night whose model the
    alias stands at; it is left alone, as is one that somebody works on.
    """
    earlier = earlier_nights(tonight)
    cleared = []
    for night in earlier[: max(0, len(earlier) + 1 - keep)]:
        stages = [path for path in night.iterdir() if path.is_dir()]
        if night.name == holder or any(holder_of(stage) for stage in stages):
            continue
        large = set[Path]().union(*map(_large, stages))
        for path in large:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if large:
            cleared.append(night.name)
    return cleared


def _large(stage: Path) -> set[Path]:
    """What a stage no longer needs to be compared with."""
    found = {stage / "checkpoints", stage / "masks"}
    with suppress(PipelineError):
        result = read_result(stage)
        if result and result.checkpoint and result.checkpoint.uri.startswith("runs:/"):
            found |= {stage / "model.pt", stage.parent / "final.pt"}
    return {path for path in found if path.exists()}


def _missed(given: str) -> State | None:
    """The state of a scheduled night that comes too late; one that is asked for by its date, or run
    again, does not."""
    late = datetime.now(UTC) - flow_run.scheduled_start_time
    if given or late < MISSED_AFTER or flow_run.run_count > 1:
        return None
    hours = late.total_seconds() / 3600
    return Cancelled(
        name="Missed",
        message=f"scheduled {hours:.0f} hours ago and could not begin; run it with "
        f"--param night={_tonight()} if you want it all the same",
    )


def unclaimed(run: Run, words: list[str]) -> bool:
    """Is this the schedule of somebody who has never said where the data is? One who has, or who
    asks for a night by hand, is told that it is missing."""
    named = "SAM2_DATA" in os.environ or any(word.startswith("datasets.") for word in words)
    folders = [Path(data.root) for data in run.recipe.datasets.values()]
    return BY_SCHEDULE in flow_run.tags and not named and not any(map(Path.exists, folders))


def _tonight() -> str:
    return str(flow_run.scheduled_start_time.astimezone(UTC).date())


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"night={text}: expected a date such as 2026-11-21") from error


def _told(problems: list[str]) -> str:
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"nothing was trained: {problems[0]}{more}"

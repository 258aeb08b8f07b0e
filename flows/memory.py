"""Training stages that are to fit into a card are fitted before anything is queued.

Fitting runs the worst step on tensors without content. That needs torch, so it happens in a process
of its own; the plan is kept in the run's folder, where the stage's job finds it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

from flows.run import Run
from pipeline.errors import ConfigError, StageError
from stages.contract import TRAINING_KINDS
from stages.recipe import PlannedStage
from stages.settings import TrainStage


def fit_ahead(run: Run, say: Callable[[str], None]) -> None:
    """Plan the memory of every wanted training stage that has `memory_gb` and is not done.

    say: hears what is being done, and each plan. Raises ConfigError with numbers for the first
    stage that does not fit.
    """
    asked = [stage for stage in run.wanted if _gigabytes(run, stage) is not None]
    if not asked:
        return
    states = dict(Run.of(run.request).states())
    for stage in asked:
        if states[stage.name] != "done":
            gib = _gigabytes(run, stage)
            say(f"{stage.name}: trying its worst step, to fit it into {gib:g} GiB")
            say(f"{stage.name}: {_fitted(run, stage)}")


def _gigabytes(run: Run, stage: PlannedStage) -> float | None:
    if stage.kind not in TRAINING_KINDS:
        return None
    settings = run.recipe.stages[stage.name]
    assert isinstance(settings, TrainStage)
    return settings.memory_gb


def _fitted(run: Run, stage: PlannedStage) -> str:
    """The plan in words, made or found by a process that may load torch."""
    launch = run.recipe.launch
    question = {
        "name": stage.name,
        "settings": stage.settings,
        "ranks": launch.nodes * launch.tasks_per_node,
        "folder": str(run.folder(stage.name)),
    }
    answer = subprocess.run(
        [sys.executable, "-m", "stages.memory_plan"],
        input=json.dumps(question),
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        found = json.loads(answer.stdout.splitlines()[-1])
        plan, problem = found.get("plan"), found.get("problem")
    except (IndexError, ValueError, AttributeError):
        last = (answer.stderr.strip().splitlines() or ["without a word"])[-1]
        raise StageError(
            f"fitting {stage.name} into its card ended with code {answer.returncode}: {last}; "
            f"`sam2-pipeline plan recipe={run.request.recipe} --memory GIB` shows more"
        ) from None
    if plan is None:
        raise ConfigError(str(problem))
    return str(plan)

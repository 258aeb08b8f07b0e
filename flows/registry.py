"""After an evaluation: the checkpoint becomes a version in the model registry, and aliases move to it, if it passes.

Two gates stand before an alias. The re-load gate: the evaluation fetched the published checkpoint by its reference,
with the digest it was published under, and loaded all of it, strictly and finite; it could not have measured
otherwise. The evaluation gate: it is not worse than the checkpoint the alias points at now, where both were measured
on the same split by the same protocol. What was decided, and why, stands in the version's tags; it is not decided
again when the run is repeated.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flows.run import Run
from pipeline.errors import PipelineError, StorageError
from pipeline.mlflow_store import answers, find_run, first_line
from pipeline.publishing import fetch_checkpoint
from pipeline.registry import Version, move_alias, register, tag_version, version_at, version_of
from pipeline.remote import shown
from pipeline.replay import allowed_name
from stages.contract import StageKind, StageResult, StageSpec, read_result, read_spec
from stages.evaluation.compare import Change, compare
from stages.evaluation.details import DETAILS, read_details
from stages.evaluation.results import open_scored
from stages.evaluation.scored import TITLES, Scored, scored_details
from stages.recipe import PlannedStage

ALIASES: Mapping[StageKind, str] = {
    "image_pretrain": "image-pretrain",
    "video_train": "video",
    "joint_train": "joint",
    "finetune": "finetune",
}
"""Of the newest checkpoint of a kind of stage that passed."""
CHAMPION = "champion"
"""Of the best checkpoint of a size, whatever stage made it."""
METRICS = ("video/jf", "image/miou@3", "image/miou@1")
"""The first of these that an alias's holder has is compared."""
PATIENCE = 15.0
"""Seconds for a sign of life of MLflow; nothing waits for this but the next stage."""
RELOADED = "digest verified, loaded strictly, finite"


@dataclass(frozen=True)
class Measured:
    """A trained stage with its evaluation, both done."""

    trained: StageResult
    kind: StageKind
    spec: StageSpec
    """Of the evaluation."""
    evaluated: StageResult
    folder: Path
    """Of the evaluation."""

    @property
    def model(self) -> str:
        """Its name in the registry: `sam2-base_plus`."""
        return f"sam2-{self.spec.settings['model']['preset']}"


def model_name(run: Run) -> str:
    """The name of a run's network in the model registry."""
    return f"sam2-{run.recipe.model.preset}"


def promote(run: Run, stage: PlannedStage) -> list[str]:
    """After an evaluation: register what it measured and move the aliases it earned; lines that say so.

    Other stages have nothing to register. A store that fails costs a line, never the run; the next time the run is
    repeated it is tried again.
    """
    if stage.kind != "evaluate":
        return []
    try:
        measured = read_measured(run.folder(stage.name))
        if measured is None:
            return []
        if not answers(run.recipe.tracking_uri, PATIENCE):
            return [f"{stage.name}: MLflow does not answer, repeat the run to register its model"]
        return _promote(run.recipe.tracking_uri, measured, run.recipe.tracking.tolerance)
    except PipelineError as error:
        return [f"{stage.name}: not registered ({error})"]


def read_measured(folder: Path) -> Measured | None:
    """What the evaluation in `folder` measured, if it was the checkpoint of the stage beside it (the re-load gate)."""
    trained_folder = folder.with_name(folder.name.removesuffix(".evaluate"))
    if trained_folder == folder or not (trained_folder / "spec.json").is_file():
        return None
    spec, trained_spec = read_spec(folder / "spec.json"), read_spec(trained_folder / "spec.json")
    evaluated, trained = read_result(folder, spec.key), read_result(trained_folder)
    if evaluated is None or trained is None or trained.checkpoint is None or spec.input is None:
        return None
    if spec.input.sha256 != trained.checkpoint.sha256:
        return None  # a checkpoint from elsewhere was measured
    return Measured(trained, trained_spec.kind, spec, evaluated, folder)


def _promote(uri: str, measured: Measured, tolerance: float) -> list[str]:
    reference = measured.trained.checkpoint
    assert reference is not None
    run_id = reference.run_id or _run_of(uri, measured)
    number = register(
        uri, measured.model, reference.uri, sha256=reference.sha256, run_id=run_id,
        tags=_tags(measured), description=_description(measured),
    )  # fmt: skip
    version = version_of(uri, measured.model, reference.sha256, run_id)
    assert version is not None and version.version == number
    lines = [f"{measured.spec.name}: registered as {version.name}"]
    for alias in (ALIASES[measured.kind], CHAMPION):
        lines += _judge(uri, version, measured, alias, tolerance)
    return lines if len(lines) > 1 else []


def _run_of(uri: str, measured: Measured) -> str:
    """The run of a stage that ended before MLflow answered; its journal has been sent since, or not."""
    experiment = str(measured.spec.tracking.get("experiment", "sam2"))
    folder = measured.folder.with_name(measured.trained.stage)
    try:
        return find_run(uri, experiment, measured.trained.key, folder) or ""
    except Exception as error:  # HTTP, SQLAlchemy and MLflow errors share no base
        raise StorageError(
            f"MLflow at {shown(uri)} does not answer ({first_line(error)})"
        ) from None


def _tags(measured: Measured) -> dict[str, str]:
    """What a version says of itself: where it comes from and what it was worth."""
    trained, evaluated = measured.trained, measured.evaluated
    tags = {
        "stage": trained.stage,
        "kind": measured.kind,
        "step": str(trained.step),
        "run": measured.folder.parent.name,
        "reload": RELOADED,
        "evaluation.folder": str(measured.folder),
        "evaluation.run_id": evaluated.run_id,
    }
    known = (name for name in METRICS if name in evaluated.metrics)
    tags |= {allowed_name(name): f"{evaluated.metrics[name]:.4f}" for name in known}
    for figure in _scores(measured).figures.values():
        part = figure.name.split("/")[0]
        tags |= {f"{part}.protocol": figure.protocol, f"{part}.split": figure.split}
    return {name: value for name, value in tags.items() if value}


def _description(measured: Measured) -> str:
    """`joint_train of smoke, step 800: video J&F 71.8, image mIoU@1 0.703`."""
    metrics = measured.evaluated.metrics
    figures = [f"{TITLES[name]} {metrics[name]:.3g}" for name in METRICS if name in metrics]
    trained = measured.trained
    head = f"{trained.stage} of {measured.folder.parent.name}, step {trained.step}"
    return f"{head}: {', '.join(figures)}" if figures else head


def _judge(
    uri: str, version: Version, measured: Measured, alias: str, tolerance: float
) -> list[str]:
    """Move `alias` to `version` or leave it, once for each evaluation, and say why."""
    held, mark = version_at(uri, version.model, alias), f"judged.{alias}"
    if version.tags.get(mark, "").startswith(measured.spec.key[:12]):
        return []
    moves, why = _decide(uri, held, measured, alias, tolerance)
    if moves:
        move_alias(uri, version.model, alias, version.version)
    where = f"is {version.name}" if moves or held is None else f"stays at {held.name}"
    tag_version(uri, version, {mark: f"{measured.spec.key[:12]} {where}: {why}"})
    return [f"  {alias} {where} ({why})"]


def _decide(
    uri: str, held: Version | None, measured: Measured, alias: str, tolerance: float
) -> tuple[bool, str]:
    """Whether the alias moves, and why."""
    if held is None:
        return True, "the first"
    if measured.trained.checkpoint is not None and (
        held.sha256 == measured.trained.checkpoint.sha256
    ):
        return False, "the same weights"
    try:
        change = _change(uri, held, measured, tolerance)
    except PipelineError as error:  # the newest of a stage is that all the same; the best is not
        return alias != CHAMPION, f"not compared: {error}"
    found, scale = change.difference, 100 / change.after.full
    low, high = scale * found.low, scale * found.high
    why = f"{TITLES[change.name]} {scale * found.mean:+.2f} [{low:+.2f}, {high:+.2f}] points: "
    passes = change.verdict != "worse" and (alias != CHAMPION or found.mean >= 0)
    return passes, why + change.verdict


def _change(uri: str, held: Version, measured: Measured, tolerance: float) -> Change:
    """From the holder's scores to ours. Raises DataError or CheckpointError where they cannot be held together."""
    ours, theirs = _scores(measured), _scores_of(uri, held)
    leading = [name for name in METRICS if name in theirs.figures][:1]
    return compare(theirs, ours, tolerance=tolerance, metrics=leading).changes[0]


def _scores(measured: Measured) -> Scored:
    return open_scored(str(measured.folder))


def _scores_of(uri: str, held: Version) -> Scored:
    """The holder's scores: from its run's folder, else from MLflow, where its evaluation put them."""
    folder = held.tags.get("evaluation.folder", "")
    if folder and (Path(folder) / DETAILS).is_file():
        scored = open_scored(folder)
        if scored.sha256 == held.sha256:
            return scored
    with tempfile.TemporaryDirectory() as cache:
        reference = f"runs:/{held.tags.get('evaluation.run_id', 'unknown')}/{DETAILS}"
        return scored_details(
            read_details(fetch_checkpoint(reference, "", cache, uri)), held.name, held.name
        )

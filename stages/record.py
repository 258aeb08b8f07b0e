"""The MLflow run of a stage: what it is told to do, with which code, on what. Loads no torch."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import StorageError
from pipeline.provenance import code_version, environment, packages
from pipeline.redaction import redact, redacted
from pipeline.storage import atomic_file, write_json
from pipeline.tracking import Run, open_run
from stages.contract import TRAINING_KINDS, StageSpec
from stages.data_identity import record_data
from stages.evaluation.jf import Protocol

logger = logging.getLogger(__name__)


def open_stage_run(spec: StageSpec, began: int = 0) -> Run:
    """The MLflow run of this stage, found again when the stage is continued.

    It carries the settings (as params and as config.yaml), the code's version, the environment, the data sets and
    the weights the stage starts from. Secrets in settings are blotted out. began: see `open_run`.
    """
    folder, tracking = Path(spec.folder), spec.tracking
    made_by = {**code_version(), **environment()}
    run = open_run(
        str(tracking.get("uri", "")),
        str(tracking.get("experiment", "sam2")),
        spec.name,
        spec.key,
        folder,
        parent=str(tracking.get("parent") or ""),
        parent_folder=tracking.get("parent_folder"),
        artifacts=tracking.get("artifacts"),
        params=flat(spec.settings),
        tags={
            "stage": spec.name,
            "kind": spec.kind,
            "folder": spec.folder,
            "mlflow.note.content": _note(spec),
            **_input_tags(spec),
            **_validation_tags(spec),
            **made_by,
        },
        began=began,
    )
    attach_settings(run, folder, spec.settings, made_by)
    record_data(run, spec.settings)
    record_data(run, {"data": spec.settings.get("validation", {})}, prefix="validation.")
    return run


def attach_settings(
    run: Run, folder: Path, settings: Mapping[str, Any], made_by: Mapping[str, str]
) -> None:
    """Give a run the files config.yaml and environment.json, without secrets."""
    config, about = folder / "config.yaml", folder / "environment.json"
    try:
        with atomic_file(config, "w", sync=False) as file:
            yaml.safe_dump(redacted(settings), file, sort_keys=False, allow_unicode=True)
        write_json(about, {**made_by, "packages": packages()})
    except (OSError, StorageError) as error:  # a full disk: not worth a stage
        logger.warning("%s gets no config.yaml and environment.json (%s)", folder, error)
        return
    run.log_artifact(config)
    run.log_artifact(about)


def _note(spec: StageSpec) -> str:
    """What a person reads on the run's page."""
    begins = "no weights"
    if spec.input is not None:
        begins = f"`{spec.input.uri}`" + (f" of {spec.input.stage}" if spec.input.stage else "")
    verb = "Measures" if spec.kind == "evaluate" else "Starts from"
    lines = [f"Stage **{spec.name}** of run **{Path(spec.folder).parent.name}** ({spec.kind})."]
    if spec.kind in (*TRAINING_KINDS, "evaluate"):
        lines.append(f"{verb} {begins}.")
    return redact("\n\n".join([*lines, f"Folder: `{spec.folder}`"]))


def _input_tags(spec: StageSpec) -> dict[str, str]:
    """Where the weights come from that the stage starts from or measures."""
    if spec.input is None:
        return {}
    given = spec.input
    tags = {"input.uri": given.uri, "input.sha256": given.sha256}
    return tags | ({"input.stage": given.stage} if given.stage else {})


def _validation_tags(spec: StageSpec) -> dict[str, str]:
    """What the figures of validations while training mean; their data sets are recorded by digest."""
    wanted = (spec.settings.get("stage") or {}).get("validation")
    if not wanted:
        return {}
    items = f"the first {wanted['max_images']} pictures and {wanted['max_videos']} videos of each data set"
    return {"validation.protocol": f"{items}, annotated frames tracked; {Protocol()}"}


def flat(values: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Nested settings as dotted names, for MLflow's parameter table."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{where}.{name}" if where else str(name)
        if isinstance(value, Mapping):
            found.update(flat(value, key))
        else:
            found[key] = value
    return found

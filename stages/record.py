"""The MLflow run of a stage: what it is told to do, with which code, on what. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline.provenance import code_version, environment
from pipeline.redaction import redacted
from pipeline.storage import atomic_file, write_json
from pipeline.tracking import Run, open_run
from stages.contract import StageSpec
from stages.data_identity import record_data


def open_stage_run(spec: StageSpec) -> Run:
    """The MLflow run of this stage, found again when the stage is continued.

    It carries the settings (as params and as config.yaml), the code's version, the environment, the data sets and
    the weights the stage starts from. Secrets in settings are blotted out.
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
        params=flat(spec.settings),
        tags={
            "stage": spec.name,
            "kind": spec.kind,
            "folder": spec.folder,
            **_input_tags(spec),
            **made_by,
        },
    )
    attach_settings(run, folder, spec.settings, made_by)
    record_data(run, spec.settings)
    return run


def attach_settings(
    run: Run, folder: Path, settings: Mapping[str, Any], made_by: Mapping[str, str]
) -> None:
    """Give a run the files config.yaml and environment.json, without secrets."""
    config = folder / "config.yaml"
    with atomic_file(config, "w", sync=False) as file:
        yaml.safe_dump(redacted(settings), file, sort_keys=False, allow_unicode=True)
    write_json(folder / "environment.json", made_by)
    run.log_artifact(config)
    run.log_artifact(folder / "environment.json")


def _input_tags(spec: StageSpec) -> dict[str, str]:
    """Where the weights come from that the stage starts from or measures."""
    if spec.input is None:
        return {}
    given = spec.input
    tags = {"input.uri": given.uri, "input.sha256": given.sha256}
    return tags | ({"input.stage": given.stage} if given.stage else {})


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

"""What flows and stages say to each other: small, serialisable, without torch.

A stage is asked for with a `StageSpec` and answers with a `StageResult`; between stages travels only a
`CheckpointRef`. A stage's folder holds both as `spec.json` and `done.json`; `done.json` is written last and
renamed into place, so a stage either has a result or has none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from pipeline.errors import StageError
from pipeline.storage import write_json

StageKind = Literal[
    "make_world",
    "extract_frames",
    "image_pretrain",
    "video_train",
    "joint_train",
    "finetune",
    "evaluate",
    "report",
]
EVALUATION = ".evaluate"
"""Ends the name of the stage that evaluates another."""
TRAINING_KINDS: tuple[StageKind, ...] = ("image_pretrain", "video_train", "joint_train", "finetune")


@dataclass(frozen=True)
class CheckpointRef:
    """A checkpoint, by place and content."""

    uri: str
    """`runs:/<run id>/<path>` in MLflow, or a file path or URL."""
    sha256: str
    """Digest of the file; verified whenever the reference is opened."""
    stage: str
    """The stage that wrote it; empty for one from outside."""
    step: int
    run_id: str
    """The MLflow run it belongs to; empty for one from outside."""


@dataclass(frozen=True)
class StageSpec:
    """Everything a job needs to know, and nothing it has to ask for."""

    name: str
    """Unique within a run: `video_train`, `video_train.evaluate`."""
    kind: StageKind
    settings: Mapping[str, Any]
    """The resolved configuration that decides the result; part of the key."""
    folder: str
    """Absolute folder of this stage; not part of the key."""
    tracking: Mapping[str, Any] = field(default_factory=dict)
    """Where metrics and checkpoints go (MLflow URI, experiment, parent run); not part of the key."""
    input: CheckpointRef | None = None
    upstream: Mapping[str, str] = field(default_factory=dict)
    """Digests of what earlier stages and data sets hand in, by name; part of the key."""

    @property
    def key(self) -> str:
        """Identity of the work: equal keys mean equal results (law 5)."""
        identity = {
            "name": self.name,
            "kind": self.kind,
            "settings": self.settings,
            "input": self.input.sha256 if self.input else None,
            "upstream": self.upstream,
        }
        text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class StageResult:
    """What a finished stage hands back."""

    stage: str
    key: str
    digest: str
    """Identity of what was produced; enters the keys of the stages that use it."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    checkpoint: CheckpointRef | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    """Files worth opening, by a short name; absolute paths."""
    run_id: str = ""
    step: int = 0
    seconds: float = 0.0


def write_spec(spec: StageSpec) -> Path:
    """Put `spec` into its folder as spec.json and say where."""
    path = Path(spec.folder) / "spec.json"
    write_json(path, asdict(spec))
    return path


def read_spec(path: str | Path) -> StageSpec:
    """The spec of a stage folder. Raises StageError when the file is not one."""
    values = _read(Path(path))
    reference = values.pop("input", None)
    try:
        return StageSpec(**values, input=CheckpointRef(**reference) if reference else None)
    except TypeError as error:
        raise StageError(
            f"{path} is not a stage spec ({error}); delete the folder and run again"
        ) from error


def write_result(folder: str | Path, result: StageResult) -> None:
    """Declare the stage in `folder` done."""
    write_json(Path(folder) / "done.json", asdict(result))


def read_result(folder: str | Path, key: str | None = None) -> StageResult | None:
    """The result of a stage folder, or None when the stage is not done (or done for another `key`)."""
    path = Path(folder) / "done.json"
    if not path.is_file():
        return None
    values = _read(path)
    reference = values.pop("checkpoint", None)
    try:
        result = StageResult(**values, checkpoint=CheckpointRef(**reference) if reference else None)
    except TypeError as error:
        raise StageError(
            f"{path} is not a stage result ({error}); delete it and run again"
        ) from error
    return result if key in (None, result.key) else None


def done_stages(run: Path) -> list[Path]:
    """Folders of the stages of a run that are done, in the order of its recipe (config.yaml), each followed by its
    evaluation; what the recipe does not name, by time, comes first."""
    config = run / "config.yaml"
    recipe = yaml.safe_load(config.read_text(encoding="utf-8")) if config.is_file() else None
    order = list((recipe or {}).get("stages") or ())

    def place(folder: Path) -> tuple[int, bool, int]:
        trained = folder.name.removesuffix(EVALUATION)
        number = order.index(trained) if trained in order else -1
        time = (folder / "done.json").stat().st_mtime_ns
        return number, number >= 0 and trained != folder.name, time

    return sorted((file.parent for file in run.glob("*/done.json")), key=place)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StageError(f"{path} cannot be read ({error}); delete it and run again") from error
    if not isinstance(values, dict):
        raise StageError(f"{path} holds {type(values).__name__}, expected an object; delete it")
    return values

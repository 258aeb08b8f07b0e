"""Checkpoints as the flow sees them: is one still what it was, and what is one that a person
names?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline.errors import CheckpointError, StorageError
from pipeline.mlflow_store import answers
from pipeline.storage import is_remote, sha256
from pipeline.tracking import fetch_checkpoint
from stages.contract import CheckpointRef, StageResult
from stages.recipe import Recipe


def in_place(result: StageResult, recipe: Recipe) -> bool:
    """Are the files of a finished stage there, and is its checkpoint the one it wrote?"""
    if not all(Path(file).exists() for file in result.files.values()):
        return False
    reference = at_hand(result, recipe)
    if reference is None:
        return True
    try:
        fetch_checkpoint(reference.uri, reference.sha256, _cache(recipe), recipe.tracking_uri)
    except (CheckpointError, StorageError):
        return False
    return True


def at_hand(result: StageResult, recipe: Recipe) -> CheckpointRef | None:
    """The checkpoint of a finished stage; while MLflow, which has it, does not answer, by its path in the stage's
    folder, where that file is still the very same."""
    reference, weights = result.checkpoint, result.files.get("weights", "")
    if reference is None or not reference.uri.startswith("runs:/") or answers(recipe.tracking_uri):
        return reference
    try:
        same = sha256(weights) == reference.sha256
    except StorageError:
        return reference
    return replace(reference, uri=weights) if same else reference


def external_checkpoint(words: str, recipe: Recipe) -> CheckpointRef:
    """The reference of a file, URL or `runs:/…` that a person gave; its content is digested now.

    Raises CheckpointError or StorageError when it is not there.
    """
    path = fetch_checkpoint(words, "", _cache(recipe), recipe.tracking_uri)
    elsewhere = is_remote(words) or words.startswith("runs:/")
    run_id = words.removeprefix("runs:/").split("/")[0] if words.startswith("runs:/") else ""
    return CheckpointRef(
        uri=words if elsewhere else str(path.resolve()),
        sha256=sha256(path),
        stage="",
        step=0,
        run_id=run_id,
    )


def _cache(recipe: Recipe) -> Path:
    return recipe.runs_folder / "cache"

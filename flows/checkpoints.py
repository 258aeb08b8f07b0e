"""Checkpoints as the flow sees them: is one still what it was, and what is one that a person
names?"""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import CheckpointError, StorageError
from pipeline.storage import is_remote, sha256
from pipeline.tracking import fetch_checkpoint
from stages.contract import CheckpointRef, StageResult
from stages.recipe import Recipe


def in_place(result: StageResult, recipe: Recipe) -> bool:
    """Are the files of a finished stage there, and is its checkpoint the one it wrote?"""
    if not all(Path(file).exists() for file in result.files.values()):
        return False
    if result.checkpoint is None:
        return True
    try:
        fetch_checkpoint(
            result.checkpoint.uri, result.checkpoint.sha256, _cache(recipe), recipe.tracking_uri
        )
    except (CheckpointError, StorageError):
        return False
    return True


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

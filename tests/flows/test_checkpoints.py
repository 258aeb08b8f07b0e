"""A finished stage stays finished while MLflow, which has its checkpoint, does not answer."""

from pathlib import Path

import pytest

from flows.checkpoints import at_hand, in_place
from pipeline.storage import sha256
from stages.contract import CheckpointRef, StageResult
from stages.recipe import Recipe, load_recipe

DOWN = "http://127.0.0.1:9"


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return load_recipe(["recipe=smoke", f"runs={tmp_path}", f"tracking.uri={DOWN}"])


def test_the_weights_in_the_folder_stand_in_for_those_in_mlflow(recipe: Recipe, tmp_path: Path):
    weights = tmp_path / "model.pt"
    weights.write_text("weights")
    reference = CheckpointRef(
        "runs:/0123/checkpoints/model.pt", sha256(weights), "image", 1, "0123"
    )
    result = StageResult(
        "image", "key", reference.sha256, {}, reference, files={"weights": str(weights)}
    )
    assert in_place(result, recipe)
    found = at_hand(result, recipe)
    assert found is not None and (found.uri, found.sha256) == (str(weights), reference.sha256)
    weights.write_text("other weights")
    assert at_hand(result, recipe) == reference and not in_place(result, recipe)
    weights.unlink()
    assert at_hand(result, recipe) == reference and not in_place(result, recipe)

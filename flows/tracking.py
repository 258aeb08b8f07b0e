"""The MLflow side of a recipe run: one parent run, under which every stage opens its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from flows.run import Run
from pipeline.tracking import open_run, prepare_store


@contextmanager
def open_parent_run(run: Run) -> Iterator[None]:
    """Make the store and the parent run, and let the stages of `run` know where they are.

    The parent belongs to the run's folder, so that a run which is continued stays one run. Raises
    StorageError when the store cannot be used.
    """
    recipe = run.recipe
    uri, experiment = recipe.tracking_uri, recipe.tracking.experiment
    prepare_store(uri, experiment, recipe.runs_folder / "artifacts")
    params = {
        "recipe": recipe.name,
        "seed": recipe.seed,
        "model": recipe.model.preset,
        "image_size": recipe.model.image_size,
        "overrides": " ".join(run.request.overrides),
        "folder": recipe.folder,
    }
    parent = open_run(
        uri, experiment, recipe.folder.name, f"recipe:{recipe.folder}", params=params,
        tags={"recipe": recipe.name, "mlflow.note.content": recipe.description},
    )  # fmt: skip
    run.tracking = {"uri": uri, "experiment": experiment, "parent": parent.run_id}
    status = "KILLED"
    try:
        yield
        status = "FINISHED"
    except Exception:
        status = "FAILED"
        raise
    finally:
        parent.close(status)

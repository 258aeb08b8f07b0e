"""A recipe's data sets for those who look at them before its stages have run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import DataError

if TYPE_CHECKING:
    from data.spec import DatasetSpec
    from stages.recipe import Recipe


def spec_as_it_is(recipe: Recipe, name: str) -> DatasetSpec:
    """The data set `name` of a recipe; frames that are not extracted yet are read from the videos.

    Raises DataError when it lies in a synthetic world that is not drawn yet.
    """
    from data.spec import DatasetSpec
    from pipeline.config import parse
    from pipeline.remote import is_remote
    from stages.recipe import resolve_dataset

    spec = parse(DatasetSpec, resolve_dataset(recipe, name), where=f"datasets.{name}")
    if recipe.datasets[name].root.startswith("world:") and not Path(spec.root).is_dir():
        raise DataError(
            f"datasets.{name}: {spec.root} is not there, expected the recipe's synthetic world; "
            f"draw it with `sam2-pipeline stage world recipe={recipe.name}`"
        )
    if spec.frames and not is_remote(spec.frames) and not Path(spec.frames).is_dir():
        return replace(spec, frames=None)
    return spec

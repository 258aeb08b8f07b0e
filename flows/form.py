"""The types of the flows' parameters: what Prefect's form offers to choose from, and checks before
a run begins."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args, get_type_hints

import yaml
from pydantic import Field

from stages.contract import TRAINING_KINDS
from stages.recipe import CONFIG_DIR, recipe_names
from stages.settings import ModelChoice


def stage_names() -> list[str]:
    """The stages of all recipes there are, in the order of a run."""
    data: list[str] = []
    trained: list[str] = []
    for name in recipe_names():
        recipe = yaml.safe_load(Path(CONFIG_DIR / "recipe" / f"{name}.yaml").read_text("utf-8"))
        data += ["world"] if "world" in recipe else []
        for stage, values in recipe.get("stages", {}).items():
            if values["kind"] in TRAINING_KINDS:
                trained += [stage, f"{stage}.evaluate"]
            else:
                data.append(stage)
    return list(dict.fromkeys(["world", *data, "start.evaluate", *trained, "report"]))


def sizes() -> list[str]:
    """The presets of the network, the smallest first."""
    return list(get_args(get_type_hints(ModelChoice)["preset"]))


RecipeName = Annotated[str, Field(json_schema_extra={"enum": list(recipe_names())})]
"""One of the recipes there are."""
StageName = Annotated[str, Field(json_schema_extra={"enum": list(stage_names())})]
"""A stage of one of them; which recipe has which is checked when the run begins."""
AnyStage = Annotated[str, Field(json_schema_extra={"enum": ["", *stage_names()]})]
"""The same, or none."""
Sizes = Annotated[
    list[str],
    Field(min_length=1, json_schema_extra={"items": {"type": "string", "enum": list(sizes())}}),
]
"""Some of the presets."""

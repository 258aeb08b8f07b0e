"""What prefect.yaml promises: deployments that exist, forms a person can fill in."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.flows import Flow
from prefect.utilities.callables import parameter_schema

from flows.form import sizes, stage_names
from flows.run import Run
from stages.recipe import load_recipe, plan, recipe_names

FILE = yaml.safe_load((Path(__file__).resolve().parents[2] / "prefect.yaml").read_text("utf-8"))
DEPLOYMENTS = {found["name"]: found for found in FILE["deployments"]}


def flow_of(deployment: dict[str, Any]) -> Flow[Any, Any]:
    module, _, name = deployment["entrypoint"].rpartition(".")
    flow = getattr(importlib.import_module(module), name)
    assert isinstance(flow, Flow)
    return flow


def test_the_deployments_have_the_names_that_are_documented():
    names = {f"{flow_of(found).name}/{name}" for name, found in DEPLOYMENTS.items()}
    kinds = "make_world extract_frames image_pretrain video_train joint_train finetune evaluate"
    assert names == {
        "sam2/full-recipe", "mose-finetune/nightly", "sam2-sizes/matrix",
        *(f"sam2-stage/{kind}" for kind in kinds.split()),
    }  # fmt: skip
    docs = Path(__file__).resolve().parents[2] / "docs/prefect.md"
    said = docs.read_text(encoding="utf-8")
    assert all(name.split("/")[1] in said for name in names)


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_every_field_is_described_and_choices_are_lists(name):
    flow = flow_of(DEPLOYMENTS[name])
    fields = parameter_schema(flow).properties
    assert all(field.get("description") for field in fields.values()), fields
    assert not any("anyOf" in field for field in fields.values()), "a plain field to fill in"
    assert fields["recipe"]["enum"] == recipe_names()
    given = DEPLOYMENTS[name]["parameters"]
    for key, value in flow.validate_parameters(given).items():
        assert "enum" not in fields.get(key, {}) or value in fields[key]["enum"]


def test_stages_and_sizes_to_choose_from_are_those_of_the_recipes():
    for recipe in recipe_names():
        assert {stage.name for stage in plan(load_recipe([f"recipe={recipe}"]))} <= {*stage_names()}
    assert {"micro", "tiny", "small", "base_plus", "large"} == {*sizes()}


@pytest.mark.parametrize(
    "name", [name for name, found in DEPLOYMENTS.items() if "stage" in found["parameters"]]
)
def test_the_deployment_of_a_stage_names_one_of_its_recipe(name, request_of):
    given = DEPLOYMENTS[name]["parameters"]
    assert Run.of(request_of(recipe=given["recipe"], stage=given["stage"])).wanted


def test_the_nightly_schedule_says_its_time_zone():
    (schedule,) = DEPLOYMENTS["nightly"]["schedules"]
    assert len(schedule["cron"].split()) == 5 and schedule["timezone"] and schedule["active"]

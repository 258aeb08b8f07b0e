"""The groups and rates of the released MOSE fine-tuning, parameter by parameter."""

import json
from pathlib import Path

import pytest
import torch

from model.config import preset
from model.sam2 import SAM2
from pipeline.optim import build_optimizer
from pipeline.settings import GroupConfig, OptimConfig, ScheduleConfig
from stages.training import layers_above

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "golden" / "optimizer_base_plus.json").read_text(encoding="utf-8")
)
MOSE = OptimConfig(
    lr=5e-6,
    weight_decay=0.1,
    layer_decay=0.9,
    groups=(GroupConfig(pattern="image_encoder.*", lr=3e-6),),
    schedule=ScheduleConfig(shape="cosine", end=0.1),
)


def test_every_parameter_has_the_rate_and_decay_of_the_reference() -> None:
    with torch.device("meta"):
        model = SAM2(preset("base_plus", drop_path=0.1))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizer, rates = build_optimizer(model, MOSE, 100, layers_above(model))
    assert {key: optimizer.defaults[key] for key in ("betas", "eps", "amsgrad", "maximize")} == {
        "betas": tuple(GOLDEN["adamw"]["betas"]),
        "eps": GOLDEN["adamw"]["eps"],
        "amsgrad": False,
        "maximize": False,
    }
    expected = {name: group for group in GOLDEN["groups"] for name in group["names"]}
    found = 0
    for index, where in enumerate(GOLDEN["where"]):
        rates.set(optimizer, round(100 * where))
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                golden = expected[names[id(parameter)]]
                assert group["lr"] == pytest.approx(golden["lr"][index], rel=1e-12)
                assert group["weight_decay"] == golden["weight_decay"][index]
                found += 1
    assert found == len(expected) * len(GOLDEN["where"])


def test_the_groups_are_those_of_the_reference() -> None:
    """But for one: the position maps have rate and decay of the neck, and join its group here."""
    with torch.device("meta"):
        model = SAM2(preset("base_plus"))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizer, _ = build_optimizer(model, MOSE, 100, layers_above(model))
    ours = {frozenset(names[id(p)] for p in g["params"]) for g in optimizer.param_groups}
    theirs = [frozenset(group["names"]) for group in GOLDEN["groups"]]
    neck, position = theirs[2], theirs[-1]
    assert ours == {*theirs[:2], neck | position, *theirs[3:-1]}

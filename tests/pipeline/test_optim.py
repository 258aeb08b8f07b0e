"""Groups and rates follow the facts of the released training (decay, layer decay, schedules)."""

import doctest
import math

import pytest
import torch
from torch import nn

from pipeline import optim
from pipeline.errors import ConfigError
from pipeline.optim import build_optimizer, freeze, multiplier, parameter_table
from pipeline.settings import GroupConfig, OptimConfig, ScheduleConfig


class LayerNorm2d(nn.Module):
    """A layer norm of one's own, which does decay."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(3)), nn.Parameter(torch.zeros(3))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(3))
        self.blocks = nn.ModuleList(nn.Linear(3, 3) for _ in range(4))
        self.norm, self.norm2d, self.head = nn.LayerNorm(3), LayerNorm2d(), nn.Linear(3, 1)


def layers_above(name: str) -> int:
    return 4 - int(name.split(".")[1]) if name.startswith("blocks.") else 0


def settings_of(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, tuple[float, float]]:
    """Parameter name -> (learning rate, weight decay)."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def test_groups_rates_and_decay() -> None:
    model = Net()
    config = OptimConfig(
        lr=5e-6,
        layer_decay=0.9,
        groups=(
            GroupConfig(pattern="blocks.*", lr=3e-6),
            GroupConfig(pattern="blocks.3.*", lr=1e-6),
        ),
    )
    optimizer, _ = build_optimizer(model, config, 10, layers_above)
    found = settings_of(model, optimizer)
    assert len(found) == len(list(model.parameters()))
    assert found["blocks.0.weight"] == (pytest.approx(3e-6 * 0.9**4), 0.1)
    assert found["blocks.3.weight"] == (pytest.approx(1e-6 * 0.9), 0.1)
    assert found["head.weight"] == (5e-6, 0.1)
    undecayed = {name for name, (_, decay) in found.items() if decay == 0}
    assert undecayed == {name for name, _ in model.named_parameters() if "bias" in name} | {
        "norm.weight"
    }


def test_the_published_layer_decay_figures() -> None:
    """base_plus: block 0 of 24 gets 3e-6 * 0.9^24."""
    model = nn.Module()
    model.blocks = nn.ModuleList(nn.Linear(1, 1) for _ in range(24))
    config = OptimConfig(lr=3e-6, layer_decay=0.9)
    optimizer, _ = build_optimizer(model, config, 10, lambda name: 24 - int(name.split(".")[1]))
    assert settings_of(model, optimizer)["blocks.0.weight"][0] == pytest.approx(
        2.39299e-07, rel=1e-5
    )


def test_cosine_has_the_published_values() -> None:
    schedule = ScheduleConfig(shape="cosine", end=0.1)
    found = [5e-6 * multiplier(schedule, step, 100) for step in (0, 25, 50, 99)]
    assert found == pytest.approx([5e-6, 4.34099e-6, 2.75e-6, 5.0111e-7], rel=1e-5)


def test_the_other_schedules() -> None:
    constant = ScheduleConfig(shape="constant", warmup_steps=4)
    assert [multiplier(constant, step, 9) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    linear = ScheduleConfig(shape="linear", end=0.0)
    assert multiplier(linear, 3, 4) == pytest.approx(0.25)
    root = ScheduleConfig(shape="rsqrt", timescale=100, cooldown_steps=10)
    assert multiplier(root, 50, 1000) == 1.0
    assert multiplier(root, 400, 1000) == pytest.approx(0.5)
    assert multiplier(root, 995, 1000) == pytest.approx(math.sqrt(100 / 995) * 0.5)


def test_steps_fall_at_their_shares() -> None:
    falling = ScheduleConfig(shape="step", drops=(0.5, 0.75), drop=0.1)
    found = [multiplier(falling, step, 8) for step in range(8)]
    assert found == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    with pytest.raises(ConfigError, match="drops"):
        ScheduleConfig(shape="step", drops=(3,))
    with pytest.raises(ConfigError, match="drops"):
        ScheduleConfig(shape="cosine", drops=(0.5,))


def test_a_group_says_only_what_it_says() -> None:
    """By class and by name; rate, decay and depth apart from one another."""
    model = Net()
    config = OptimConfig(
        lr=1.0,
        weight_decay=0.1,
        layer_decay=0.5,
        groups=(
            GroupConfig(module="LayerNorm2d", weight_decay=0.0),
            GroupConfig(pattern="blocks.*", lr=2.0),
            GroupConfig(pattern="blocks.0.*", depth_scale=1.0),
            GroupConfig(pattern="*.bias", weight_decay=0.2),
        ),
    )
    found = settings_of(model, build_optimizer(model, config, 10, layers_above)[0])
    assert found["norm2d.weight"] == (1.0, 0.0) and found["norm2d.bias"] == (1.0, 0.2)
    assert found["blocks.0.weight"] == (2.0, 0.1) and found["blocks.3.weight"] == (1.0, 0.1)
    with pytest.raises(ConfigError, match="class 'LayerNorm3d'; did you mean 'LayerNorm2d'"):
        groups = (GroupConfig(module="LayerNorm3d", lr=1.0),)
        build_optimizer(model, OptimConfig(lr=1, groups=groups), 1)


def test_a_group_may_have_its_own_schedule() -> None:
    model = nn.Linear(2, 2)
    falling = ScheduleConfig(shape="linear", end=0.0)
    config = OptimConfig(
        lr=1.0,
        schedule=ScheduleConfig(shape="constant"),
        groups=(GroupConfig(pattern="bias", lr=2.0, schedule=falling),),
    )
    optimizer, rates = build_optimizer(model, config, 10)
    assert rates.set(optimizer, 5) == 1.0
    assert settings_of(model, optimizer) == {"weight": (1.0, 0.1), "bias": (1.0, 0.0)}


def test_frozen_parts_keep_out_of_everything() -> None:
    model = Net().train()
    names = freeze(model, ["blocks.*", "pos_embed"])
    assert "blocks.2.bias" in names and "head.weight" not in names
    assert not model.blocks[0].training and model.head.training
    optimizer, _ = build_optimizer(model, OptimConfig(lr=1.0), 10)
    assert not any(name.startswith("blocks") for name in settings_of(model, optimizer))


def test_the_table_says_what_is_trained() -> None:
    model = Net()
    freeze(model, ["blocks.*", "norm2d.*"])
    table = parameter_table(model, split=["blocks"])
    assert [line.split() for line in table.splitlines()[:-1]] == [
        ["part", "parameters", "trained"],
        ["(its", "own)", "3", "3"],
        *[[f"blocks.{index}", "12", "0"] for index in range(4)],
        ["head", "4", "4"],
        ["norm", "6", "6"],
        ["norm2d", "6", "0"],
        ["total", "67", "13"],
    ]
    assert table.endswith("frozen parameters save 0.0 MiB of optimiser memory")


def test_patterns_that_match_nothing_are_mistakes() -> None:
    with pytest.raises(
        ConfigError, match=r"'block\.\*' matches no parameter; did you mean 'blocks"
    ):
        freeze(Net(), ["block.*"])
    with pytest.raises(ConfigError, match=r"optim.groups: 'hed\.\*'.*'head\.\*'"):
        build_optimizer(Net(), OptimConfig(lr=1, groups=(GroupConfig(pattern="hed.*", lr=1),)), 1)
    with pytest.raises(ConfigError, match="layer_decay"):
        build_optimizer(Net(), OptimConfig(lr=1, layer_decay=0.9), 1)
    model = Net()
    freeze(model, ["*"])
    with pytest.raises(ConfigError, match="nothing is left to train"):
        build_optimizer(model, OptimConfig(lr=1), 1)


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(optim).failed == 0

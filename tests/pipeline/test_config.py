"""Every mistake in a recipe or on the command line is named, and what was meant is guessed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from pipeline.config import compose, did_you_mean, parse
from pipeline.errors import ConfigError
from pipeline.settings import GroupConfig, LaunchConfig, LoopConfig, OptimConfig


@dataclass(frozen=True, kw_only=True)
class Train:
    kind: Literal["image", "video"]
    steps: int = 1


@dataclass(frozen=True, kw_only=True)
class Extract:
    kind: Literal["extract"]
    every: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Recipe:
    name: str
    optim: OptimConfig
    seed: int = 0
    checkpoint: str | None = None
    stages: Mapping[str, Train | Extract] = field(default_factory=dict)
    launch: LaunchConfig = field(default_factory=LaunchConfig)


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    (tmp_path / "recipe").mkdir()
    (tmp_path / "config.yaml").write_text("defaults:\n  - _self_\n  - recipe: smoke\nseed: 0\n")
    (tmp_path / "recipe" / "smoke.yaml").write_text(
        "# @package _global_\nname: smoke\noptim:\n  lr: 1e-4\n"
        "stages:\n  video:\n    kind: video\n    steps: ${seed}\n"
    )
    (tmp_path / "recipe" / "small.yaml").write_text(
        "# @package _global_\nname: small\noptim:\n  lr: ???\n"
    )
    return tmp_path


def load(configs: Path, *words: str) -> Recipe:
    return parse(Recipe, compose(configs, "config", list(words)), "recipe")


def test_files_and_words_become_dataclasses(configs: Path) -> None:
    recipe = load(
        configs,
        "seed=3",
        "optim.schedule.warmup_steps=4",
        "stages.frames.kind=extract",
        "stages.frames.every=[1,2]",
        "launch.tasks_per_node=2",
        "checkpoint=null",
    )
    assert recipe.optim.lr == 1e-4
    assert recipe.optim.schedule.warmup_steps == 4
    assert recipe.stages == {
        "video": Train(kind="video", steps=3),
        "frames": Extract(kind="extract", every=(1, 2)),
    }
    assert recipe.launch.tasks_per_node == 2


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("recipe=smok", ["recipe=smok", "no such recipe", "'smoke'"]),
        ("recipe=zzz", ["expected one of: small, smoke"]),
        ("recipe=small", ["optim.lr", "no value"]),
        ("optim.lrr=3", ["optim.lrr", "no such key", "'lr'"]),
        ("optim.lr=abc", ["optim.lr", "'abc'", "a finite number"]),
        ("optim.lr=nan", ["optim.lr", "a finite number"]),
        ("seed=true", ["seed", "True", "a whole number"]),
        ("seed=1.5", ["seed", "1.5", "a whole number"]),
        ("optim.betas=[1]", ["optim.betas", "a list of 2"]),
        ("stages.video.kind=vidoe", ["stages.video.kind", "'vidoe'", "'video'"]),
        ("stages.v.steps=5", ["did you mean 'video' instead of 'v'"]),
        ("stages.vdeo.steps=5", ["stages.vdeo.kind", "no value", "'video'"]),
        ("launch.launcher=Slurm", ["launch.launcher", "'slurm'"]),
        ("launch.nodes=2", ["launch.nodes", "expected 1"]),
        ("optim.clip=-1", ["optim.clip", "positive"]),
        ("optim=3", ["optim", "expected the settings lr"]),
        ("~name", ["name", "no value", "text"]),
        ("seed", ["'seed' is not a setting", "key=value"]),
        ("seed=1,2", ["several values", "seed=[a,b]"]),
        ("name=a=b c]", ["is not a setting", "quote"]),
        ("name=${nothing}", ["name", "nothing"]),
        ("+stages.x={kind: extract, every: [1,z]}", ["stages.x.every[1]"]),
    ],
)
def test_mistakes_are_named(configs: Path, word: str, expected: list[str]) -> None:
    with pytest.raises(ConfigError) as raised:
        load(configs, word)
    for piece in expected:
        assert piece in str(raised.value)


def test_every_mistake_has_its_line(configs: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        load(configs, "optim.lr=x", "seeed=1")
    assert len(str(raised.value).splitlines()) == 2


def test_nothing_in_a_configuration_is_executed(configs: Path, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    with pytest.raises(ConfigError, match="_target_"):
        load(configs, "optim._target_=os.mkdir", f"optim.path={mark}")
    assert not mark.exists()


def test_near_names() -> None:
    assert did_you_mean("smok", ["smoke", "small"]) == "; did you mean 'smoke'?"
    assert did_you_mean("x", ["b", "a"]) == "; expected one of: a, b"
    assert did_you_mean("x", []) == ""


def test_optional_text_takes_numbers(configs: Path) -> None:
    """`name=2024` is a number to YAML, and a name to whoever typed it."""
    values: dict[str, Any] = {"name": 2024, "optim": {"lr": 1}, "checkpoint": "a.pt"}
    assert parse(Recipe, values, "recipe").name == "2024"


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        *((LaunchConfig, name, 0) for name in ("threads", "cpus", "ram_gb", "parallel", "shards")),
        *((LaunchConfig, name, -1) for name in ("gpus_per_node", "stop_seconds", "poll_seconds")),
        (LoopConfig, "save_seconds", -1),
        (GroupConfig, "depth_scale", -1),
    ],
)
def test_what_cannot_be_meant_is_refused(kind: Any, name: str, value: int) -> None:
    with pytest.raises(ConfigError, match=f"{name}: found {value}, expected {value + 1} or more"):
        kind(**{name: value})

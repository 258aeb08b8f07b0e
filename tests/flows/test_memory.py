"""A stage that is to fit into a card is fitted before anything is queued."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from flows import memory
from flows.memory import fit_ahead
from flows.run import Run
from flows.stage import perform
from pipeline.errors import ConfigError, StageError
from stages.footprint import Footprint
from stages.memory_plan import PLANS, fit_stage


class Planner:
    """Takes the place of the process that plans."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[dict[str, Any]] = []
        self.answer: dict[str, str] = {"plan": "1.00 of 4.00 GiB"}
        self.output: str | None = None
        monkeypatch.setattr(memory.subprocess, "run", self)

    def __call__(self, words: list[str], *, input: str, **_: Any) -> Any:
        assert words[1:] == ["-m", "stages.memory_plan"]
        self.asked.append(json.loads(input))
        output = json.dumps(self.answer) if self.output is None else self.output
        return subprocess.CompletedProcess(words, 1, output, "Traceback\nKilled: no memory\n")


@pytest.fixture
def planner(monkeypatch: pytest.MonkeyPatch) -> Planner:
    return Planner(monkeypatch)


def test_only_stages_that_ask_for_it_are_fitted(request_of, planner: Planner):
    lines: list[str] = []
    fit_ahead(Run.of(request_of()), lines.append)
    assert not planner.asked and not lines
    fit_ahead(Run.of(request_of("stages.video_train.memory_gb=4")), lines.append)
    (asked,) = planner.asked
    assert asked["name"] == "video_train" and asked["settings"]["stage"]["memory_gb"] == 4
    assert asked["ranks"] == 1 and Path(asked["folder"]).name == "video_train"
    assert "into 4 GiB" in lines[0] and lines[1] == "video_train: 1.00 of 4.00 GiB"


def test_stages_that_are_done_or_not_wanted_are_left_alone(request_of, stand_in, planner: Planner):
    fits = ("stages.image_pretrain.memory_gb=4", "stages.joint_train.memory_gb=4")
    run = Run.of(request_of(*fits, stop_after="video_train"))
    for stage in run.wanted:
        run.results[stage.name] = perform(run, stage, ())
    planner.asked.clear()
    fit_ahead(Run.of(request_of(*fits)), [].append)
    assert [asked["name"] for asked in planner.asked] == ["joint_train"]


def test_what_does_not_fit_is_refused_with_the_numbers(request_of, planner: Planner):
    planner.answer = {"problem": "stages.video_train.memory: 4 clips take 9.00 GiB even …"}
    with pytest.raises(ConfigError, match=r"stages\.video_train\.memory: 4 clips take 9\.00 GiB"):
        fit_ahead(Run.of(request_of("stages.video_train.memory_gb=2")), [].append)


@pytest.mark.parametrize("output", ["", "no json\n", "[]"])
def test_a_planner_that_dies_is_told(request_of, planner: Planner, output: str):
    planner.output = output
    with pytest.raises(StageError, match=r"fitting video_train .* code 1: Killed: no memory"):
        fit_ahead(Run.of(request_of("stages.video_train.memory_gb=2")), [].append)


def test_nothing_is_started_when_a_later_stage_does_not_fit(
    request_of, stand_in, planner: Planner, monkeypatch: pytest.MonkeyPatch
):
    import logging

    from flows import recipe

    planner.answer = {"problem": "stages.joint_train.memory: too much"}
    monkeypatch.setattr(recipe, "get_run_logger", lambda: logging.getLogger("test"))
    monkeypatch.setattr(recipe, "_tag", lambda run: None)
    with pytest.raises(ConfigError, match="joint_train"):
        recipe.conduct(request_of("stages.joint_train.memory_gb=2"))
    assert stand_in.ran == []


def test_the_job_finds_the_plan_of_the_flow(request_of, monkeypatch: pytest.MonkeyPatch):
    """Made here with false measurements, found by the real process: nothing is measured twice."""
    monkeypatch.setattr(
        "stages.memory_plan.footprint",
        lambda *_: Footprint(3 << 30, weights=0, optimizer=0, average=0),
    )
    run = Run.of(request_of("stages.video_train.memory_gb=8", stage="video_train"))
    (stage,) = (stage for stage in run.wanted if stage.name == "video_train")
    settings = json.loads(json.dumps(stage.settings))  # as it comes out of spec.json
    made = fit_stage(stage.name, settings, 1, run.folder(stage.name))
    assert (run.recipe.folder / PLANS / "video_train.json").is_file()
    lines: list[str] = []
    fit_ahead(run, lines.append)
    assert lines[1] == f"video_train: {made}" and "3.00 of 8.00 GiB" in lines[1]

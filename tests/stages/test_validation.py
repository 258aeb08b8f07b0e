"""Validation decides the same on every rank and after a restart, and leaves training alone."""

import json
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from model.config import preset
from model.sam2 import SAM2, build_sam2
from pipeline.checkpoint import TrainState
from pipeline.distributed import World
from pipeline.errors import ConfigError, DataError
from pipeline.launch import launch
from pipeline.optim import build_optimizer
from pipeline.settings import LaunchConfig, OptimConfig
from stages import training
from stages.contract import StageResult
from stages.validation import Measure, Validator, best_weights, evaluating, judge
from stages.validation_settings import Validation
from tests.stages import jobs
from tests.stages.conftest import Workshop


def run_of(config: Validation, values: list[dict[str, float]]) -> list[tuple[bool, str]]:
    notes: dict[str, float] = {}
    verdicts = [judge(config, notes, found) for found in values]
    return [(verdict.better, verdict.end) for verdict in verdicts]


def test_a_validation_that_cannot_begin_ends_the_record_of_the_stage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended: list[str] = []
    log = SimpleNamespace(picture_of=lambda *_: None, close=ended.append)

    def fail(*_: object) -> None:
        raise DataError("there is no such folder")

    monkeypatch.setattr(training, "build_validator", fail)
    stage: Any = SimpleNamespace(steps=4)
    nothing: Any = None
    with pytest.raises(DataError):
        training.run_to_end(nothing, stage, nothing, nothing, (), nothing, World(), log)
    assert ended == ["FAILED"]


def test_training_ends_after_so_many_validations_without_improvement() -> None:
    config = Validation(every=10, videos="v", patience=2)
    found = run_of(config, [{"video/jf": value} for value in (40.0, 50.0, 50.0, 49.0)])
    assert [better for better, _ in found] == [True, True, False, False]
    assert [end for _, end in found[:3]] == ["", "", ""]
    assert found[3][1] == "video/jf has not improved for 2 validations"


@pytest.mark.parametrize("action", ["warn", "stop", "roll_back"])
def test_the_guard_against_forgetting(action: str) -> None:
    config = Validation(every=10, images="i", videos="v", forgetting=action)
    figures = [(0.70, 10.0), (0.69, 30.0), (0.68, 60.0)]
    values = [{"image/miou@1": miou, "video/jf": jf} for miou, jf in figures]
    found = run_of(config, values)
    assert [better for better, _ in found] == [True, True, action != "roll_back"]
    expected = "" if action == "warn" else "image/miou@1 fell 2.9% under the stage's start"
    assert found[2][1] == expected


def test_forgetting_is_measured_from_the_start_of_the_stage_not_from_the_restart() -> None:
    config = Validation(every=10, images="i", forgetting="stop")
    notes: dict[str, float] = {}
    judge(config, notes, {"image/miou@1": 0.7})
    restarted = dict(notes)
    assert judge(config, restarted, {"image/miou@1": 0.6}).end


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"every": 0, "videos": "v"}, "every is 0"),
        ({"every": 5}, "nothing to measure"),
        ({"every": 5, "images": "i", "metric": "video/jf"}, "image/miou@1, image/miou@3"),
        ({"every": 5, "videos": "v", "forgetting": "stop"}, "looks at pictures"),
        ({"every": 5, "videos": "v", "forgetting_drop": 2.0}, "forgetting_drop 2.0"),
    ],
)
def test_settings_that_do_not_fit(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Validation(**values)


@pytest.fixture
def state() -> TrainState:
    model = build_sam2(preset("micro")).train()
    optimizer, rates = build_optimizer(model, OptimConfig(lr=1e-3), 10)
    return TrainState(model, optimizer, rates)


def test_the_best_weights_are_kept_and_only_they(state: TrainState, tmp_path: Path) -> None:
    figures = iter([50.0, 60.0, 55.0])
    config = Validation(every=1, videos="v", hand_over="best")
    validate = Validator(lambda model: {"video/jf": next(figures)}, config, World(), tmp_path)
    kept: list[torch.Tensor] = []
    for step in range(3):
        state.step = step
        with torch.no_grad():
            state.model.no_mem_embed.add_(1.0)
        kept.append(state.model.no_mem_embed.detach().clone())
        assert validate(state) == "" and state.scored[0] == step
    assert state.scored == (2, 55.0), "what decides which checkpoint is the best"
    path = best_weights(tmp_path, state.notes)
    assert path is not None
    found = torch.load(path, weights_only=True)["model"]["no_mem_embed"]
    assert torch.equal(found, kept[1])
    path.write_bytes(path.read_bytes()[:-1])
    assert best_weights(tmp_path, state.notes) is None, "damaged"


def test_every_module_gets_its_mode_back() -> None:
    model: SAM2 = build_sam2(preset("micro")).train()
    model.image_encoder.eval()
    before = [module.training for module in model.modules()]
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == before


def validated(workshop: Workshop, **more: Any) -> dict[str, Any]:
    """Settings of the video stage with a validation every second step."""
    settings = deepcopy(dict(workshop.planned["video_train"].settings))
    evaluation = workshop.planned["start.evaluate"].settings
    values = {"every": 2, "images": "i", "videos": "v", "max_images": 2, "max_videos": 2, **more}
    settings["stage"]["validation"] = asdict(Validation(**values))
    data = {"images": evaluation["images"], "videos": evaluation["videos"]}
    return {"stage": settings["stage"], "validation": data}


def test_training_is_the_same_to_the_bit_with_validation(
    workshop: Workshop, pretrained: StageResult, tracked: StageResult
) -> None:
    settings = validated(workshop)
    spec = workshop.spec("video_train", pretrained.checkpoint, place="validated", **settings)
    result = workshop.run(spec)
    assert result.digest == tracked.digest
    rows = (Path(spec.folder) / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(row)["step"] for row in rows if "validation/video/jf" in row]
    assert steps == [0, 2, 4]


def test_the_best_weights_leave_the_stage_where_the_recipe_says_so(
    workshop: Workshop, pretrained: StageResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network forgets at once: the stage ends early and hands back what it was given."""
    figures = iter([0.7, 0.5, 0.4])
    monkeypatch.setattr(
        Measure, "__call__", lambda self, model: {"image/miou@1": next(figures), "video/jf": 1.0}
    )
    settings = validated(workshop, forgetting="roll_back")
    spec = workshop.spec("video_train", pretrained.checkpoint, place="rolled", **settings)
    result = workshop.run(spec)
    assert result.step == 2 and result.checkpoint is not None and result.checkpoint.step == 0
    assert result.digest == pretrained.digest, "the file it began with, byte for byte"


@pytest.mark.slow
def test_two_ranks_measure_what_one_does(workshop: Workshop, pretrained: StageResult) -> None:
    """Both are real jobs; the second shares its items out."""
    found = []
    for ranks in (1, 2):
        folder = workshop.folder / f"measured-{ranks}"
        config = LaunchConfig(tasks_per_node=ranks, threads=1, poll_seconds=0.1)
        settings = validated(workshop)
        given = {"weights": pretrained.files["weights"], "data": settings["validation"]}
        found.append(launch(jobs.measure, given, folder, config, name=f"measure{ranks}"))
    for values in found:
        values.pop("seconds")
    assert found[0] == found[1]

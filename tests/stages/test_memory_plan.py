"""What is predicted is what a real step takes, and what is planned fits with the same gradients."""

from dataclasses import replace
from importlib import import_module

import pytest
import torch

from model.config import SAM2Config, preset
from model.policy import MemorySavings, PromptPolicy
from model.sam2 import build_sam2
from pipeline.errors import ConfigError
from pipeline.settings import OptimConfig
from stages import footprint as footprints
from stages.footprint import BatchShape, BudgetExceededError, Footprint, footprint, worst_plan
from stages.memory_plan import GIB, fit_to_memory, plan_memory, worst_shapes
from stages.recipe import load_recipe
from stages.settings import ModelChoice, TrainStage

STAGE = TrainStage(
    kind="video_train",
    datasets=("clips",),
    steps=10,
    optim=OptimConfig(lr=1e-4),
    prompts=PromptPolicy(
        mask=0, click=1, box=0, initial_frames=1, corrected_frames=1, correction_clicks=1
    ),
)
CLIPS = BatchShape(clips=2, frames=2, objects=2)
PICTURES = BatchShape(clips=4, frames=1, objects=2)


@pytest.fixture(scope="module")
def config() -> SAM2Config:
    return preset("micro")


@pytest.fixture(autouse=True)
def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Budgets of these tests are smaller than what is left free of a card."""
    monkeypatch.setattr("stages.memory_plan.LEAST_ROOM", 0)


@pytest.mark.parametrize(
    ("shape", "savings"),
    [
        (CLIPS, MemorySavings()),
        (PICTURES, MemorySavings(recompute=("trunk", "decoder"), objects_at_once=4)),
    ],
    ids=["clips", "pictures, with savings"],
)
def test_the_prediction_is_what_a_real_step_takes(
    config: SAM2Config, shape: BatchShape, savings: MemorySavings
) -> None:
    """The same step on tensors with content; only attention is replaced, as in the prediction."""
    stage = replace(STAGE, memory=savings)
    predicted = footprint(config, stage, shape)
    torch.manual_seed(0)
    with footprints.fused_attention(None):
        real = footprints._step(build_sam2(config).train(), stage, shape, None)
    assert predicted.weights == real.weights and predicted.optimizer == real.optimizer
    assert predicted.peak == pytest.approx(real.peak, rel=0.02)


def test_a_prediction_leaves_no_trace_in_the_process(config: SAM2Config) -> None:
    """Tables the network keeps are not those of tensors without content."""
    with pytest.raises(BudgetExceededError):
        footprint(config, STAGE, CLIPS, budget=20 << 20)
    torch.manual_seed(0)
    model = build_sam2(config).eval()
    found = model.encode(torch.zeros(1, 3, 96, 96)).s16
    assert type(found) is torch.Tensor and found.isfinite().all()
    for module in ("model.losses", "model.position", "model.sam2", "model.hiera", "model.memory"):
        cached = [v for v in vars(import_module(module)).values() if hasattr(v, "cache_clear")]
        assert all(function in footprints.TABLES for function in cached)


@pytest.mark.slow
def test_more_of_anything_takes_more_and_savings_take_less(config: SAM2Config) -> None:
    plain = footprint(config, STAGE, CLIPS).peak
    for larger in (replace(CLIPS, frames=3), replace(CLIPS, objects=3)):
        assert footprint(config, STAGE, larger).peak > plain
    for savings in (
        MemorySavings(recompute=("trunk",)),
        MemorySavings(recompute=("decoder",)),
        MemorySavings(objects_at_once=1),
    ):
        assert footprint(config, replace(STAGE, memory=savings), CLIPS).peak < plain
    frozen = replace(STAGE, freeze=("image_encoder.*",))
    assert footprint(config, frozen, CLIPS).optimizer < footprint(config, STAGE, CLIPS).optimizer
    with pytest.raises(BudgetExceededError):
        footprint(config, STAGE, CLIPS, budget=plain - 1)


@pytest.mark.slow
def test_the_plan_is_the_cheapest_that_fits(config: SAM2Config) -> None:
    plain = footprint(config, STAGE, CLIPS).peak
    roomy = plan_memory(config, STAGE, [CLIPS], 2 * plain)
    assert roomy.split == 1 and roomy.savings == STAGE.memory
    half = plan_memory(config, STAGE, [CLIPS], round(plain * 0.7 / 0.92))
    assert half.split == 2 and half.savings == STAGE.memory, "splitting costs no arithmetic"
    tight = plan_memory(config, STAGE, [CLIPS], round(plain * 0.6 / 0.92))
    assert tight.savings.recompute and tight.peak <= 0.6 * plain
    applied = tight.applied(replace(STAGE, mixture=replace(STAGE.mixture, video_batch=2)))
    assert applied.mixture.video_batch * applied.loop.accumulate == 2


def test_what_cannot_fit_is_refused_with_numbers(config: SAM2Config, monkeypatch) -> None:
    needs = Footprint(peak=3 * GIB, weights=0, optimizer=0, average=0)

    def measured(config, stage, shape, budget=None) -> Footprint:
        if budget is not None:
            raise BudgetExceededError
        return needs

    monkeypatch.setattr("stages.memory_plan.footprint", measured)
    with pytest.raises(
        ConfigError, match=r"take 3\.00 GiB even .* there are 2\.00 GiB, of .* 1\.84"
    ):
        plan_memory(config, STAGE, [CLIPS], 2 * GIB)


def test_the_worst_batch_of_a_recipe() -> None:
    stage = load_recipe(["recipe=three_stage"]).stages["joint_train"]
    assert isinstance(stage, TrainStage)
    images, videos = worst_shapes(stage, {"image", "video"}, ranks=8)
    assert images == BatchShape(16, 1, 3) and videos == BatchShape(16, 8, 3)
    plan = worst_plan(stage.prompts, 8)
    assert len(plan.initial) == 2 and len(plan.corrected) == 2 and len(plan.on_object[0]) == 7


def test_a_plan_is_kept_for_the_same_question(tmp_path, monkeypatch) -> None:
    asked: list[int] = []

    def measured(config, stage, shape, budget=None) -> Footprint:
        asked.append(shape.clips)
        return Footprint(2**20, 0, 0, 0)

    monkeypatch.setattr("stages.memory_plan.footprint", measured)
    choice = ModelChoice(preset="micro", image_size=96)
    file = tmp_path / "plan.json"
    first = fit_to_memory(choice, STAGE, {"video"}, 1, 4, file)
    count = len(asked)
    assert fit_to_memory(choice, STAGE, {"video"}, 1, 4, file) == first and len(asked) == count
    fit_to_memory(choice, STAGE, {"video"}, 2, 4, file)
    assert len(asked) > count

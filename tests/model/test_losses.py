"""The losses: the reference's numbers, and what must hold for any input."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model import losses as module
from model.losses import clip_loss, judge_masks
from model.policy import LossConfig
from model.types import ClipOutput, FramePrediction
from pipeline.errors import ConfigError
from tests.golden.reader import Golden, normal

STORED = Golden("micro_h_losses.npz")
SETTINGS = {
    "default_ft": LossConfig(),
    "mse": LossConfig(iou_error="mse"),
    "not_all_iou": LossConfig(iou_of_all_candidates=False),
}


def answer(masks: Tensor, ious: Tensor, score: Tensor) -> FramePrediction:
    return FramePrediction(masks, ious, masks[:, :1], score, score)


def output_of(*frames: tuple[FramePrediction, ...]) -> ClipOutput:
    return ClipOutput(frames, frames, (None,) * len(frames), torch.zeros(()))


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize(("scale", "spread"), [("r", 3.0), ("big", 30.0)])
def test_reference(setting: str, scale: str, spread: float) -> None:
    logits = normal(f"A/micro/h/logits_{scale}", 4, 3, 24, 24, scale=spread).requires_grad_()
    ious = STORED.tensor("in:ious").requires_grad_()
    score = STORED.tensor("in:obj").requires_grad_()
    truth = STORED.tensor("in:targets")
    output = output_of(
        (answer(logits, ious, score), answer(0.5 * logits[:, :1], ious[:, :1], 0.5 * score)),
        (answer(logits[:, 1:2], ious[:, 1:2], score),),
    )
    judged = clip_loss(output, torch.stack([truth, truth.roll(1, 0)], 1), SETTINGS[setting], 4.0)
    judged.total.backward()

    name = f"{scale}/{setting}"
    for part, key in zip(judged, ("core_loss", "loss_mask", "loss_dice"), strict=False):
        assert part.item() == pytest.approx(float(STORED.array(f"{name}/{key}")), rel=1e-6)
    assert judged.iou.item() == pytest.approx(float(STORED.array(f"{name}/loss_iou")), rel=1e-6)
    assert judged.object.item() == pytest.approx(
        float(STORED.array(f"{name}/loss_class")), rel=1e-6
    )
    for key, value in (("logits", logits), ("ious", ious), ("obj", score)):
        assert value.grad is not None
        STORED.check(f"{name}/grad_{key}", value.grad, 1e-6 * value.grad.abs().max().item())


def plain(low: Tensor, truth: Tensor, config: LossConfig) -> Tensor:
    """Weighted focal + dice of single masks, spelt out and left to autograd."""
    z = F.interpolate(low, size=truth.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    t = truth.to(z.dtype)
    surprise = F.binary_cross_entropy_with_logits(z, t, reduction="none")
    p = z.sigmoid()
    focal = (0.25 * t + 0.75 * (1 - t)) * (t - p).square() * surprise
    dice = 1 - (2 * (p * t).sum((1, 2)) + 1) / (p.sum((1, 2)) + t.sum((1, 2)) + 1)
    return config.focal * focal.mean((1, 2)) + config.dice * dice


def test_gradient_through_the_upsampling_is_autograds() -> None:
    torch.manual_seed(0)
    low = (3 * torch.randn(5, 3, 6, 8)).requires_grad_()
    truth = torch.rand(5, 24, 32) > 0.6
    weight = torch.rand(5)
    judged = judge_masks(low, truth, LossConfig())
    (gradient,) = torch.autograd.grad((weight * judged.mask).sum(), low)

    chosen = low[torch.arange(5), judged.best][:, None]
    expected = plain(chosen, truth, LossConfig())
    (wanted,) = torch.autograd.grad((weight * expected).sum(), low)
    torch.testing.assert_close(judged.mask, expected)
    torch.testing.assert_close(gradient, wanted, atol=1e-8, rtol=1e-4)


def test_only_the_best_candidate_learns() -> None:
    low = torch.randn(4, 3, 6, 6).requires_grad_()
    judged = judge_masks(low, torch.rand(4, 24, 24) > 0.5, LossConfig())
    judged.mask.sum().backward()
    assert low.grad is not None
    learns = low.grad.abs().sum((2, 3)) > 0
    assert torch.equal(learns, F.one_hot(judged.best, 3).bool())


def test_pieces_do_not_change_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    low = torch.randn(6, 3, 6, 6).requires_grad_()
    output = output_of((answer(low, torch.rand(6, 3), torch.randn(6, 1)),))
    truth = torch.rand(6, 1, 24, 24) > 0.5
    whole = clip_loss(output, truth, LossConfig(), 6.0)
    monkeypatch.setitem(module.PIXELS_AT_ONCE, "cpu", 1)
    for one, other in zip(whole, clip_loss(output, truth, LossConfig(), 6.0), strict=True):
        torch.testing.assert_close(one, other)


def test_absent_objects_answer_only_for_their_presence() -> None:
    low = torch.randn(2, 3, 6, 6).requires_grad_()
    ious = torch.rand(2, 3).requires_grad_()
    score = torch.zeros(2, 1).requires_grad_()
    truth = torch.zeros(2, 1, 24, 24, dtype=torch.bool)
    judged = clip_loss(output_of((answer(low, ious, score),)), truth, LossConfig(), 2.0)
    judged.total.backward()
    assert judged.total.item() == pytest.approx(0.6931472)
    assert judged.focal == judged.dice == judged.iou == 0
    assert low.grad is not None
    assert not low.grad.any()
    assert score.grad is not None
    assert (score.grad > 0).all()


def test_answers_of_certain_absence_stay_finite() -> None:
    low = torch.full((1, 3, 6, 6), -1024.0, requires_grad=True)
    truth = torch.ones(1, 1, 24, 24, dtype=torch.bool)
    judged = clip_loss(
        output_of((answer(low, torch.rand(1, 3), torch.full((1, 1), -9.0)),)),
        truth,
        LossConfig(),
        1.0,
    )
    judged.total.backward()
    assert judged.focal.item() == pytest.approx(256.0)
    assert low.grad is not None
    assert low.grad.isfinite().all()


def test_flicker_costs() -> None:
    steady = torch.full((1, 1, 6, 6), 30.0)
    truth = torch.ones(1, 3, 24, 24, dtype=torch.bool)
    config = LossConfig(temporal=0.5)

    def judged(*frames: Tensor) -> float:
        score = torch.full((1, 1), 9.0)
        steps = [(answer(low, torch.ones(1, 1), score),) for low in frames]
        return clip_loss(output_of(*steps), truth, config, 1.0).temporal.item()

    assert judged(steady, steady, steady) == 0
    assert judged(steady, -steady, steady) == pytest.approx(2.0)


def test_no_objects_are_a_connected_zero() -> None:
    anchor = torch.ones((), requires_grad=True)
    nothing: tuple[tuple[FramePrediction, ...], ...] = ((), ())
    output = ClipOutput(nothing, nothing, (None, None), anchor * 0)
    empty = torch.zeros(0, 2, 24, 24, dtype=torch.bool)
    judged = clip_loss(output, empty, LossConfig(temporal=0.5), 1.0)
    judged.total.backward()
    assert judged.total.item() == 0
    assert anchor.grad is not None


def test_a_negative_weight_is_named() -> None:
    with pytest.raises(ConfigError, match=r"loss\.dice is -1"):
        LossConfig(dice=-1)

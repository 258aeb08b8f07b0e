"""A training step has the reference's losses, clicks and gradients.

Dropout is off and clicks fall at centres, as in the run that made the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from model.losses import clip_loss, judge_masks
from model.policy import LossConfig, PromptKind
from model.prompts import ObjectChance, PromptPlan
from model.sam2 import SAM2, mask_logits
from model.tracker import encode_clip, track_objects
from model.types import ClipOutput
from tests.golden.reader import MICRO, Golden, golden_model, waves

TRAINING = Golden("micro_g_train.npz")
NAMES = [str(name) for name in TRAINING.array("param_names")]


@dataclass(frozen=True)
class Case:
    batch: str
    plan: PromptPlan
    clips: tuple[int, ...]
    """For each object, its clip."""
    loss: LossConfig = field(default_factory=LossConfig)
    train: bool = True


def plan(
    frames: int, kind: PromptKind, initial: tuple[int, ...], corrected: tuple[int, ...], clicks: int
) -> PromptPlan:
    return PromptPlan(
        frames=frames,
        initial=tuple((t, kind) for t in initial),
        corrected=corrected,
        on_object=((False,) * clicks,) * len(corrected),
        click_position="centre",
    )


MASKED = plan(8, "mask", (0,), (), 0)
CASES = {
    "g1_mask": Case("g1", MASKED, (0, 0, 0)),
    "g1_mask_mse_notall": Case(
        "g1", MASKED, (0, 0, 0), LossConfig(iou_error="mse", iou_of_all_candidates=False)
    ),
    "g2_click7": Case("g2", plan(4, "click", (0,), (0,), 7), (0, 0)),
    "g3_corr2frames": Case("g3", plan(6, "click", (0,), (0, 3), 3), (0, 0)),
    "g3_init2cond_points": Case("g3", plan(6, "click", (0, 4), (0, 4), 2), (0, 0)),
    "g4_eval_click": Case("g2", plan(4, "click", (0,), (0,), 7), (0, 0), train=False),
    "g5_image": Case("g5", plan(1, "click", (0,), (0,), 7), (0, 0, 1)),
    "g6_two_videos_2cond": Case("g6", plan(4, "mask", (0, 2), (), 0), (0, 0, 1)),
}


@pytest.fixture(scope="module")
def network() -> Iterator[SAM2]:
    yield golden_model(replace(MICRO, dropout=0.0))


def given_masks(case: Case, masks: Tensor) -> dict[str, float]:
    """What the reference adds for masks taken over as answers: constants, which ours leaves out."""
    extra = dict.fromkeys(("focal", "dice", "object"), 0.0)
    for t, kind in case.plan.initial:
        if kind == "mask":
            judged = judge_masks(mask_logits(masks[:, t, None]), masks[:, t], case.loss)
            extra["focal"] += judged.focal.sum().item() / len(masks)
            extra["dice"] += judged.dice.sum().item() / len(masks)
            extra["object"] += float(np.log1p(np.exp(-10.0)))
    return extra


def check_answers(name: str, output: ClipOutput) -> None:
    for t, steps in enumerate(output.steps):
        assert len(steps) == int(TRAINING.array(f"{name}/t{t}/n_steps"))
        for number, step in enumerate(steps):
            TRAINING.check(f"{name}/t{t}/iou_step{number}", step.ious, 1e-5)
    if f"{name}/clicks_xy" in set(TRAINING.keys()):
        for key, place in (("clicks_xy", 0), ("clicks_label", 1)):
            clicked = [p[place] for p in output.prompts if p is not None]
            initial = len(CASES[name].plan.initial)
            # the file has the first click of every initial frame before any correction
            firsts = [clicks[:, :1] for clicks in clicked[:initial]]
            rest = [clicks[:, 1:] for clicks in clicked[:initial]] + clicked[initial:]
            TRAINING.check(f"{name}/{key}", torch.cat(firsts + rest, 1), 0)


def check_gradients(name: str, network: SAM2) -> None:
    parameters = dict(network.named_parameters())
    without = [n for n in NAMES if parameters[n].grad is None]
    expected = TRAINING.meta["no_grad_params"][name]
    assert (without if isinstance(expected, list) else len(without)) == expected

    grads = {n: p.grad for n, p in parameters.items() if p.grad is not None}
    norms = np.array([grads[n].double().norm().item() if n in grads else 0.0 for n in NAMES])
    stored = np.maximum(np.nan_to_num(TRAINING.array(f"{name}/grad_norms")), 0)
    assert (abs(norms - stored) / (stored + 1e-4 * stored.max())).max() < 2e-3
    total = float(TRAINING.array(f"{name}/total_grad_norm"))
    assert np.sqrt((norms**2).sum()) == pytest.approx(total, rel=1e-4)
    prefix = f"{name}/grad/"
    for key in (key for key in TRAINING.keys() if key.startswith(prefix)):  # noqa: SIM118
        gradient = grads[key.removeprefix(prefix)]
        TRAINING.check(key, gradient, 1e-2 * gradient.abs().max().item() + 1e-6)


@pytest.mark.parametrize("name", CASES)
def test_step(name: str, network: SAM2) -> None:
    case = CASES[name]
    masks = TRAINING.tensor(f"{case.batch}/in:masks").transpose(0, 1)
    frames = case.plan.frames
    clips = torch.tensor(case.clips)
    videos = [
        waves(f"A/micro/{case.batch}/video{v}", frames, 128, 128) for v in range(1 + clips[-1])
    ]
    network.train(case.train).zero_grad(set_to_none=True)
    chance = ObjectChance(0, 0, range(len(videos)), clips)
    output = track_objects(
        network, encode_clip(network, torch.stack(videos)), masks, clips, case.plan, chance
    )
    losses = clip_loss(output, masks, case.loss, float(len(masks)))
    losses.total.backward()

    extra = given_masks(case, masks)
    keys = {"focal": "loss_mask", "dice": "loss_dice", "iou": "loss_iou", "object": "loss_class"}
    total = losses.total.item()
    for part, key in keys.items():
        ours = getattr(losses, part).item() + extra.get(part, 0.0)
        assert ours == pytest.approx(float(TRAINING.array(f"{name}/{key}")), rel=1e-5), key
        total += getattr(case.loss, part) * extra.get(part, 0.0)
    assert total == pytest.approx(float(TRAINING.array(f"{name}/core_loss")), rel=1e-5)
    check_answers(name, output)
    check_gradients(name, network)

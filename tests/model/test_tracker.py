"""Clips through the tracker: objects do not touch each other, and it learns."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.losses import Losses, clip_loss
from model.policy import LossConfig
from model.prompts import ObjectChance, PromptPlan
from model.sam2 import SAM2, build_sam2
from model.tracker import encode_clip, track_objects
from model.types import ClipOutput

SIDE = 96
CLICKED = PromptPlan(4, ((0, "click"),), (0, 2), ((False, True),) * 2)
MASKED = PromptPlan(4, ((0, "mask"),))
PICTURE = PromptPlan(1, ((0, "mask"),), (0,), ((False,),))


@pytest.fixture(scope="module")
def network() -> SAM2:
    torch.manual_seed(0)
    return build_sam2("micro").eval()


def squares(starts: list[tuple[int, int]], frames: int) -> Tensor:
    """Squares of 30 pixels that drift to the right: bool [N, T, S, S]."""
    masks = torch.zeros(len(starts), frames, SIDE, SIDE, dtype=torch.bool)
    for row, (x, y) in enumerate(starts):
        for t in range(frames):
            masks[row, t, y : y + 30, x + 5 * t : x + 5 * t + 30] = True
    return masks


def clip(masks: Tensor) -> Tensor:
    """A picture of the masks, each in its own colour: float [1, T, 3, S, S]."""
    colours = torch.tensor([[2.0, -1, 0], [-1, 2, 0], [0, 0, 2]])[: len(masks)]
    noise = 0.1 * torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    return torch.einsum("nthw,nc->tchw", masks.float(), colours)[None] + noise


def run(
    network: SAM2,
    images: Tensor,
    masks: Tensor,
    clips: list[int],
    plan: PromptPlan,
    slots: tuple[int, ...] = (0, 1),
) -> ClipOutput:
    owner = torch.tensor(clips, dtype=torch.int64)
    return track_objects(
        network, encode_clip(network, images), masks, owner, plan, ObjectChance(0, 0, slots, owner)
    )


def loss_of(output: ClipOutput, masks: Tensor) -> Losses:
    return clip_loss(output, masks, LossConfig(temporal=0.5), max(len(masks), 1.0))


def gradients(network: SAM2) -> dict[str, Tensor]:
    return {n: p.grad for n, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("plan", [CLICKED, MASKED])
@torch.no_grad()
def test_an_object_is_answered_alone_as_in_company(network: SAM2, plan: PromptPlan) -> None:
    first, second = squares([(5, 5), (20, 50)], 4), squares([(10, 30)], 4)
    images = torch.cat([clip(first), clip(second)])
    together = run(network, images, torch.cat([first, second]), [0, 0, 1], plan)
    for row, alone in (
        (0, run(network, images[:1], first[:1], [0], plan)),
        (2, run(network, images[1:], second, [0], plan, slots=(1,))),
    ):
        for many, single in zip(together.steps, alone.steps, strict=True):
            for a, b in zip(many, single, strict=True):
                torch.testing.assert_close(a.low[row], b.low[0], atol=1e-4, rtol=1e-4)
                torch.testing.assert_close(a.pointer[row], b.pointer[0], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_step_replays(network: SAM2) -> None:
    masks = squares([(5, 5)], 4)
    once, again = (run(network, clip(masks), masks, [0], CLICKED) for _ in range(2))
    for a, b in zip(once.steps, again.steps, strict=True):
        assert torch.equal(a[-1].low, b[-1].low)
    assert once.prompts[0] is not None
    assert once.prompts[0].points.shape == (1, 3, 2)
    assert [len(steps) for steps in once.steps] == [3, 1, 3, 1]


@pytest.mark.parametrize("plan", [CLICKED, MASKED, PICTURE])
def test_a_batch_without_objects(network: SAM2, plan: PromptPlan) -> None:
    network.zero_grad(set_to_none=True)
    images = clip(squares([(5, 5)], plan.frames))
    nothing = torch.zeros(0, plan.frames, SIDE, SIDE, dtype=torch.bool)
    losses = loss_of(run(network, images, nothing, [], plan), nothing)
    losses.total.backward()
    assert losses.total.item() == 0
    found = gradients(network)
    assert found
    assert all((grad == 0).all() for grad in found.values())


@pytest.mark.parametrize("plan", [CLICKED, MASKED, PICTURE])
def test_objects_that_are_absent(network: SAM2, plan: PromptPlan) -> None:
    network.zero_grad(set_to_none=True)
    masks = squares([(5, 5), (20, 50)], plan.frames)
    images = clip(masks)
    masks[0, 0] = False
    masks[1] = False
    losses = loss_of(run(network, images, masks, [0, 0], plan), masks)
    losses.total.backward()
    assert all(part.isfinite().all() for part in losses)
    assert all(grad.isfinite().all() for grad in gradients(network).values())


@pytest.mark.parametrize(("plan", "expected"), [(CLICKED, 3), (MASKED, 3), (PICTURE, 0)])
@torch.no_grad()
def test_only_memories_that_are_read_are_encoded(
    network: SAM2, plan: PromptPlan, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = []
    remember = network.remember
    monkeypatch.setattr(
        network, "remember", lambda *args, **kwargs: encoded.append(1) or remember(*args, **kwargs)
    )
    masks = squares([(5, 5)], plan.frames)
    run(network, clip(masks), masks, [0], plan)
    assert len(encoded) == expected


def test_a_mask_prompt_teaches_the_prompt_encoder_on_pictures(network: SAM2) -> None:
    network.zero_grad(set_to_none=True)
    masks = squares([(5, 5)], 1)
    output = run(network, clip(masks), masks, [0], PICTURE)
    assert [len(steps) for steps in output.judged] == [2]
    loss_of(output, masks).total.backward()
    assert any("mask_downscaling" in name for name in gradients(network))


def test_a_clip_of_given_masks_only(network: SAM2) -> None:
    masks = squares([(5, 5)], 2)
    output = run(network, clip(masks), masks, [0], PromptPlan(2, ((0, "mask"), (1, "mask"))))
    losses = loss_of(output, masks)
    losses.total.backward()
    assert losses.object == 0


def test_a_given_mask_is_not_judged(network: SAM2) -> None:
    masks = squares([(5, 5)], 4)
    output = run(network, clip(masks), masks, [0], MASKED)
    assert [len(steps) for steps in output.judged] == [0, 1, 1, 1]


@pytest.mark.parametrize(
    ("starts", "frames", "steps"),
    [([(5, 5)], 2, 30), pytest.param([(5, 5), (20, 50)], 3, 110, marks=pytest.mark.slow)],
)
def test_it_learns_one_clip(starts: list[tuple[int, int]], frames: int, steps: int) -> None:
    """With two objects, later frames can only be right through memory."""
    torch.manual_seed(0)
    network = build_sam2("micro")
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    masks = squares(starts, frames)
    images = clip(masks)
    plan = PromptPlan(frames, ((0, "click"),), (0,), ((False,),))
    owner = torch.zeros(len(starts), dtype=torch.int64)

    def iou() -> float:
        with torch.no_grad():
            output = run(network.eval(), images, masks, owner.tolist(), plan)
        low = torch.stack([answers[-1].low[:, 0] for answers in output.steps], 1)
        found = F.interpolate(low, size=(SIDE, SIDE), mode="bilinear") > 0
        return ((found & masks).sum() / (found | masks).sum()).item()

    assert iou() < 0.3
    network.train()
    for step in range(steps):
        chance = ObjectChance(0, step, [0], owner)
        output = track_objects(network, encode_clip(network, images), masks, owner, plan, chance)
        clip_loss(output, masks, LossConfig(), float(len(masks))).total.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    assert iou() > 0.8

"""One batch of clips through the network, prompted by a plan: the forward pass of training and of
its validation.

A picture is a clip of one frame. All objects of all clips are one batch of N rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from model.memory_bank import MemoryBank
from model.memory_choice import MemoryWindow, frames_read
from model.policy import PromptKind
from model.prompts import Clicks, ObjectChance, PromptPlan, box_corners, correction_click
from model.sam2 import SAM2, mask_logits
from model.types import ClipOutput, FramePrediction, ImageFeatures, Prompts


def encode_clip(
    model: SAM2, images: Tensor, frames_at_once: int | None = None
) -> tuple[ImageFeatures, ...]:
    """See the frames of B clips: per frame, features of B rows.

    images: normalised float [B, T, 3, S, S]. frames_at_once: frames (of all clips) that go through
    the encoder together; None takes all. Frames come first in the batch so that each is a
    contiguous slice: the gradients of all slices are then one concatenation instead of a scatter
    into all frames per frame.
    """
    clips = len(images)
    found: list[ImageFeatures] = []
    for part in images.transpose(0, 1).split(frames_at_once or images.shape[1]):
        seen = model.encode(part.flatten(0, 1))
        levels = [
            level.unflatten(0, (len(part), clips)).unbind(0)
            for level in (seen.s4, seen.s8, seen.s16)
        ]
        found += [seen._replace(s4=s4, s8=s8, s16=s16) for s4, s8, s16 in zip(*levels, strict=True)]
    return tuple(found)


def track_objects(
    model: SAM2,
    frames: Sequence[ImageFeatures],
    masks: Tensor,
    clip_of_object: Tensor,
    plan: PromptPlan,
    chance: ObjectChance,
    window: MemoryWindow | None = None,
) -> ClipOutput:
    """Process the frames in the plan's order: prompt, correct, remember; later frames recall.

    frames: from `encode_clip`; may be empty where there is no object. masks: bool [N, T, S, S], the
    truth that prompts are drawn from. clip_of_object: int64 [N], ascending. window: how memory
    reaches back; by default that of training when the model is in training mode, else the one that
    takes no pointers from the future. Objects never see each other: some of them get the answers
    they get in company.
    """
    if len(masks) == 0:
        nothing: tuple[tuple[FramePrediction, ...], ...] = ((),) * plan.frames
        return ClipOutput(nothing, nothing, (None,) * plan.frames, _anchor(model))
    window = window or MemoryWindow(future_pointers=model.training)
    bank = MemoryBank(model, window, plan.frames)
    initial = dict(plan.initial)
    read = frames_read(plan.order, len(initial), plan.conditioning, window)

    steps: dict[int, tuple[FramePrediction, ...]] = {}
    prompts: dict[int, Prompts | None] = {}
    for t in plan.order:
        features = frames[t].rows(clip_of_object)
        truth = masks[:, t]
        kind = initial.get(t)
        adopted = kind == "mask" and plan.frames > 1
        if adopted:
            steps[t] = (model.adopt_mask(features, truth[:, None]),)
            prompts[t] = None
        else:
            seen = model.unconditioned(features) if kind else bank.recall(t, features)
            steps[t], prompts[t] = _answer(model, seen, features, truth, kind, plan, t, chance)
        last = steps[t][-1]
        memory = None
        if t in read:
            full = mask_logits(truth[:, None]) if adopted else _full(last.low, truth.shape[-2:])
            memory = model.remember(features, full, last.object_score, from_prompt=False)
        bank.keep(t, memory, last.pointer, conditioning=t in plan.conditioning)

    in_order = tuple(steps[t] for t in range(plan.frames))
    given = {t for t, kind in plan.initial if kind == "mask" and plan.frames > 1}
    judged = tuple(() if t in given else answers for t, answers in enumerate(in_order))
    return ClipOutput(
        steps=in_order,
        judged=judged,
        prompts=tuple(prompts[t] for t in range(plan.frames)),
        anchor=frames[0].s16.new_zeros(()) if any(judged) else _anchor(model),
    )


def _anchor(model: SAM2) -> Tensor:
    """A zero that can be differentiated by one of the parameters that are trained."""
    trained = next((p for p in model.parameters() if p.requires_grad), model.no_mem_embed)
    return trained.flatten()[0] * 0


def _answer(
    model: SAM2,
    seen: Tensor,
    features: ImageFeatures,
    truth: Tensor,
    kind: PromptKind | None,
    plan: PromptPlan,
    frame: int,
    chance: ObjectChance,
) -> tuple[tuple[FramePrediction, ...], Prompts | None]:
    """The first answer on a frame and the one after each correction click, and the prompts of the
    last one."""
    clicks, mask = _first_prompt(kind, truth, plan, chance)
    prompts = Prompts(clicks.points, clicks.labels, mask)
    answers = [_decode(model, seen, features, prompts)]
    for on_object in plan.clicks_on(frame):
        low = answers[-1].low
        guess = None if on_object else _full(low.detach(), truth.shape[-2:])[:, 0] > 0
        clicks = clicks.then(correction_click(truth, guess, chance, plan.click_position))
        prompts = Prompts(clicks.points, clicks.labels, low)
        answers.append(_decode(model, seen, features, prompts))
    return tuple(answers), prompts if clicks.labels.shape[1] else None


def _first_prompt(
    kind: PromptKind | None, truth: Tensor, plan: PromptPlan, chance: ObjectChance
) -> tuple[Clicks, Tensor | None]:
    """What the user gives before seeing any answer; nothing on a tracked frame."""
    if kind == "click":
        return correction_click(truth, None, chance, plan.click_position), None
    if kind == "box":
        return box_corners(truth, chance, plan.box_jitter), None
    nothing = Clicks(
        torch.zeros(len(truth), 0, 2, device=truth.device),
        torch.zeros(len(truth), 0, dtype=torch.int32, device=truth.device),
    )
    if kind == "mask":
        coarse = F.interpolate(mask_logits(truth[:, None]), scale_factor=0.25, mode="area")
        return nothing, coarse
    return nothing, None


def _decode(
    model: SAM2, seen: Tensor, features: ImageFeatures, prompts: Prompts
) -> FramePrediction:
    """Three candidates while the prompt is ambiguous (at most one point), one afterwards."""
    return model.decode(seen, features, prompts, multimask=prompts.labels.shape[1] <= 1)


def _full(low: Tensor, size: torch.Size) -> Tensor:
    """Mask logits at the resolution of the model's input."""
    return F.interpolate(low.float(), size=size, mode="bilinear", align_corners=False)

"""What a clip's predictions are worth: focal + dice + IoU + presence, after the released SAM 2.1 training.

Masks are judged at the resolution of the input, but no full-resolution tensor outlives its judgement: `_JudgedMasks`
differentiates in closed form on the way forward and keeps one low-resolution gradient per object.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from model.policy import LossConfig
from model.types import ClipOutput, FramePrediction

FOCAL_ALPHA = 0.25
"""Weight of object pixels in the focal loss; background pixels have 1 - alpha."""
PIXELS_AT_ONCE = 1 << 24
"""Bound on the full-resolution pixels judged together."""


class Losses(NamedTuple):
    """The loss of a clip. All are scalars, already divided by the number of objects; only `total` has a gradient."""

    total: Tensor
    """The weighted sum."""
    focal: Tensor
    dice: Tensor
    iou: Tensor
    object: Tensor
    temporal: Tensor


class Judgement(NamedTuple):
    """What R masks of one candidate set are worth; every entry float32."""

    mask: Tensor
    """[R], focal and dice of the best candidate, weighted; the only one with a gradient."""
    focal: Tensor
    """[R], mean over pixels, of the best candidate."""
    dice: Tensor
    """[R], of the best candidate."""
    best: Tensor
    """int64 [R], the candidate with the least weighted focal + dice."""
    ious: Tensor
    """[R, M], IoU of each candidate with the truth."""


def clip_loss(
    output: ClipOutput, masks: Tensor, config: LossConfig, num_objects: Tensor | float
) -> Losses:
    """Judge every prediction of a clip, those before each correction included.

    masks: bool [N, T, S, S]. num_objects: what sums over objects are divided by; the mean over ranks (and over
    accumulated batches) of the objects per batch, at least 1. Frames and clicks are summed, not averaged. On frames
    where an object is absent only its presence is judged. Without objects the loss is a zero with a gradient.
    """
    sums: list[Tensor] = []
    judged = [(t, step) for t, steps in enumerate(output.judged) for step in steps]
    for count in sorted({step.candidates.shape[1] for _, step in judged}):
        group = [(t, step) for t, step in judged if step.candidates.shape[1] == count]
        truth = masks[:, [t for t, _ in group]].transpose(0, 1).flatten(0, 1)
        sums.append(_judge_steps([step for _, step in group], truth, config))
    if config.temporal > 0:
        sums.append(_temporal(output, masks))
    nothing = output.anchor.float()
    parts = (torch.stack(sums).sum(0) if sums else nothing.new_zeros(6)) / num_objects
    total, focal, dice, iou, presence, temporal = (parts + nothing).unbind()
    total = total + config.temporal * temporal
    return Losses(total, *(part.detach() for part in (focal, dice, iou, presence, temporal)))


def judge_masks(logits: Tensor, truth: Tensor, config: LossConfig) -> Judgement:
    """Compare candidate masks with the truth at full resolution.

    logits: [R, M, h, w] at any resolution; truth: bool [R, S, S]. Focal is averaged over pixels, dice has +1 in
    numerator and denominator.
    """
    return Judgement(*_JudgedMasks.apply(logits.float(), truth, config.focal, config.dice))


def _judge_steps(steps: Sequence[FramePrediction], truth: Tensor, config: LossConfig) -> Tensor:
    """Sums over rows: total, focal, dice, iou, presence and a zero for temporal. truth: bool [R, S, S]."""
    candidates = torch.cat([step.candidates for step in steps])
    estimates = torch.cat([step.ious for step in steps]).float()
    scores = torch.cat([step.object_score for step in steps]).float()[:, 0]
    present = truth.flatten(1).any(1).float()

    at_once = max(1, PIXELS_AT_ONCE // (truth.shape[-1] * truth.shape[-2] * candidates.shape[1]))
    pieces = [
        judge_masks(c, m, config)
        for c, m in zip(candidates.split(at_once), truth.split(at_once), strict=True)
    ]
    judged = pieces[0] if len(pieces) == 1 else Judgement(*map(torch.cat, zip(*pieces, strict=True)))

    error = estimates - judged.ious
    error = error.abs() if config.iou_error == "l1" else error.square()
    if config.iou_of_all_candidates:
        iou = error.mean(1)
    else:
        iou = error.gather(1, judged.best[:, None])[:, 0]
    presence = F.binary_cross_entropy_with_logits(scores, present, reduction="none")
    total = present * (judged.mask + config.iou * iou) + config.object * presence
    rows = [total, present * judged.focal, present * judged.dice, present * iou, presence]
    return torch.stack([*rows, torch.zeros_like(total)]).sum(1)


def _temporal(output: ClipOutput, masks: Tensor) -> Tensor:
    """Sum over objects and neighbouring frames, both showing the object, of the mean squared change of probability."""
    probabilities = torch.stack([steps[-1].low.float()[:, 0] for steps in output.steps], 1).sigmoid()
    change = (probabilities[:, 1:] - probabilities[:, :-1]).square().flatten(2).mean(2)
    present = masks.flatten(2).any(2)
    both = present[:, 1:] & present[:, :-1]
    total = (change * both).sum()
    return torch.stack([torch.zeros_like(total)] * 5 + [total])


class _JudgedMasks(torch.autograd.Function):
    """Judgement of masks whose gradient is ready before anyone asks for it.

    With z a full-resolution logit, wrongness u = z where the truth is background and -z where it is object,
    s = sigmoid(u): focal = a·s²·softplus(u), so d focal/du = a·s²·(2(1-s)·softplus(u) + s).
    """

    @staticmethod
    def forward(
        ctx: Any, low: Tensor, truth: Tensor, focal_weight: float, dice_weight: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        rows, count = low.shape[:2]
        side = truth.shape[-2:]
        logits = F.interpolate(low, size=side, mode="bilinear", align_corners=False)
        sign = 1 - 2 * truth[:, None].float()
        wrong = (logits * sign).sigmoid_()
        # softplus(u) = -log(1 - sigmoid(u)) loses all digits for large u
        surprise = F.softplus(logits * sign)
        weight = torch.where(truth, FOCAL_ALPHA, 1 - FOCAL_ALPHA)[:, None]
        factor = weight * wrong.square()
        focal = (factor * surprise).flatten(2).mean(2)

        real = truth[:, None].flatten(2)
        area = real.sum(2).float()
        missed = (wrong.flatten(2) * real).sum(2)
        overlap = area - missed
        extent = wrong.flatten(2).sum(2) - missed + overlap + area + 1
        dice = 1 - (2 * overlap + 1) / extent

        found = logits.flatten(2) > 0
        shared = (found & real).sum(2)
        union = (found | real).sum(2).clamp(min=1)
        ious = shared / union

        best = (focal_weight * focal + dice_weight * dice).argmin(1)
        row = torch.arange(rows, device=low.device)
        best_focal, best_dice = focal[row, best], dice[row, best]
        if ctx.needs_input_grad[0]:
            s, u, f = wrong[row, best], surprise[row, best], factor[row, best]
            slope = f * (2 * (1 - s) * u + s) * (focal_weight / (side[0] * side[1]))
            by_extent = (2 * overlap + 1)[row, best] / extent[row, best] ** 2
            by_overlap = 2 / extent[row, best]
            sign = sign[:, 0]
            toward = torch.where(truth, (by_overlap - by_extent)[:, None, None], by_extent[:, None, None])
            slope = (slope + dice_weight * toward * s * (1 - s)) * sign
            with torch.enable_grad():
                chosen = low.detach()[row, best][:, None].requires_grad_()
                full = F.interpolate(chosen, size=side, mode="bilinear", align_corners=False)
            (gradient,) = torch.autograd.grad(full, chosen, slope[:, None])
            ctx.save_for_backward(gradient, best)
            ctx.count = count
        ctx.mark_non_differentiable(best_focal, best_dice, best, ious)
        return focal_weight * best_focal + dice_weight * best_dice, best_focal, best_dice, best, ious

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, None, None, None]:
        gradient, best = ctx.saved_tensors
        scaled = gradient * upstream[0][:, None, None, None]
        if ctx.count > 1:
            full = scaled.new_zeros(scaled.shape[0], ctx.count, *scaled.shape[2:])
            full[torch.arange(len(best), device=best.device), best] = scaled[:, 0]
            scaled = full
        return scaled, None, None, None

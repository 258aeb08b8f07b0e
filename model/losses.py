"""What a clip's predictions are worth: focal + dice + IoU + presence, after the released SAM 2.1
training.

Masks are judged at the resolution of the input, but no full-resolution tensor outlives its
judgement: `_JudgedMasks` differentiates in closed form on the way forward and keeps one
low-resolution gradient per object.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from model.policy import LossConfig
from model.types import ClipOutput, FramePrediction

FOCAL_ALPHA = 0.25
"""Weight of object pixels in the focal loss; background pixels have 1 - alpha."""
PIXELS_AT_ONCE = {"cpu": 1 << 18, "cuda": 1 << 25}
"""About how many full-resolution pixels are judged together: what stays in a CPU's cache, what
keeps a GPU busy."""


AREAS = {"absent": 0.0, "small": 0.0, "medium": (32 / 640) ** 2, "large": (96 / 640) ** 2}
"""Sizes of objects and the share of the picture from which each counts: COCO's 32 and 96 pixels, at
COCO's usual 640. Absent objects are a size of their own."""


class Losses(NamedTuple):
    """The loss of a clip, already divided by the number of objects; only `total` has a
    gradient."""

    total: Tensor
    """Scalar, the weighted sum."""
    focal: Tensor
    """Scalar, as the following ones; not weighted."""
    dice: Tensor
    iou: Tensor
    object: Tensor
    temporal: Tensor
    by_area: Tensor
    """[2, 4]: the weighted sum (without temporal) over the answers about objects of each of AREAS,
    and the number of such answers."""


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

    masks: bool [N, T, S, S]. num_objects: what sums over objects are divided by; the mean over
    ranks (and over accumulated batches) of the objects per batch, at least 1. Frames and clicks are
    summed, not averaged. On frames where an object is absent only its presence is judged. Without
    objects the loss is a zero with a gradient.
    """
    sums: list[Tensor] = []
    by_area = masks.new_zeros(2, len(AREAS), dtype=torch.float32)
    judged = [(t, step) for t, steps in enumerate(output.judged) for step in steps]
    for count in sorted({step.candidates.shape[1] for _, step in judged}):
        group = [(t, step) for t, step in judged if step.candidates.shape[1] == count]
        truth = masks[:, [t for t, _ in group]].transpose(0, 1).flatten(0, 1)
        judged_sums, sizes = _judge_steps([step for _, step in group], truth, config)
        sums.append(judged_sums)
        by_area = by_area + sizes
    if config.temporal > 0 and judged:
        sums.append(_temporal(output, masks))
    nothing = output.anchor.float()
    parts = (torch.stack(sums).sum(0) if sums else nothing.new_zeros(6)) / num_objects
    total, focal, dice, iou, presence, temporal = (parts + nothing).unbind()
    total = total + config.temporal * temporal
    return Losses(
        total=total,
        focal=focal.detach(),
        dice=dice.detach(),
        iou=iou.detach(),
        object=presence.detach(),
        temporal=temporal.detach(),
        by_area=by_area / num_objects,
    )


def judge_masks(logits: Tensor, truth: Tensor, config: LossConfig) -> Judgement:
    """Compare candidate masks with the truth at full resolution.

    logits: [R, M, h, w] at any resolution; truth: bool [R, S, S]. Focal is averaged over pixels,
    dice has +1 in numerator and denominator.
    """
    return Judgement(*_JudgedMasks.apply(logits.float(), truth, config.focal, config.dice))


def _judge_steps(
    steps: Sequence[FramePrediction], truth: Tensor, config: LossConfig
) -> tuple[Tensor, Tensor]:
    """Sums over rows: total, focal, dice, iou, presence and a zero for temporal; and `by_area`.
    truth: bool [R, S, S]."""
    candidates = torch.cat([step.candidates for step in steps])
    estimates = torch.cat([step.ious for step in steps]).float()
    scores = torch.cat([step.object_score for step in steps]).float()[:, 0]
    area = truth.flatten(1).float().mean(1)
    present = (area > 0).float()

    limit = PIXELS_AT_ONCE.get(truth.device.type, 1 << 25)
    at_once = max(1, limit // (truth[0].numel() * candidates.shape[1]))
    pieces = [
        judge_masks(c, m, config)
        for c, m in zip(candidates.split(at_once), truth.split(at_once), strict=True)
    ]
    judged = (
        pieces[0] if len(pieces) == 1 else Judgement(*map(torch.cat, zip(*pieces, strict=True)))
    )

    error = estimates - judged.ious
    error = error.abs() if config.iou_error == "l1" else error.square()
    best = error.gather(1, judged.best[:, None])[:, 0]
    iou = error.mean(1) if config.iou_of_all_candidates else best
    presence = F.binary_cross_entropy_with_logits(scores, present, reduction="none")
    total = present * (judged.mask + config.iou * iou) + config.object * presence
    rows = [total, present * judged.focal, present * judged.dice, present * iou, presence]
    return torch.stack([*rows, torch.zeros_like(total)]).sum(1), _by_area(area, total.detach())


def _by_area(area: Tensor, values: Tensor) -> Tensor:
    """[2, 4]: sums of `values` [R] over the sizes of `area` [R] (shares of the picture), counts."""
    _, _, medium, large = AREAS.values()
    size = (area > 0).long() + (area >= medium).long() + (area >= large).long()
    member = F.one_hot(size, len(AREAS)).float()
    return torch.stack([values @ member, member.sum(0)])


def _temporal(output: ClipOutput, masks: Tensor) -> Tensor:
    """Sum over objects and neighbouring frames, both showing the object, of the mean squared change
    of probability."""
    probabilities = torch.stack(
        [steps[-1].low.float()[:, 0] for steps in output.steps], 1
    ).sigmoid()
    change = (probabilities[:, 1:] - probabilities[:, :-1]).square().flatten(2).mean(2)
    present = masks.flatten(2).any(2)
    both = present[:, 1:] & present[:, :-1]
    total = (change * both).sum()
    return torch.stack([torch.zeros_like(total)] * 5 + [total])


class _JudgedMasks(torch.autograd.Function):
    """Judgement of masks whose gradient is ready before anyone asks for it.

    With z a full-resolution logit, wrongness u = z where the truth is background and -z where it is
    object, s = sigmoid(u): focal = a·s²·softplus(u), so d focal/du = a·s²·(2(1-s)·softplus(u) + s).
    """

    @staticmethod
    def forward(
        ctx: Any, low: Tensor, truth: Tensor, focal_weight: float, dice_weight: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        real = truth[:, None]
        object_pixel = real.float()
        logits = _upsample(low, truth.shape[-2:])
        u = torch.where(real, -logits, logits)
        s = u.sigmoid()
        surprise = F.softplus(u)
        focal_pixel = (s * s).mul_((1 - FOCAL_ALPHA) + (2 * FOCAL_ALPHA - 1) * object_pixel)
        focal = (focal_pixel * surprise).flatten(2).mean(2)

        area = object_pixel.flatten(2).sum(2)
        missed = (s * object_pixel).flatten(2).sum(2)
        overlap = area - missed
        extent = s.flatten(2).sum(2) - missed + overlap + area + 1
        dice = 1 - (2 * overlap + 1) / extent

        found = logits > 0
        shared = (found & real).flatten(2).sum(2, dtype=torch.int32)
        union = found.flatten(2).sum(2, dtype=torch.int32) + area - shared
        ious = shared / union.clamp(min=1)

        best = (focal_weight * focal + dice_weight * dice).argmin(1)
        if ctx.needs_input_grad[0]:
            pixel = _take(s, best), _take(focal_pixel, best), _take(surprise, best)
            totals = _take(overlap, best), _take(extent, best)
            slope = _slope(truth, *pixel, *totals, focal_weight, dice_weight)
            ctx.save_for_backward(_upsample_transposed(slope, low.shape[-2:]), best)
            ctx.candidates = low.shape[1]
        focal, dice = _take(focal, best), _take(dice, best)
        ctx.mark_non_differentiable(focal, dice, best, ious)
        return focal_weight * focal + dice_weight * dice, focal, dice, best, ious

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, None, None, None]:
        gradient, best = ctx.saved_tensors
        scaled = (gradient * upstream[0][:, None, None])[:, None]
        if ctx.candidates > 1:
            chosen = F.one_hot(best, ctx.candidates)[:, :, None, None]
            scaled = scaled * chosen.to(scaled.dtype)
        return scaled, None, None, None


def _slope(
    truth: Tensor,
    s: Tensor,
    focal_pixel: Tensor,
    surprise: Tensor,
    overlap: Tensor,
    extent: Tensor,
    focal_weight: float,
    dice_weight: float,
) -> Tensor:
    """Gradient of the weighted focal + dice by the full-resolution logits. [R, H, W]; overlap and
    extent [R]."""
    right = 1 - s
    focal = (right * surprise).mul_(2).add_(s).mul_(focal_pixel)
    by_extent = (2 * overlap + 1) / extent.square()
    by_overlap = 2 / extent
    inside = (dice_weight * (by_overlap - by_extent))[:, None, None]
    outside = (dice_weight * by_extent)[:, None, None]
    dice = right.mul_(s).mul_(torch.where(truth, inside, outside))
    by_wrongness = focal.mul_(focal_weight / truth[0].numel()).add_(dice)
    return torch.where(truth, -by_wrongness, by_wrongness)


def _upsample(low: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(low, size=size, mode="bilinear", align_corners=False)


def _upsample_transposed(slope: Tensor, size: Sequence[int]) -> Tensor:
    """The gradient by the low-resolution logits [R, h, w], from that by the full-resolution ones
    [R, H, W].

    Two small products with the interpolation weights: several times faster on a CPU than torch's
    own backward.
    """
    with torch.autocast(slope.device.type, enabled=False):
        down = _weights(size[0], slope.shape[-2], slope.device)
        across = _weights(size[1], slope.shape[-1], slope.device)
        return down @ (slope @ across.T)


@lru_cache(maxsize=16)
def _weights(low: int, full: int, device: torch.device) -> Tensor:
    """Linear interpolation from `low` to `full` points as a matrix [low, full]."""
    with torch.inference_mode(False), torch.no_grad():
        unit = torch.eye(low, device=device)[None]
        return F.interpolate(unit, size=full, mode="linear", align_corners=False)[0]


def _take(values: Tensor, candidate: Tensor) -> Tensor:
    """Of [R, M, ...] the given candidate of each row: [R, ...]."""
    if values.shape[1] == 1:
        return values[:, 0]
    return values[torch.arange(len(values), device=values.device), candidate]

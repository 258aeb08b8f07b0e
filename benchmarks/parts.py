"""Parts of the network against the plain way of writing them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.measure import Row, compare, megabytes, saved_bytes, threads
from model.losses import FOCAL_ALPHA, judge_masks
from model.policy import LossConfig

WEIGHTS = LossConfig()


def loss_rows() -> list[Row]:
    """The judgement of masks, at the sizes of the micro network and of the published ones."""
    return [_loss_row("micro", 32, 24, 96, pairs=7), _loss_row("published", 2, 256, 1024, pairs=5)]


def _loss_row(name: str, rows: int, low: int, full: int, pairs: int) -> Row:
    chance = torch.Generator().manual_seed(3)
    logits = (4 * torch.randn(rows, 3, low, low, generator=chance)).requires_grad_()
    truth = torch.zeros(rows, full, full, dtype=torch.bool)
    truth[:, full // 4 : full // 2, full // 5 : full // 2] = True

    def implemented() -> Tensor:
        return judge_masks(logits, truth, WEIGHTS).mask.sum()

    def plain() -> Tensor:
        return plain_judgement(logits, truth, WEIGHTS).sum()

    def gradient(loss: Tensor) -> Tensor:
        return torch.autograd.grad(loss, logits)[0]

    with threads(1):
        torch.testing.assert_close(implemented(), plain(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(gradient(implemented()), gradient(plain()), rtol=1e-3, atol=1e-6)
        memory = [megabytes(saved_bytes(call)) for call in (implemented, plain)]
        return compare(
            f"loss of {rows} x 3 masks, {low} to {full} px ({name})",
            ("gradient on the way forward", lambda: gradient(implemented())),
            ("autograd at full resolution", lambda: gradient(plain())),
            pairs=pairs,
            note=f"kept for backward: {memory[0]} against {memory[1]}; same gradient",
        )


def plain_judgement(logits: Tensor, truth: Tensor, weights: LossConfig) -> Tensor:
    """Focal and dice of the best candidate as they are usually written: [R].

    logits: [R, M, h, w]; truth: bool [R, S, S].
    """
    full = F.interpolate(logits, size=truth.shape[-2:], mode="bilinear", align_corners=False)
    target = truth[:, None].expand_as(full).float()
    probability = full.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(full, target, reduction="none")
    miss = 1 - (probability * target + (1 - probability) * (1 - target))
    alpha = FOCAL_ALPHA * target + (1 - FOCAL_ALPHA) * (1 - target)
    focal = (alpha * miss.square() * entropy).flatten(2).mean(2)
    overlap = (probability * target).flatten(2).sum(2)
    areas = probability.flatten(2).sum(2) + target.flatten(2).sum(2)
    dice = 1 - (2 * overlap + 1) / (areas + 1)
    loss = weights.focal * focal + weights.dice * dice
    return loss.gather(1, loss.detach().argmin(1, keepdim=True))[:, 0]

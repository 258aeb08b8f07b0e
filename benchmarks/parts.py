"""Parts of the network and of the evaluation against the plain way of writing them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.measure import Row, compare, megabytes, saved_bytes, threads
from model.losses import FOCAL_ALPHA, judge_masks
from model.policy import LossConfig
from stages.evaluation.masks import score_masks

WEIGHTS = LossConfig()


def loss_rows() -> list[Row]:
    """The judgement of masks, at the sizes of the micro network and of the published ones."""
    return [_loss_row("micro", 32, 24, 96, pairs=7), _loss_row("published", 2, 256, 1024, pairs=5)]


def contour_rows() -> list[Row]:
    """J and F of one object on one frame against PyPI vos-benchmark."""
    try:
        from vos_benchmark.evaluator import Evaluator
    except ImportError:
        return []
    rows = []
    for width, height in ((192, 128), (854, 480)):
        truth, guess = _blobs(width, height)

        def ours(truth: np.ndarray = truth, guess: np.ndarray = guess) -> tuple[float, float]:
            score = score_masks(truth, guess)
            return 100 * score.region, 100 * score.contour

        def theirs(truth: np.ndarray = truth, guess: np.ndarray = guess) -> tuple[float, float]:
            evaluator = Evaluator()
            evaluator.feed_frame(guess.astype(np.uint8), truth.astype(np.uint8))
            region, contour = evaluator.conclude()
            return region[1], contour[1]

        np.testing.assert_allclose(ours(), theirs(), atol=1e-9)
        rows.append(
            compare(
                f"J and F of a {width}x{height} mask",
                ("score_masks", ours),
                ("vos-benchmark", theirs),
                pairs=15,
                note="same figures",
            )
        )
    return rows


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


def _blobs(width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """A round object and a guess that is a little off."""
    y, x = np.mgrid[:height, :width]
    radius = height / 4

    def disc(centre_x: float, centre_y: float) -> np.ndarray:
        wave = 1 + 0.15 * np.sin(9 * np.arctan2(y - centre_y, x - centre_x))
        return np.hypot(x - centre_x, y - centre_y) < radius * wave

    return disc(0.45 * width, 0.5 * height), disc(0.47 * width, 0.52 * height)

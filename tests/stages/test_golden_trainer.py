"""Twelve steps of the reference's trainer, from the same frames, order and prompts.

In float64 the losses of all twelve are the reference's to 5e-6, its own rounding. In float32 they are
for as long as rounding flips no maximum and no ReLU: one that flips changes a gradient by 1e-4 of
itself, AdamW, which divides by the root of a gradient's square, makes a whole step of it where that
gradient is next to nothing, and the steps after it amplify it. `python -m tests.stages.test_golden_trainer`
shows how far: with every weight moved to a neighbouring float32 the losses of step 7 are off by 3e-7
to 2e-4 and its gradient norm by 6e-6 to 4e-3, in six draws under two attention kernels.
"""

import io
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice, product
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from model.losses import clip_loss, judge_masks
from model.policy import LossConfig
from model.prompts import ObjectChance, PromptPlan
from model.sam2 import SAM2, mask_logits
from model.tracker import encode_clip, track_objects
from pipeline.optim import build_optimizer
from pipeline.settings import GroupConfig, OptimConfig, ScheduleConfig
from stages.footprint import tables_apart
from stages.training import layers_above
from tests.golden.reader import MICRO, Golden, golden_model

TRAINER = Golden("micro_o_trainer.npz")
SIDE, FRAMES = 128, 6
OPTIM = OptimConfig(
    lr=2e-5,
    weight_decay=0.1,
    layer_decay=0.9,
    groups=(GroupConfig(pattern="image_encoder.*", lr=1.2e-5),),
    schedule=ScheduleConfig(shape="cosine", end=0.1),
    clip=0.1,
)
PLAN = PromptPlan(frames=FRAMES, initial=((0, "mask"),))
"""Every object is shown as a mask on the first frame; nothing is corrected."""
LOSS = LossConfig()
SETTLED = 7
"""Steps before what rounding flips is amplified beyond the tolerance."""


def clip(number: int) -> tuple[Tensor, Tensor]:
    """Pixels uint8 [T, 3, S, S] and masks bool [N, T, S, S] of one video, resized as the reference does."""
    stored = TRAINER.array(f"in:jpegs_v{number}").tobytes()
    sizes = TRAINER.array(f"in:jpeg_sizes_v{number}")
    ends = np.cumsum(sizes)
    frames = [
        Image.open(io.BytesIO(stored[end - size : end]))
        for end, size in zip(ends, sizes, strict=True)
    ]
    square = [np.asarray(f.resize((SIDE, SIDE), Image.Resampling.BILINEAR)) for f in frames]
    labels = TRAINER.tensor(f"in:labels_v{number}")
    objects = [i for i in labels[0].unique().tolist() if i]
    masks = torch.stack([labels == i for i in objects]).float()
    grey = F.interpolate(
        masks, size=(SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False
    )
    return torch.from_numpy(np.stack(square)).permute(0, 3, 1, 2), grey >= 0.5


def given_masks(masks: Tensor) -> dict[str, float]:
    """What the reference adds for the masks it was given: constants, which ours leaves out."""
    judged = judge_masks(mask_logits(masks[:, 0, None]), masks[:, 0], LOSS)
    count = len(masks)
    return {
        "focal": judged.focal.sum().item() / count,
        "dice": judged.dice.sum().item() / count,
        "iou": 0.0,
        "object": float(np.log1p(np.exp(-10.0))),
    }


class Taken(NamedTuple):
    """A step that was taken."""

    losses: list[float]
    """The total, focal, dice, iou, object, each with what the given masks add."""
    rate: float
    norm: float
    """Of the gradient, before it is clipped."""


def steps(network: SAM2) -> Iterator[Taken]:
    """Train `network`, of float32 or float64, on the reference's videos in its order."""
    clips = [clip(number) for number in range(3)]
    order = TRAINER.array("video_id_per_step").tolist()
    optimizer, rates = build_optimizer(network, OPTIM, len(order), layers_above(network))
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for step, video in enumerate(order):
        frames, masks = clips[video]
        owner = torch.zeros(len(masks), dtype=torch.int64)
        images = network.normalise(frames[None]).to(network.no_mem_embed.dtype)
        chance = ObjectChance(0, step, [0], owner)
        output = track_objects(network, encode_clip(network, images), masks, owner, PLAN, chance)
        losses = clip_loss(output, masks, LOSS, float(len(masks)))
        losses.total.backward()
        extra = given_masks(masks)
        parts = [getattr(losses, name).item() + extra[name] for name in extra]
        total = sum(getattr(LOSS, name) * part for name, part in zip(extra, parts, strict=True))
        rate = rates.set(optimizer, step)
        norm = torch.nn.utils.clip_grad_norm_(parameters, OPTIM.clip).item()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield Taken([total, *parts], rate, norm)


def golden_steps() -> Iterator[Taken]:
    """The same, of the reference."""
    names = ("losses_core_mask_dice_iou_class", "lr_group0_group2", "grad_norm_before_clip")
    losses, rates, norms = (TRAINER.array(name) for name in names)
    for loss, rate, norm in zip(losses, rates[:, 0], norms, strict=True):
        yield Taken(loss.tolist(), float(rate), float(norm))


def assert_taken(found: Taken, golden: Taken, losses: float, norm: float) -> None:
    """Within relative tolerances."""
    assert found.losses == pytest.approx(golden.losses, rel=losses)
    assert found.rate == pytest.approx(golden.rate, rel=1e-9)
    assert found.norm == pytest.approx(golden.norm, rel=norm)


def test_seven_steps() -> None:
    network = golden_model(replace(MICRO, dropout=0.0)).train()
    for found, golden in islice(zip(steps(network), golden_steps(), strict=True), SETTLED):
        assert_taken(found, golden, losses=1e-4, norm=2e-3)


@pytest.fixture
def float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the network does in float32 on purpose is done in float64."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    with tables_apart():
        yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_twelve_steps() -> None:
    network = golden_model(replace(MICRO, dropout=0.0)).train().double()
    for found, golden in zip(steps(network), golden_steps(), strict=True):
        assert_taken(found, golden, losses=1e-5, norm=1e-4)
    state = network.state_dict()
    for name, square in zip(TRAINER.array("names"), TRAINER.array("final_sqsums"), strict=True):
        assert state[str(name)].square().sum().item() == pytest.approx(square, rel=1e-6), name


def moved(seed: int) -> SAM2:
    """The network with each weight at one of the two float32 numbers next to it."""
    network = golden_model(replace(MICRO, dropout=0.0)).train()
    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            up = torch.rand(weight.shape, generator=chance) < 0.5
            weight.copy_(torch.nextafter(weight, torch.where(up, torch.inf, -torch.inf)))
    return network


def main() -> None:
    """Print how far the loss and the gradient norm of each step are from the reference's."""
    for kernel, seed in product((SDPBackend.FLASH_ATTENTION, SDPBackend.MATH), range(6)):
        with sdpa_kernel([kernel, SDPBackend.MATH]):
            pairs = list(zip(steps(moved(seed)), golden_steps(), strict=True))
        off = [abs(found.losses[0] / golden.losses[0] - 1) for found, golden in pairs]
        norms = [abs(found.norm / golden.norm - 1) for found, golden in pairs]
        print(f"{kernel.name} {seed}: loss", *(f"{x:.0e}" for x in off))
        print(f"{kernel.name} {seed}: norm", *(f"{x:.0e}" for x in norms))


if __name__ == "__main__":
    main()

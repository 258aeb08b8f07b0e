"""Four AdamW steps on one batch, with and without clipping, as the reference takes them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from model.losses import clip_loss, judge_masks
from model.policy import LossConfig
from model.prompts import ObjectChance, PromptPlan
from model.sam2 import mask_logits
from model.tracker import encode_clip, track_objects
from pipeline.optim import build_optimizer
from pipeline.settings import GroupConfig, OptimConfig, ScheduleConfig
from stages.training import layers_above
from tests.golden.reader import MICRO, Golden, golden_model, waves

GOLDEN = Golden("micro_g_train.npz")
OPTIM = OptimConfig(
    lr=1e-5,
    weight_decay=0.1,
    layer_decay=0.9,
    groups=(GroupConfig(pattern="image_encoder.*", lr=6e-6),),
    schedule=ScheduleConfig(shape="cosine", end=0.1),
    clip=0.1,
)
KEYS = ("k_proj.bias", "qkv.bias")


@pytest.mark.parametrize(("run", "clip"), [("traj", OPTIM.clip), ("traj_noclip", float("inf"))])
def test_four_steps(run: str, clip: float) -> None:
    network = golden_model(replace(MICRO, dropout=0.0)).train()
    masks = GOLDEN.tensor("g1/in:masks").transpose(0, 1)
    video = waves("A/micro/g1/video0", 8, 128, 128)[None]
    owner = torch.zeros(len(masks), dtype=torch.int64)
    plan = PromptPlan(frames=8, initial=((0, "mask"),))
    config = LossConfig()
    shown = judge_masks(mask_logits(masks[:, 0, None]), masks[:, 0], config)
    given = shown.mask.mean().item() + np.log1p(np.exp(-10.0))
    """What the reference adds for the masks it was given; a constant that ours leaves out."""

    optimizer, rates = build_optimizer(network, OPTIM, 4, layers_above(network))
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for step, (core, *_) in enumerate(GOLDEN.array(f"{run}/losses").tolist()):
        chance = ObjectChance(0, step, [0], owner)
        output = track_objects(network, encode_clip(network, video), masks, owner, plan, chance)
        losses = clip_loss(output, masks, config, float(len(masks)))
        losses.total.backward()
        assert losses.total.item() + given == pytest.approx(core, rel=1e-4), f"step {step}"
        norm = torch.nn.utils.clip_grad_norm_(parameters, clip)
        expected = GOLDEN.array(f"{run}/grad_norm_before_clip")[step]
        assert norm.item() == pytest.approx(expected, rel=1e-4), f"step {step}"
        rates.set(optimizer, step)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    names = [str(name) for name in GOLDEN.array("param_names")]
    state = network.state_dict()
    expected = dict(zip(names, GOLDEN.array(f"{run}/final_param_sqsums").tolist(), strict=True))
    for name in names:
        # soft-max does not feel a bias of the keys: its gradient is rounding, which AdamW blows up
        noise = 8 * OPTIM.lr * state[name].abs().sum().item() if name.endswith(KEYS) else 0
        found = state[name].double().square().sum().item()
        assert found == pytest.approx(expected[name], rel=1e-5, abs=noise), name

"""Small runs that must work: one clip learnt by heart, and weights that stay."""

from pathlib import Path

import numpy as np
import pytest
import torch

from data.augment import augment_clip
from data.collate import collate
from data.settings import PLAIN
from data.sources import open_dataset
from data.spec import DatasetSpec
from data.world.spec import WorldSpec
from data.world.world import make_world
from model.config import preset
from model.lora import add_lora, merged
from model.policy import LoRAConfig, LossConfig, PromptPolicy
from model.sam2 import SAM2, build_sam2
from pipeline.distributed import World
from pipeline.optim import build_optimizer, freeze
from pipeline.settings import OptimConfig, ScheduleConfig
from stages.clip_task import ClipTask
from stages.evaluation.jf import Protocol
from stages.evaluation.video import evaluate_videos, sam2_tracker
from tests.stages.test_clip_task import OBJECTS, batch_of

STEPS = 300
RATE = OptimConfig(
    lr=1e-3,
    weight_decay=0.0,
    clip=1.0,
    schedule=ScheduleConfig(shape="cosine", end=0.02, warmup_steps=30),
)
FOLLOW = PromptPolicy(
    mask=1, click=0, box=0, initial_frames=1, corrected_frames=0, correction_clicks=0
)


def train(task: ClipTask, batches: list, config: OptimConfig, steps: int) -> None:
    """The loop's step without its surroundings."""
    optimizer, rates = build_optimizer(task.model, config, steps)
    trained = [p for p in task.model.parameters() if p.requires_grad]
    for step in range(steps):
        rates.set(optimizer, step)
        batch = batches[step % len(batches)]
        task.losses(batch, step, task.weight(batch)).total.backward()
        torch.nn.utils.clip_grad_norm_(trained, config.clip)
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_one_clip_is_learnt_by_heart(tmp_path: Path):
    """From scratch, two objects of which one goes and comes back: J&F 97.4 after 45 seconds of one core."""
    world = WorldSpec(
        train_images=0,
        val_images=0,
        train_videos=0,
        val_videos=1,
        davis_train_videos=0,
        frames=20,
        clip_objects=(2, 2),
    )
    make_world(world, tmp_path / "world")
    dataset = open_dataset(DatasetSpec(format="sav_val", root=str(tmp_path / "world/sav_val")))
    clip = augment_clip(dataset.load(0), PLAIN, 96, np.random.default_rng(0))
    assert clip.masks.shape[:2] == (5, 2)
    torch.manual_seed(0)
    model = build_sam2(preset("micro")).train()
    task = ClipTask(model, FOLLOW, LossConfig(focal=1.0), seed=0, world=World())
    train(task, [collate([clip], "video", [0])], RATE, STEPS)
    model.eval()
    scores = evaluate_videos(
        sam2_tracker(model), dataset, protocol=Protocol(), every_frame=False, progress=False
    )
    assert scores.jf >= 95


@pytest.mark.parametrize(
    ("patterns", "lora"),
    [
        (("sam_prompt_encoder.*",), False),
        (("sam_prompt_encoder.*", "image_encoder.*"), False),
        (("*",), True),
    ],
    ids=["prompt encoder", "both encoders", "all but low-rank changes"],
)
def test_frozen_weights_stay_to_the_bit(patterns: tuple[str, ...], lora: bool):
    torch.manual_seed(0)
    model = build_sam2(preset("micro")).train()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    frozen = freeze(model, patterns)
    adapted = add_lora(model, LoRAConfig(rank=2)) if lora else []
    task = ClipTask(model, PromptPolicy(correction_clicks=1), LossConfig(), seed=3, world=World())
    decaying = OptimConfig(lr=1e-2, weight_decay=0.1, clip=1.0)
    batches = [batch_of(1), batch_of(2)]
    assert task.weight(batches[0]) == sum(OBJECTS)
    train(task, batches, decaying, 4)

    assert_equal(kept_weights(model), start, frozen)
    end = merged(model).state_dict()
    changed = {name for name in end if not torch.equal(end[name], start[name])}
    if lora:
        assert changed and changed <= {f"{name}.weight" for name in adapted}
    else:
        assert changed and changed.isdisjoint(frozen)


def kept_weights(model: SAM2) -> dict[str, torch.Tensor]:
    """All weights by their published names; of an adapted layer, those below its change."""
    values = model.state_dict()
    return {
        name.replace("parametrizations.weight.original", "weight"): v for name, v in values.items()
    }


def assert_equal(found: dict, expected: dict, names: list[str]) -> None:
    """Of exactly these names."""
    assert names
    for name in names:
        assert torch.equal(found[name], expected[name]), name

"""One training step of SAM 2: where a batch of clips meets the network.

Prompts are simulated, the clip is tracked, every answer on every frame is scored. All randomness follows from
(seed, step): the plan is the same on every rank, and the places of clicks belong to each object wherever it is trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from data.types import ClipBatch
from model.losses import clip_loss
from model.policy import LossConfig, PromptPolicy
from model.prompts import ObjectChance, plan_prompts, plan_rng
from model.sam2 import SAM2
from model.tracker import track_clip
from model.types import ClipOutput
from pipeline.distributed import World

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class StepLosses:
    """The loss of one batch, and its parts for the curves."""

    total: Tensor
    parts: Mapping[str, Tensor]


class ClipTask:
    """Turns batches into losses for `pipeline.loop.fit`."""

    def __init__(
        self,
        model: SAM2,
        prompts: PromptPolicy,
        loss: LossConfig,
        *,
        seed: int,
        world: World,
        precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    ) -> None:
        self.model = model
        self.prompts = prompts
        self.loss = loss
        self.seed = seed
        self.world = world
        self.precision = precision

    def weight(self, batch: ClipBatch) -> float:
        """The objects of `batch`."""
        return float(len(batch.masks))

    def losses(self, batch: ClipBatch, step: int, whole: float) -> StepLosses:
        """Track `batch` under the plan of `step` and score it; sums over objects are divided by
        `whole`, or by 1 where that is less."""
        batch = batch.to(self.world.device)
        losses = clip_loss(self.track(batch, step), batch.masks, self.loss, max(whole, 1.0))
        parts = losses._asdict()
        return StepLosses(parts.pop("total"), parts)

    def track(self, batch: ClipBatch, step: int) -> ClipOutput:
        """The network's answers on `batch`, prompted as on `step`."""
        plan = plan_prompts(self.prompts, batch.frames.shape[1], plan_rng(self.seed, step))
        chance = ObjectChance(self.seed, step, batch.slots, batch.clip_of_object)
        with torch.autocast(
            self.world.device.type,
            dtype=HALVES.get(self.precision),
            enabled=self.precision in HALVES,
        ):
            images = self.model.normalise(batch.frames)
            return track_clip(self.model, images, batch.masks, batch.clip_of_object, plan, chance)

"""One training step of SAM 2: where a batch of clips meets the network.

Prompts are simulated, the clip is tracked, every answer on every frame is scored. All randomness follows from
(seed, step): the plan is the same on every rank, and the places of clicks belong to each object wherever it is trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from data.types import ClipBatch
from model.losses import Losses, clip_loss
from model.policy import LossConfig, MemorySavings, PromptPolicy
from model.prompts import ObjectChance, PromptPlan, plan_prompts, plan_rng
from model.recompute import recompute
from model.sam2 import SAM2
from model.tracker import encode_clip, track_objects
from model.types import ClipOutput, ImageFeatures
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
        savings: MemorySavings | None = None,
    ) -> None:
        self.model = model
        self.prompts = prompts
        self.loss = loss
        self.seed = seed
        self.world = world
        self.precision = precision
        self.savings = savings or MemorySavings()
        recompute(model, self.savings.recompute)

    def weight(self, batch: ClipBatch) -> float:
        """The objects of `batch`."""
        return float(len(batch.masks))

    def losses(self, batch: ClipBatch, step: int, whole: float) -> StepLosses:
        """Track `batch` under the plan of `step` and score it; sums over objects are divided by
        `whole`, or by 1 where that is less."""
        batch = batch.to(self.world.device)
        count, limit = len(batch.masks), self.savings.objects_at_once
        with self._autocast():
            frames = self._see(batch) if count else ()
        if not limit or count <= limit:
            return _step_losses([self._judge(frames, batch, step, whole, slice(None))])
        groups = [slice(start, start + limit) for start in range(0, count, limit)]
        return _step_losses(
            [
                checkpoint(self._judge, frames, batch, step, whole, part, use_reentrant=False)
                for part in groups
            ]
        )

    def plan(self, frames: int, step: int) -> PromptPlan:
        """What the simulated user does in the clips of `step`."""
        return plan_prompts(self.prompts, frames, plan_rng(self.seed, step))

    def track(self, batch: ClipBatch, step: int) -> ClipOutput:
        """The network's answers on `batch`, prompted as on `step`."""
        with self._autocast():
            frames = self._see(batch) if len(batch.masks) else ()
            return self._track(frames, batch, step, slice(None))

    def _see(self, batch: ClipBatch) -> tuple[ImageFeatures, ...]:
        images = self.model.normalise(batch.frames)
        return encode_clip(self.model, images, self.savings.frames_at_once)

    def _track(
        self, frames: Sequence[ImageFeatures], batch: ClipBatch, step: int, objects: slice
    ) -> ClipOutput:
        plan = self.plan(batch.frames.shape[1], step)
        chance = ObjectChance(self.seed, step, batch.slots, batch.clip_of_object).of(objects)
        owners = batch.clip_of_object[objects]
        return track_objects(self.model, frames, batch.masks[objects], owners, plan, chance)

    def _judge(
        self,
        frames: Sequence[ImageFeatures],
        batch: ClipBatch,
        step: int,
        whole: float,
        objects: slice,
    ) -> Losses:
        with self._autocast():
            output = self._track(frames, batch, step, objects)
        return clip_loss(output, batch.masks[objects], self.loss, max(whole, 1.0))

    def _autocast(self) -> torch.autocast:
        half = HALVES.get(self.precision)
        return torch.autocast(self.world.device.type, dtype=half, enabled=half is not None)


def _step_losses(groups: Sequence[Losses]) -> StepLosses:
    """The sum over groups of objects."""
    parts = {
        name: torch.stack([getattr(losses, name) for losses in groups]).sum(0)
        for name in Losses._fields
    }
    return StepLosses(parts.pop("total"), parts)

"""One training step of SAM 2: where a batch of clips meets the network.

Prompts are simulated, the clip is tracked, every answer on every frame is scored. All randomness follows from
(seed, step): the plan is the same on every rank, and the places of clicks belong to each object wherever it is trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from data.types import ClipBatch
from model.losses import AREAS, Losses, clip_loss
from model.policy import LossConfig, MemorySavings, PromptKind, PromptPolicy
from model.prompts import ObjectChance, PromptPlan, plan_prompts, plan_rng
from model.recompute import recompute
from model.sam2 import SAM2
from model.tracker import encode_clip, track_objects
from model.types import ClipOutput, ImageFeatures
from pipeline.distributed import World
from stages.feature_cache import FeatureCache

WEIGHED = ("focal", "dice", "iou", "object", "temporal")
"""Parts of the loss that have a weight of the same name; temporal is not computed where it is 0."""
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
        features: FeatureCache | None = None,
        sharded: bool = False,
        graphs: bool = False,
    ) -> None:
        """features: in place of the model's image encoder. sharded: the trunk is shared out, and
        runs for every batch, also one without objects. graphs: its compiled blocks are replayed as
        CUDA graphs."""
        self.model = model
        self.prompts = prompts
        self.loss = loss
        self.seed = seed
        self.world = world
        self.precision = precision
        self.savings = savings or MemorySavings()
        self.features = features
        self.sharded = sharded
        self.graphs = graphs
        recompute(model, self.savings.recompute)

    def weight(self, batch: ClipBatch) -> float:
        """The objects of `batch`."""
        return float(len(batch.masks))

    def losses(self, batch: ClipBatch, step: int, whole: float) -> StepLosses:
        """Track `batch` under the plan of `step` and score it; sums over objects are divided by
        `whole`, or by 1 where that is less."""
        if self.graphs:
            torch.compiler.cudagraph_mark_step_begin()  # what the step before left may be overwritten
        count, limit = len(batch.masks), self.savings.objects_at_once
        plan = self.plan(batch.frames.shape[1], step)
        pixels = batch.frames
        batch = batch.to(self.world.device)
        with self._autocast():
            seen = count or self.sharded
            frames = self._see(pixels if self.features else batch.frames) if seen else ()
        if not limit or count <= limit:
            judged = [self._judge(frames, batch, plan, step, whole, slice(None))]
        else:
            groups = [slice(start, start + limit) for start in range(0, count, limit)]
            judged = [
                checkpoint(self._judge, frames, batch, plan, step, whole, part, use_reentrant=False)
                for part in groups
            ]
        found = Losses(*(torch.stack(part).sum(0) for part in zip(*judged, strict=True)))
        total = found.total + _nothing_of(frames) if self.sharded else found.total
        return StepLosses(total, self._parts(found, plan.initial[0][1]))

    def _parts(self, found: Losses, kind: PromptKind) -> dict[str, Tensor]:
        """What the curves show: each part by itself and as it counts, the whole by the kind of
        prompt of the step, and by the size of the objects with how many answers there were."""
        terms = [name for name in WEIGHED if name != "temporal" or self.loss.temporal > 0]
        parts = {name: getattr(found, name) for name in terms}
        parts |= {f"weighted/{name}": getattr(self.loss, name) * parts[name] for name in terms}
        parts[f"prompt/{kind}"] = found.total.detach()
        for index, size in enumerate(AREAS):
            parts[f"area/{size}"], parts[f"answers/{size}"] = found.by_area[:, index]
        return parts

    def plan(self, frames: int, step: int) -> PromptPlan:
        """What the simulated user does in the clips of `step`."""
        return plan_prompts(self.prompts, frames, plan_rng(self.seed, step))

    def on(self, model: SAM2) -> ClipTask:
        """The same task, on another network."""
        other = copy(self)
        other.model = model
        return other

    def track(self, batch: ClipBatch, step: int) -> ClipOutput:
        """The network's answers on `batch`, prompted as on `step`."""
        with self._autocast():
            frames = self._see(batch.frames) if len(batch.masks) else ()
            plan = self.plan(batch.frames.shape[1], step)
            return self._track(frames, batch, plan, step, slice(None))

    def _see(self, frames: Tensor) -> tuple[ImageFeatures, ...]:
        """frames: uint8 [B, T, 3, S, S], on the device; where features are kept, best on the host."""
        if self.features is not None:
            return self.features.see(frames)
        images = self.model.normalise(frames)
        return encode_clip(self.model, images, self.savings.frames_at_once)

    def _track(
        self,
        frames: Sequence[ImageFeatures],
        batch: ClipBatch,
        plan: PromptPlan,
        step: int,
        objects: slice,
    ) -> ClipOutput:
        chance = ObjectChance(self.seed, step, batch.slots, batch.clip_of_object).of(objects)
        owners = batch.clip_of_object[objects]
        return track_objects(self.model, frames, batch.masks[objects], owners, plan, chance)

    def _judge(
        self,
        frames: Sequence[ImageFeatures],
        batch: ClipBatch,
        plan: PromptPlan,
        step: int,
        whole: float,
        objects: slice,
    ) -> Losses:
        with self._autocast():
            output = self._track(frames, batch, plan, step, objects)
        return clip_loss(output, batch.masks[objects], self.loss, max(whole, 1.0))

    def _autocast(self) -> torch.autocast:
        half = HALVES.get(self.precision)
        return torch.autocast(self.world.device.type, dtype=half, enabled=half is not None)


def _nothing_of(frames: Sequence[ImageFeatures]) -> Tensor:
    """A zero whose gradient visits all of the trunk for every frame, so that ranks do so alike."""
    return torch.stack([frame.s16.float().sum() for frame in frames]).sum() * 0

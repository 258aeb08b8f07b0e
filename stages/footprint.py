"""How much memory a training step takes, found without taking it.

The real step runs on tensors that have shapes but no content (torch's fake tensors), while every
storage that is alive is counted. Attention is counted as fused kernels need it: without the matrix
of weights, which they never keep. So a laptop can say what a step of base_plus takes on a GPU.

Not counted: the CUDA context, library workspaces and what the allocator loses in gaps; leave room.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import model.losses
import model.position
import model.sam2
from data.types import ClipBatch
from model.config import SAM2Config
from model.lora import add_lora
from model.policy import PromptPolicy
from model.prompts import PromptPlan
from model.sam2 import SAM2
from pipeline.average import WeightAverage
from pipeline.distributed import World
from pipeline.optim import build_optimizer, freeze
from stages.clip_task import HALVES, ClipTask
from stages.settings import TrainStage

TABLES = [
    function
    for module in (model.losses, model.position, model.sam2)
    for function in vars(module).values()
    if hasattr(function, "cache_clear")
]


@dataclass(frozen=True)
class BatchShape:
    """One rank's share of a batch."""

    clips: int
    frames: int
    """Of each clip; 1 for pictures."""
    objects: int
    """Of each clip."""

    def __str__(self) -> str:
        what = "pictures" if self.frames == 1 else f"clips of {self.frames} frames"
        return f"{self.clips} {what} with {self.objects} objects each"


@dataclass(frozen=True)
class Footprint:
    """Bytes on one rank."""

    peak: int
    """The most that is alive at any time of a step."""
    weights: int
    optimizer: int
    """AdamW's moments."""
    average: int
    """A moving average of the weights, where there is one."""


class BudgetExceededError(Exception):
    """The step needs more than it was given."""


class LiveBytes(TorchDispatchMode):
    """Counts the storages that are alive while it is entered: what operations make, until the last
    tensor on it is gone."""

    def __init__(self, budget: int | None = None) -> None:
        """budget: bytes beyond which counting ends with BudgetExceededError."""
        super().__init__()
        self.now = self.peak = 0
        self.budget = budget
        self._known: dict[int, int] = {}

    def count(self, values: Iterable[Any]) -> None:
        """Take tensors into account that were made before."""
        for value in values:
            if isinstance(value, Tensor):
                self._count(value.untyped_storage())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.count(tree_leaves(result))
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        self._known[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key)
        if self.budget is not None and self.now > self.budget:
            raise BudgetExceededError

    def _forget(self, key: int) -> None:
        self.now -= self._known.pop(key, 0)


def footprint(
    config: SAM2Config, stage: TrainStage, shape: BatchShape, budget: int | None = None
) -> Footprint:
    """The memory of one training step of `stage` on `shape`, with the most prompts and corrections
    that its policy allows.

    config: the network's, drop path and dropout of the stage included. Raises BudgetExceededError
    as soon as more than `budget` bytes are alive.
    """
    with torch.device("meta"):
        model = SAM2(config).train()
    attention = fused_attention(HALVES.get(stage.precision))
    with tables_apart(), FakeTensorMode(allow_non_fake_inputs=True), attention:
        return _step(model.to_empty(device="cpu"), stage, shape, budget)


def _step(model: SAM2, stage: TrainStage, shape: BatchShape, budget: int | None) -> Footprint:
    """One step of a network that is there, after the optimiser has made its moments."""
    freeze(model, stage.freeze)
    if stage.lora is not None:
        add_lora(model, stage.lora)
    live = LiveBytes(budget)
    live.count([*model.parameters(), *model.buffers()])
    weights = live.now
    with live:
        optimizer, _ = build_optimizer(model, replace(stage.optim, layer_decay=1.0), stage.steps)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        moments = live.now - weights
        average = WeightAverage(model, stage.optim.average) if stage.optim.average else None
        kept = live.now
        live.peak = kept

        task = WorstTask(
            model, stage.prompts, stage.loss, seed=0, world=World(), precision=stage.precision,
            savings=stage.memory,
        )  # fmt: skip
        batch = _batch(shape, model.config.image_size)
        losses = task.losses(batch, 0, task.weight(batch))
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_(parameters, stage.optim.clip, foreach=True)
        optimizer.step()
        if average is not None:
            average.update(0, torch.zeros(()))
    return Footprint(live.peak, weights, moments, kept - weights - moments)


class WorstTask(ClipTask):
    """Every frame prompted and corrected that the policy allows."""

    def plan(self, frames: int, step: int) -> PromptPlan:
        """The plan that takes the most memory."""
        return worst_plan(self.prompts, frames)


def worst_plan(policy: PromptPolicy, frames: int) -> PromptPlan:
    """The most prompts and corrections that `policy` can draw for a clip of `frames` frames."""
    points = policy.click + policy.box > 0
    initial = range(min(policy.initial_frames, frames))
    corrects = (points or frames == 1) and policy.correction_clicks > 0
    corrected = range(min(policy.corrected_frames, frames) if corrects else 0)
    kind = "mask" if not points else "click" if policy.click else "box"
    return PromptPlan(
        frames=frames,
        initial=tuple((t, kind) for t in initial),  # type: ignore[misc]
        corrected=tuple(corrected),
        on_object=((False,) * policy.correction_clicks,) * len(corrected),
        corrected_condition=policy.corrected_condition,
    )


@contextmanager
def tables_apart() -> Iterator[None]:
    """Tables that the network keeps between calls are made inside the block, and forgotten after
    it: those without content must not reach a real step."""
    for table in TABLES:
        table.cache_clear()
    try:
        yield
    finally:
        for table in TABLES:
            table.cache_clear()


@contextmanager
def fused_attention(half: torch.dtype | None) -> Iterator[None]:
    """Inside the block attention keeps what a fused kernel keeps; answers are without meaning."""

    def attend(q: Tensor, k: Tensor, v: Tensor, dropout_p: float = 0.0, **others: Any) -> Tensor:
        return _FusedAttention.apply(*(x if half is None else x.to(half) for x in (q, k, v)))

    with patch.object(F, "scaled_dot_product_attention", attend):
        yield


class _FusedAttention(torch.autograd.Function):
    """Queries, keys, values, the answer and a number per row: [N, heads, T, width] each, [N, heads,
    T] for the last."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        answer = q.new_empty(*q.shape[:-1], v.shape[-1])
        ctx.save_for_backward(q, k, v, answer, q.new_empty(q.shape[:-1], dtype=torch.float32))
        return answer

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, _, _ = ctx.saved_tensors
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _batch(shape: BatchShape, side: int) -> ClipBatch:
    count = shape.clips * shape.objects
    return ClipBatch(
        frames=torch.zeros(shape.clips, shape.frames, 3, side, side, dtype=torch.uint8),
        masks=torch.zeros(count, shape.frames, side, side, dtype=torch.bool),
        clip_of_object=torch.arange(shape.clips).repeat_interleave(shape.objects),
        names=("worst",) * shape.clips,
        kind="image" if shape.frames == 1 else "video",
        slots=tuple(range(shape.clips)),
    )

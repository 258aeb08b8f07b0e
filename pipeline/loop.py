"""The training loop: the only one of the project.

A step is all or nothing on all ranks (law 3). A loss or gradient that is not finite anywhere leaves
the step out everywhere: the flag rides on the gradient reduction and the fused optimiser reads it
on the device, so the host waits for the device only every `log_every` steps.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from pipeline.bad_steps import BadSteps
from pipeline.boundary import Boundary, Hooks, StepLog
from pipeline.checkpoint import TrainState
from pipeline.distributed import World, average_gradients, broadcast_parameters
from pipeline.errors import StageError
from pipeline.heartbeat import pulse
from pipeline.saving import Saver, patience
from pipeline.settings import LoopConfig
from pipeline.window import Taken

__all__ = ["Hooks", "LoopConfig", "StepLog", "StepLosses", "Task", "fit"]

B = TypeVar("B", contravariant=True)


class StepLosses(Protocol):
    """What a batch costs: `total` is minimised, the named `parts` are only shown. Both are shares
    of the step's: those of its batches are added up."""

    @property
    def total(self) -> Tensor:
        """Scalar with a gradient."""

    @property
    def parts(self) -> Mapping[str, Tensor]:
        """Scalars by name, without a gradient."""


class Task(Protocol[B]):
    """What is trained: it turns a batch into losses."""

    def weight(self, batch: B) -> float:
        """How much `batch` counts among those of its step, such as its number of objects."""

    def losses(self, batch: B, step: int, whole: float) -> StepLosses:
        """The losses of `batch`, as sums divided by `whole`: what all batches of the step weigh,
        averaged over the ranks. Then one large batch, several accumulated and several ranks give
        the same gradient. All randomness must follow from `step`, a different number for every
        batch."""


def fit(
    task: Task[Any],
    batches: Iterable[Any],
    state: TrainState,
    config: LoopConfig,
    *,
    total: int,
    clip: float,
    folder: str | Path,
    seed: int = 0,
    world: World | None = None,
    hooks: Hooks | None = None,
) -> TrainState:
    """Train until step `total`, or until a hook ends it; returns `state`, saved in `folder` (call
    `checkpoint.resume` before).

    batches: `config.accumulate` of them for every step, from step `state.step` on. clip: largest
    total gradient norm. seed: together with the step, of dropout and drop path. Raises
    StopRequested after saving when asked to stop, and StageError, naming samples, where going back
    to earlier weights has not helped against values that are not finite (`pipeline.bad_steps`), or
    where checkpoints cannot be written and too much work would be lost.
    """
    world, supply = world or World(), iter(batches)
    parameters = [item for group in state.optimizer.param_groups for item in group["params"]]
    broadcast_parameters(world, state.model, state.sharding.shards if state.sharding else ())
    watched = pulse.watched(config.hang_seconds, config.start_seconds, patience(config))
    with watched, Saver(folder, config, world, state.step) as saver:
        bad_steps = BadSteps(config, state, world, folder)
        boundary = Boundary(hooks or Hooks(), config, saver, bad_steps, total)
        boundary.begin(state)
        while state.step < total and not state.ended:
            pulse.phase("data", state.step)
            asked = time.monotonic()
            batch = _take(supply, config.accumulate, state.step)
            boundary.window.waited += time.monotonic() - asked
            rate = state.rates.set(state.optimizer, state.step)
            taken = _take_step(task, batch, state, parameters, clip, seed, world)
            state.step += 1
            boundary.after(state, taken, rate)
        saver.require(state.step)
    return state


def _take_step(
    task: Task[Any],
    batch: Sequence[Any],
    state: TrainState,
    parameters: Sequence[torch.nn.Parameter],
    clip: float,
    seed: int,
    world: World,
) -> Taken:
    """Forward, backward, reduce, clip and step; a bad step changes nothing but fp16's scale."""
    parts: dict[str, Tensor] = {}
    bad = torch.zeros((), device=world.device)
    whole = world.sum(sum(task.weight(item) for item in batch)) / world.size
    for index, item in enumerate(batch):
        draw = state.step * len(batch) + index
        torch.manual_seed(_mix(seed, draw, world.rank))
        pulse.phase("forward")
        losses = task.losses(item, draw, whole)
        pulse.phase("backward")
        if losses.total.requires_grad:  # a batch without objects may have nothing to learn from
            scaled = losses.total * state.scale.factor if state.scale else losses.total
            scaled.backward()
        bad = bad + (~torch.isfinite(losses.total.detach())).float()
        for name, value in {"loss": losses.total, **_prefixed(losses.parts)}.items():
            parts[name] = parts.get(name, 0) + value.detach().float()
    pulse.phase("reduce")
    sharding = state.sharding
    if sharding:
        sharding.collect()
    bad = average_gradients(world, sharding.replicated(parameters) if sharding else parameters, bad)
    if state.scale:
        state.scale.unscale([item.grad for item in parameters if item.grad is not None])
    if sharding:
        norm = sharding.clip(parameters, clip)
    else:
        norm = torch.nn.utils.clip_grad_norm_(parameters, clip, foreach=True)
    overflow = ~torch.isfinite(norm)
    broken = (bad > 0) | (overflow & state.scale.exhausted if state.scale else overflow)
    bad = ((bad > 0) | overflow).float()
    pulse.phase("optimiser")
    _optimizer_step(state.optimizer, bad)
    state.optimizer.zero_grad(set_to_none=True)
    if state.scale:
        state.scale.update(bad)
    if state.average:
        state.average.update(state.step, bad)
    names = tuple(name for item in batch for name in getattr(item, "names", ()))
    return Taken(state.step, names, parts, bad, broken, norm)


def _optimizer_step(optimizer: torch.optim.Optimizer, bad: Tensor) -> None:
    """Step unless `bad`. Fused optimisers look at the flag themselves, as they do for torch's
    GradScaler."""
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        optimizer.grad_scale, optimizer.found_inf = None, bad  # type: ignore[attr-defined]
        optimizer.step()
    elif not bool(bad):
        optimizer.step()


def _take(supply: Iterator[Any], count: int, step: int) -> list[Any]:
    batch = list(islice(supply, count))
    if len(batch) < count:
        raise StageError(
            f"the data ended at step {step}; a step needs {count} batches, the loader serves none"
        )
    return batch


def _prefixed(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"loss/{name}": value for name, value in parts.items()}


def _mix(seed: int, draw: int, rank: int) -> int:
    """One number from three, spread over 63 bits (the finaliser of splitmix64)."""
    value = (seed * 0x9E3779B97F4A7C15 + draw * 0xBF58476D1CE4E5B9 + rank * 0x94D049BB133111EB) & (
        2**64 - 1
    )
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return (value ^ (value >> 31)) & (2**63 - 1)

"""The training loop: the only one of the project.

A step is all or nothing on all ranks (law 3). A loss or gradient that is not finite anywhere leaves
the step out everywhere: the flag rides on the gradient reduction and the fused optimiser reads it
on the device, so the host waits for the device only every `log_every` steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from pipeline.checkpoint import TrainState
from pipeline.distributed import World, average_gradients, broadcast_parameters
from pipeline.errors import StageError
from pipeline.saving import Saver
from pipeline.settings import LoopConfig
from pipeline.stop import StopRequested, stop_reason

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


@dataclass(frozen=True)
class StepLog:
    """What the loop has to say every `log_every` steps; averages are over the steps since the last
    one."""

    step: int
    """Steps done."""
    total: int
    metrics: Mapping[str, float]
    """`loss`, its parts as `loss/NAME`, `grad_norm`, `lr`, `steps_per_second`, `skipped` (since the
    start), with fp16 `loss_scale`."""


@dataclass(frozen=True)
class Hooks:
    """What is called from the loop, between two steps. Only rank 0 logs; `every` is called on all
    ranks."""

    log: Callable[[StepLog], None] | None = None
    every: Sequence[tuple[int, Callable[[TrainState], str | None]]] = field(default_factory=tuple)
    """(n, function): called after every n-th step, before a checkpoint of it is written. One that
    returns a text ends the training there, as if it were complete; all ranks have to agree."""


@dataclass
class _Window:
    """What has piled up on the device since the last log step."""

    began: float
    parts: list[dict[str, Tensor]] = field(default_factory=list)
    bad: list[Tensor] = field(default_factory=list)
    """1 where the step was left out."""
    broken: list[Tensor] = field(default_factory=list)
    """1 where it was left out for more than fp16's range."""
    norms: list[Tensor] = field(default_factory=list)
    names: list[tuple[str, ...]] = field(default_factory=list)


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
    StopRequested after saving when asked to stop, and StageError after `config.bad_steps` steps in
    a row whose loss or gradient is not finite, naming their samples, or where checkpoints cannot be
    written and too much work would be lost.
    """
    world, hooks = world or World(), hooks or Hooks()
    supply = iter(batches)
    parameters = [item for group in state.optimizer.param_groups for item in group["params"]]
    broadcast_parameters(world, state.model, state.sharding.shards if state.sharding else ())
    window = _Window(began=time.monotonic())
    bad_run: list[tuple[str, ...]] = []
    with Saver(folder, config, world, state.step) as saver:
        while state.step < total and not state.ended:
            batch = _take(supply, config.accumulate, state.step)
            rate = state.rates.set(state.optimizer, state.step)
            _take_step(task, batch, state, parameters, clip, seed, world, window)
            state.step += 1
            last = state.step == total
            stop, due, late = world.any_of(
                [bool(stop_reason()), saver.due(state.step), saver.late()]
            )
            save = stop or due or late or last
            full = len(window.bad) >= config.bad_steps
            if save or full or state.step % config.log_every == 0:
                metrics, bad_run = _read(window, state, bad_run, config.bad_steps, world)
                if hooks.log is not None and world.is_first:
                    hooks.log(StepLog(state.step, total, metrics | {"lr": rate}))
                window = _Window(began=time.monotonic())
            ends = [call(state) for every, call in hooks.every if state.step % every == 0]
            state.ended = next(filter(None, ends), "")
            if save or state.ended or saver.is_best(state):
                saver.save(state, wait=stop or last or bool(state.ended), late=late)
            if stop and not last and not state.ended:
                reason = stop_reason() or "another rank was asked to stop"
                raise StopRequested(f"{reason}; saved at step {saver.safe_step}")
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
    window: _Window,
) -> None:
    """Forward, backward, reduce, clip and step; a bad step changes nothing but fp16's scale."""
    parts: dict[str, Tensor] = {}
    bad = torch.zeros((), device=world.device)
    whole = world.sum(sum(task.weight(item) for item in batch)) / world.size
    for index, item in enumerate(batch):
        draw = state.step * len(batch) + index
        torch.manual_seed(_mix(seed, draw, world.rank))
        losses = task.losses(item, draw, whole)
        if losses.total.requires_grad:  # a batch without objects may have nothing to learn from
            scaled = losses.total * state.scale.factor if state.scale else losses.total
            scaled.backward()
        bad = bad + (~torch.isfinite(losses.total.detach())).float()
        for name, value in {"loss": losses.total, **_prefixed(losses.parts)}.items():
            parts[name] = parts.get(name, 0) + value.detach().float()
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
    window.broken.append(
        (bad > 0) | (overflow & state.scale.exhausted if state.scale else overflow)
    )
    bad = ((bad > 0) | overflow).float()
    _optimizer_step(state.optimizer, bad)
    state.optimizer.zero_grad(set_to_none=True)
    if state.scale:
        state.scale.update(bad)
    if state.average:
        state.average.update(state.step, bad)
    window.parts.append(parts)
    window.bad.append(bad)
    window.norms.append(norm)
    window.names.append(tuple(name for item in batch for name in getattr(item, "names", ())))


def _optimizer_step(optimizer: torch.optim.Optimizer, bad: Tensor) -> None:
    """Step unless `bad`. Fused optimisers look at the flag themselves, as they do for torch's
    GradScaler."""
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        optimizer.grad_scale, optimizer.found_inf = None, bad  # type: ignore[attr-defined]
        optimizer.step()
    elif not bool(bad):
        optimizer.step()


def _read(
    window: _Window, state: TrainState, bad_run: list[tuple[str, ...]], limit: int, world: World
) -> tuple[dict[str, float], list[tuple[str, ...]]]:
    """Wait for the device, average the window over steps and ranks, and count the bad steps.

    bad_run: the samples of each of the bad steps in a row that the window before ended with; the
    same is returned for this one, after the metrics.
    """
    bad = [bool(flag) for flag in torch.stack(window.bad).tolist()]
    broken = torch.stack(window.broken).tolist()
    norms = torch.stack(window.norms).float().tolist()
    state.skipped += sum(bad)
    for is_broken, names in zip(broken, window.names, strict=True):
        bad_run = [*bad_run, names] if is_broken else []
        if len(bad_run) >= limit:
            _give_up(bad_run, state.step, world)
    good = [index for index, is_bad in enumerate(bad) if not is_bad]
    sums: dict[str, list[Tensor]] = {}
    for index in good:
        for name, value in window.parts[index].items():
            sums.setdefault(name, []).append(value)
    own = {name: float(torch.stack(values).mean()) for name, values in sums.items()}
    metrics = world.mean(own)
    if good:
        metrics["grad_norm"] = sum(norms[index] for index in good) / len(good)
    metrics["skipped"] = float(state.skipped)
    if state.scale:
        metrics["loss_scale"] = float(state.scale.factor)
    metrics["steps_per_second"] = len(bad) / max(time.monotonic() - window.began, 1e-9)
    return metrics, bad_run


def _give_up(bad_run: list[tuple[str, ...]], step: int, world: World) -> None:
    samples = [name for part in world.gather(bad_run) for names in part for name in names]
    raise StageError(
        f"the loss or gradient was not finite for {len(bad_run)} steps in a row until step {step}; "
        f"samples: {', '.join(dict.fromkeys(samples)) or 'unnamed'}. "
        "Look at these samples, lower the learning rate, or train in fp32"
    )


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

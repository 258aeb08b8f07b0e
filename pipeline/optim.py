"""The optimiser: which parameter belongs to which group, and the learning rate of each at every
step.

A rate is a pure function of the step, so that nothing about it needs saving. Group rules follow the
released training: no weight decay for biases and nn.LayerNorm (a 2-d layer norm of one's own does
decay), rates that shrink with depth, globs with rates of their own, the last match counting.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn

from pipeline.errors import ConfigError
from pipeline.schema import did_you_mean
from pipeline.settings import GroupConfig, OptimConfig, ScheduleConfig

__all__ = [
    "GroupConfig",
    "OptimConfig",
    "Rates",
    "ScheduleConfig",
    "build_optimizer",
    "freeze",
    "multiplier",
]


def multiplier(schedule: ScheduleConfig, step: int, total: int) -> float:
    """The factor on the learning rate at `step` of `total` (0 <= step < total).

    >>> [round(multiplier(ScheduleConfig(end=0.1), step, 4), 3) for step in range(4)]
    [1.0, 0.868, 0.55, 0.232]
    """
    progress = step / max(total, 1)
    if schedule.shape == "cosine":
        factor = schedule.end + (1 - schedule.end) * (1 + math.cos(math.pi * progress)) / 2
    elif schedule.shape == "linear":
        factor = 1 + (schedule.end - 1) * progress
    elif schedule.shape == "rsqrt":
        factor = math.sqrt(schedule.timescale / max(step, schedule.timescale))
    else:
        factor = 1.0
    if step < schedule.warmup_steps:
        factor *= (step + 1) / schedule.warmup_steps
    if total - step < schedule.cooldown_steps:
        factor *= (total - step) / schedule.cooldown_steps
    return factor


@dataclass(frozen=True)
class Rates:
    """The learning rates of an optimiser's groups, in their order, as functions of the step."""

    peaks: tuple[float, ...]
    schedules: tuple[ScheduleConfig, ...]
    total: int

    def at(self, step: int) -> list[float]:
        """One rate a group."""
        return [
            peak * multiplier(schedule, step, self.total)
            for peak, schedule in zip(self.peaks, self.schedules, strict=True)
        ]

    def set(self, optimizer: torch.optim.Optimizer, step: int) -> float:
        """Write the rates of `step` into the optimiser; returns the largest."""
        rates = self.at(step)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        return max(rates, default=0.0)


def freeze(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Take the parameters whose names match any glob out of training; returns their names.

    Modules left without a trainable parameter go to eval mode, so that a frozen trunk drops no
    paths. Call it after `model.train()`. Raises ConfigError for a pattern that matches nothing.
    """
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ConfigError(
                f"freeze: {pattern!r} matches no parameter{did_you_mean(pattern, _globs(names))}"
            )
    frozen = [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in set(frozen))
    for module in model.modules():
        own = list(module.parameters())
        if own and not any(parameter.requires_grad for parameter in own):
            module.eval()
    return frozen


def build_optimizer(
    model: nn.Module,
    config: OptimConfig,
    total_steps: int,
    layers_above: Callable[[str], int] | None = None,
) -> tuple[torch.optim.AdamW, Rates]:
    """AdamW over the trainable parameters of `model`, and the rates of its groups over
    `total_steps`.

    layers_above: how many layers lie above the parameter of that name, for `layer_decay`; 0 where
    it does not apply. Raises ConfigError for a group pattern that matches nothing.
    """
    if config.layer_decay < 1 and layers_above is None:
        raise ConfigError(
            "layer_decay: this model does not say which layer a parameter belongs to; leave it at 1"
        )
    undecayed = _undecayed_names(model)
    groups: dict[tuple[float, ScheduleConfig, float], list[nn.Parameter]] = {}
    trainable = [(name, item) for name, item in model.named_parameters() if item.requires_grad]
    _check_patterns(config.groups, [name for name, _ in model.named_parameters()])
    for name, parameter in trainable:
        rate, schedule = _rate_of(name, config)
        if layers_above is not None:
            rate *= config.layer_decay ** layers_above(name)
        decay = 0.0 if name in undecayed else config.weight_decay
        groups.setdefault((rate, schedule, decay), []).append(parameter)
    if not groups:
        raise ConfigError("freeze: every parameter is frozen, nothing is left to train")
    optimizer = torch.optim.AdamW(
        [
            {"params": items, "lr": rate, "weight_decay": decay}
            for (rate, _, decay), items in groups.items()
        ],
        betas=config.betas,
        fused=True,  # the fastest, on a CPU too, and it can leave a step out by itself
    )
    rates = Rates(
        peaks=tuple(rate for rate, _, _ in groups),
        schedules=tuple(schedule for _, schedule, _ in groups),
        total=total_steps,
    )
    return optimizer, rates


def _undecayed_names(model: nn.Module) -> set[str]:
    """Biases, and everything an nn.LayerNorm owns."""
    names = {name for name, _ in model.named_parameters() if "bias" in name}
    for prefix, module in model.named_modules():
        if isinstance(module, nn.LayerNorm):
            names |= {
                f"{prefix}.{name}" if prefix else name
                for name, _ in module.named_parameters(recurse=False)
            }
    return names


def _rate_of(name: str, config: OptimConfig) -> tuple[float, ScheduleConfig]:
    for group in reversed(config.groups):
        if fnmatchcase(name, group.pattern):
            return group.lr, group.schedule or config.schedule
    return config.lr, config.schedule


def _check_patterns(groups: Sequence[GroupConfig], names: Sequence[str]) -> None:
    for group in groups:
        if not any(fnmatchcase(name, group.pattern) for name in names):
            near = did_you_mean(group.pattern, _globs(names))
            raise ConfigError(f"optim.groups: {group.pattern!r} matches no parameter{near}")


def _globs(names: Sequence[str]) -> set[str]:
    """`a.*` and `a.b.*` for a parameter `a.b.c`: what patterns usually look like."""
    parts = [name.split(".") for name in names]
    return {".".join(part[:depth]) + ".*" for part in parts for depth in range(1, len(part))}

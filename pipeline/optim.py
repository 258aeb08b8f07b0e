"""The optimiser: which parameter belongs to which group, and the learning rate of each at every
step.

A rate is a pure function of the step, so that nothing about it needs saving. Group rules follow the
released training: no weight decay for biases and nn.LayerNorm (a 2-d layer norm of one's own does
decay), rates that shrink with depth, groups with settings of their own, the last one counting.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
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
    "parameter_table",
]

GROUP_FIELDS = ("lr", "weight_decay", "depth_scale", "schedule")


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
    elif schedule.shape == "step":
        factor = schedule.drop ** sum(progress >= share for share in schedule.drops)
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


def parameter_table(model: nn.Module, split: Sequence[str] = ()) -> str:
    """What is trained, part by part, as lines of text.

    split: parts to show by their own parts, such as `image_encoder`. The last line says what the
    frozen parameters save: a gradient and AdamW's two moments each, fp32.
    """
    parts: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        words = name.split(".")
        depth = 2 if words[0] in split else 1
        part = ".".join(words[:depth]) if len(words) > depth else "(its own)"
        counts = parts.setdefault(part, [0, 0])
        counts[0] += parameter.numel()
        counts[1] += parameter.numel() * parameter.requires_grad
    parts = dict(sorted(parts.items()))
    total, trained = (sum(column) for column in zip(*parts.values(), strict=True))
    rows = [("part", "parameters", "trained")]
    rows += [(part, f"{count:,}", f"{own:,}") for part, (count, own) in parts.items()]
    rows.append(("total", f"{total:,}", f"{trained:,}"))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}" for a, b, c in rows]
    saved = 3 * 4 * (total - trained) / 2**20
    return "\n".join([*lines, f"frozen parameters save {saved:,.1f} MiB of optimiser memory"])


def build_optimizer(
    model: nn.Module,
    config: OptimConfig,
    total_steps: int,
    layers_above: Callable[[str], int] | None = None,
    shards: Mapping[str, nn.Parameter] | None = None,
) -> tuple[torch.optim.AdamW, Rates]:
    """AdamW over the trainable parameters of `model`, and the rates of its groups over
    `total_steps`.

    layers_above: how many layers lie above the parameter of that name, for `layer_decay`; 0 where
    it does not apply. shards: what stands for a parameter of that name (`pipeline.sharding`). Raises
    ConfigError for a group pattern that matches nothing.
    """
    if config.layer_decay < 1 and layers_above is None:
        raise ConfigError(
            "layer_decay: this model does not say which layer a parameter belongs to; leave it at 1"
        )
    _check_patterns(config.groups, model)
    undecayed, owners = _undecayed_names(model), _owners(model)
    groups: dict[tuple[float, ScheduleConfig, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            depth = 1.0 if layers_above is None else config.layer_decay ** layers_above(name)
            plain = GroupConfig(
                lr=config.lr,
                weight_decay=0.0 if name in undecayed else config.weight_decay,
                depth_scale=depth,
                schedule=config.schedule,
            )
            found = _settings_of(name, owners[name], plain, config.groups)
            groups.setdefault(found, []).append((shards or {}).get(name, parameter))
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


def _owners(model: nn.Module) -> dict[str, str]:
    """The class of the module that owns each parameter, by the parameter's name."""
    return {
        f"{prefix}.{name}" if prefix else name: type(module).__name__
        for prefix, module in model.named_modules()
        for name, _ in module.named_parameters(recurse=False)
    }


def _settings_of(
    name: str, owner: str, plain: GroupConfig, groups: Sequence[GroupConfig]
) -> tuple[float, ScheduleConfig, float]:
    """Rate, schedule and weight decay of a parameter: `plain`, changed by the groups it is in."""
    found = {field: getattr(plain, field) for field in GROUP_FIELDS}
    for group in groups:
        if fnmatchcase(name, group.pattern) and group.module in (None, owner):
            said = {field: getattr(group, field) for field in GROUP_FIELDS}
            found |= {field: value for field, value in said.items() if value is not None}
    return found["lr"] * found["depth_scale"], found["schedule"], found["weight_decay"]


def _check_patterns(groups: Sequence[GroupConfig], model: nn.Module) -> None:
    owners = _owners(model)
    for group in groups:
        named = [name for name in owners if fnmatchcase(name, group.pattern)]
        if not named:
            near = did_you_mean(group.pattern, _globs(list(owners)))
            raise ConfigError(f"optim.groups: {group.pattern!r} matches no parameter{near}")
        classes = {owners[name] for name in named}
        if group.module is not None and group.module not in classes:
            raise ConfigError(
                f"optim.groups: no parameter of {group.pattern!r} belongs to a module of class "
                f"{group.module!r}{did_you_mean(group.module, classes)}"
            )


def _globs(names: Sequence[str]) -> set[str]:
    """`a.*` and `a.b.*` for a parameter `a.b.c`: what patterns usually look like."""
    parts = [name.split(".") for name in names]
    return {".".join(part[:depth]) + ".*" for part in parts for depth in range(1, len(part))}

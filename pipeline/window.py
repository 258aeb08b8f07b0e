"""What the steps since the last reading left on the device, and how it is read."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import psutil
import torch
from torch import Tensor

from pipeline.distributed import World


@dataclass(frozen=True)
class Taken:
    """One step of one rank; the tensors are scalars on the device."""

    step: int
    """Steps done before it."""
    names: tuple[str, ...]
    """The samples of this rank."""
    parts: dict[str, Tensor]
    """`loss` and its parts, of this rank."""
    bad: Tensor
    """Above 0 where the step was left out, on all ranks."""
    broken: Tensor
    """True where that was for more than fp16's range."""
    norm: Tensor
    """Of the gradient over all ranks, before it was clipped."""


@dataclass(frozen=True)
class Outcome:
    """How one step went, on the host; the same on every rank but for `names` and `loss`."""

    step: int
    bad: bool
    broken: bool
    names: tuple[str, ...]
    loss: float


@dataclass
class Window:
    """The steps since the last reading."""

    steps: list[Taken] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    waited: float = 0.0
    """Seconds spent on waiting for batches."""

    def read(self, world: World) -> tuple[dict[str, float], list[Outcome]]:
        """Wait for the device: the metrics, averaged over the steps that were taken and over the
        ranks, and how each step went."""
        bad = [flag > 0 for flag in torch.stack([step.bad for step in self.steps]).tolist()]
        broken = torch.stack([step.broken for step in self.steps]).tolist()
        norms = torch.stack([step.norm for step in self.steps]).float().tolist()
        losses = torch.stack([step.parts["loss"] for step in self.steps]).tolist()
        sums: dict[str, list[Tensor]] = {}
        for step, is_bad in zip(self.steps, bad, strict=True):
            for name, value in step.parts.items() if not is_bad else ():
                sums.setdefault(name, []).append(value)
        own = {name: float(torch.stack(values).mean()) for name, values in sums.items()}
        metrics = world.mean(own)
        if not all(bad):
            good = [norm for norm, is_bad in zip(norms, bad, strict=True) if not is_bad]
            metrics["grad_norm"] = sum(good) / len(good)
        seconds = max(time.monotonic() - self.began, 1e-9)
        metrics["steps_per_second"] = len(bad) / seconds
        metrics["data_wait"] = self.waited / seconds
        metrics["memory_bytes"] = float(peak_memory(world.device))
        outcomes = [
            Outcome(step.step, is_bad, is_broken, step.names, loss)
            for step, is_bad, is_broken, loss in zip(self.steps, bad, broken, losses, strict=True)
        ]
        return metrics, outcomes


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that tensors took on a GPU so far; on a CPU, what the process holds now."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return int(psutil.Process().memory_info().rss)

"""A moving average of the weights, which often measures better than the last step's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """The exponential moving average of a model's trainable parameters.

    decay: how much of the average stays at each step; early on less, (1 + steps) / (10 + steps), so
    that the initial weights are soon forgotten. Source: TensorFlow's ExponentialMovingAverage.
    shards: what stands for a parameter of that name (`pipeline.sharding`).
    """

    def __init__(
        self, model: nn.Module, decay: float, shards: Mapping[str, nn.Parameter] | None = None
    ) -> None:
        self.decay = decay
        self.parameters = {
            name: (shards or {}).get(name, parameter)
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }
        self.values = {name: item.detach().clone() for name, item in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int, bad: Tensor) -> None:
        """After step number `step`, 0 for the first; `bad`: scalar, 1 where it was left out."""
        share = (1 - min(self.decay, (1 + step) / (10 + step))) * (1 - bad)
        values = list(self.values.values())
        way = torch._foreach_sub(list(self.parameters.values()), values)
        torch._foreach_mul_(way, share)
        torch._foreach_add_(values, way)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside the block the model has the averaged weights."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, parameter in self.parameters.items():
            kept = parameter.detach().clone()
            parameter.copy_(self.values[name])
            self.values[name].copy_(kept)

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return dict(self.values)

    def load_state_dict(self, values: Mapping[str, Tensor]) -> None:
        """Continue from `values`. Raises KeyError where other parameters were averaged."""
        if values.keys() != self.values.keys():
            raise KeyError(f"averages of {len(values)} parameters, expected {len(self.values)}")
        for name, value in values.items():
            self.values[name].copy_(value)

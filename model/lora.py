"""Low-rank adaptation: train a small change of the attention projections instead of their weights.

W becomes W + (alpha / rank) B A, with A [rank, inputs] and B [outputs, rank], B zero at first.
Source: Hu et al., LoRA, section 4.1. Afterwards `merged` adds the change to the weights, and the
network is an ordinary one again.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from model.policy import LoRAConfig
from model.sam2 import SAM2
from pipeline.errors import ConfigError


class LowRankChange(nn.Module):
    """A weight [outputs, inputs], changed by a product of rank `rank`."""

    def __init__(self, outputs: int, inputs: int, rank: int, alpha: float) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.empty(rank, inputs))
        self.b = nn.Parameter(torch.zeros(outputs, rank))
        self.scale = alpha / rank
        nn.init.kaiming_uniform_(self.a, a=5**0.5)

    def forward(self, weight: Tensor) -> Tensor:
        """[outputs, inputs] to the same shape and dtype."""
        return weight + self.scale * (self.b @ self.a).to(weight.dtype)


def add_lora(model: SAM2, config: LoRAConfig) -> list[str]:
    """Let the layers that match any pattern learn by a low-rank change, their weights frozen.

    Returns the names of these layers. Raises ConfigError for a pattern that matches no linear layer.
    """
    linear = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    for pattern in config.layers:
        if not any(fnmatchcase(name, pattern) for name in linear):
            raise ConfigError(
                f"lora.layers: {pattern!r} matches no linear layer; expected names such as "
                f"{', '.join(list(linear)[:2])}, or globs over them"
            )
    chosen = [name for name in linear if any(fnmatchcase(name, p) for p in config.layers)]
    for name in chosen:
        layer = linear[name]
        layer.weight.requires_grad_(False)
        change = LowRankChange(layer.out_features, layer.in_features, config.rank, config.alpha)
        parametrize.register_parametrization(layer, "weight", change.to(layer.weight.device))
    return chosen


def merged(model: SAM2) -> SAM2:
    """The network with its low-rank changes added to the weights: `model` itself where it has none,
    else a new one on the CPU with the published names."""
    adapted = {n: m for n, m in model.named_modules() if parametrize.is_parametrized(m)}
    if not adapted:
        return model
    plain = SAM2(model.config)
    values = model.state_dict()
    for name, layer in adapted.items():
        values[f"{name}.weight"] = layer.weight.detach()
    plain.load_state_dict({name: values[name] for name in plain.state_dict()})
    return plain.train(model.training)

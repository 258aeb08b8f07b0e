"""Layers that several parts of the network share."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.lean import gelu_linear, norm_linear


class MLP(nn.Module):
    """Linear layers with an activation between them: [..., inputs] to [..., outputs]."""

    def __init__(
        self,
        inputs: int,
        inner: int,
        outputs: int,
        layers: int,
        activation: Callable[[Tensor], Tensor] = F.relu,
    ) -> None:
        super().__init__()
        widths = [inputs, *[inner] * (layers - 1), outputs]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.activation = activation

    def forward(self, x: Tensor, norm: nn.LayerNorm | None = None) -> Tensor:
        """[..., inputs] to [..., outputs]; no activation at the end. norm: of the inputs."""
        first, *others = (cast(nn.Linear, layer) for layer in self.layers)
        x = first(x) if norm is None else norm_linear(x, norm, first.weight, first.bias)
        gelu = self.activation is F.gelu
        for layer in others:
            x = gelu_linear(x, layer) if gelu else layer(self.activation(x))
        return x


class LayerNorm2d(nn.Module):
    """Layer norm over the channels of [N, C, H, W].

    Deliberately not a torch LayerNorm: the training recipe decays its weight, unlike theirs. Runs
    on the channels-last view, where torch has one fused kernel for it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to the same shape, in channels-last memory."""
        last = x.permute(0, 2, 3, 1)
        normed = F.layer_norm(last, self.weight.shape, self.weight, self.bias, eps=1e-6)
        return normed.permute(0, 3, 1, 2)


class DropPath(nn.Module):
    """In training, silence a branch for some images and scale it up for the others."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] to the same shape."""
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        coin = torch.rand(len(x), *[1] * (x.ndim - 1), device=x.device) < keep
        return x * (coin.to(x.dtype) / keep)

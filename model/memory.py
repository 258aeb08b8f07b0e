"""Making memories of frames, and looking at a frame in their light.

Letters: N objects, C hidden width, Cm memory width, L = h * w cells; S = 16 h.
"""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
from torch import Tensor, nn

from model.attention import Attention
from model.config import SAM2Config
from model.layers import LayerNorm2d
from model.lean import dropped, dropped_relu, gelu_linear, norm_linear
from model.position import rotations

MASK_CHANNELS = (1, 4, 16, 64, 256)
FUSER_BLOCKS = 2


class MemoryEncoder(nn.Module):
    """A frame's features and one object's mask on it, as one memory map."""

    def __init__(self, config: SAM2Config) -> None:
        super().__init__()
        hidden = config.hidden
        self.mask_downsampler = MaskDownsampler(hidden)
        self.pix_feat_proj = nn.Conv2d(hidden, hidden, kernel_size=1)
        self.fuser = Fuser(hidden)
        self.out_proj = nn.Conv2d(hidden, config.memory_dim, kernel_size=1)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """One memory per object: [N, Cm, h, w].

        features [N or 1, C, h, w], never conditioned on memory; mask [N, 1, S, S], about -10..10.
        """
        fused = self.pix_feat_proj(features) + self.mask_downsampler(mask)
        return self.out_proj(self.fuser(fused))


class MaskDownsampler(nn.Module):
    """A mask at full size to features at a sixteenth of it."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        steps: list[nn.Module] = []
        for before, after in pairwise(MASK_CHANNELS):
            steps += [
                nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1),
                LayerNorm2d(after),
                nn.GELU(),
            ]
        self.encoder = nn.Sequential(*steps, nn.Conv2d(MASK_CHANNELS[-1], hidden, kernel_size=1))

    def forward(self, mask: Tensor) -> Tensor:
        """[N, 1, S, S] to [N, C, S/16, S/16]."""
        return self.encoder(mask)


class Fuser(nn.Module):
    """ConvNeXt blocks, which begin as copies of one another."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        block = ConvNeXtBlock(hidden)
        self.layers = nn.ModuleList(copy.deepcopy(block) for _ in range(FUSER_BLOCKS))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] to the same shape."""
        for layer in self.layers:
            x = layer(x)
        return x


class ConvNeXtBlock(nn.Module):
    """Depthwise 7 x 7, then an MLP at each cell, scaled down to nearly nothing at first."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((hidden,), 1e-6))
        self.dwconv = nn.Conv2d(hidden, hidden, kernel_size=7, padding=3, groups=hidden)
        self.norm = LayerNorm2d(hidden)
        self.pwconv1 = nn.Linear(hidden, 4 * hidden)
        self.pwconv2 = nn.Linear(4 * hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] to the same shape."""
        cells = self.norm(self.dwconv(x)).permute(0, 2, 3, 1)
        cells = self.gamma * gelu_linear(self.pwconv1(cells), self.pwconv2)
        return x + cells.permute(0, 3, 1, 2)


class MemoryAttention(nn.Module):
    """The current frame reads the memories; the layers begin as copies of one another."""

    def __init__(self, config: SAM2Config) -> None:
        super().__init__()
        layer = MemoryAttentionLayer(config)
        self.layers = nn.ModuleList(copy.deepcopy(layer) for _ in range(config.memory_layers))
        self.norm = nn.LayerNorm(config.hidden)

    def forward(
        self, image: Tensor, position: Tensor, memory: Tensor, memory_position: Tensor, maps: int
    ) -> Tensor:
        """Condition image [N or 1, C, h, w] on memory: [N, C, h, w].

        position: broadcast against image. memory [N, K, Cm] and memory_position [1 or N, K, Cm]:
        first `maps` memory maps of h * w tokens each, then pointer tokens, which have no place in
        the image.
        """
        height, width = image.shape[2:]
        table = rotations(height, width, image.shape[1], image.device)
        # The published models weigh the position by 0.1 where the image enters.
        x = (image + 0.1 * position).flatten(2).transpose(1, 2)
        if self.training:  # dropout is drawn for each object
            x = x.expand(len(memory), -1, -1)
        keys = memory + memory_position
        for layer in self.layers:
            x = layer(x, keys, memory, table, maps * height * width)
        return self.norm(x).transpose(1, 2).unflatten(2, (height, width))


class MemoryAttentionLayer(nn.Module):
    """Self-attention, attention to memories and an MLP, each pre-normed, with a residual."""

    def __init__(self, config: SAM2Config) -> None:
        super().__init__()
        width, dropout = config.hidden, config.dropout
        self.self_attn = Attention(width, heads=1, dropout=dropout)
        self.cross_attn_image = Attention(
            width, heads=1, key_width=config.memory_dim, dropout=dropout
        )
        self.linear1 = nn.Linear(width, config.feedforward)
        self.linear2 = nn.Linear(config.feedforward, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)
        self.dropout = dropout

    def forward(
        self, x: Tensor, keys: Tensor, values: Tensor, table: Tensor, rotated_keys: int
    ) -> Tensor:
        """x [N or 1, L, C]; keys, values [N, K, Cm], of which the first `rotated_keys` lie on maps."""
        rate = self.dropout if self.training else 0.0
        normed = self.norm1(x)
        x = x + dropped(self.self_attn(normed, normed, normed, table, normed.shape[1]), rate)
        read = self.cross_attn_image(self.norm2(x), keys, values, table, rotated_keys)
        x = x + dropped(read, rate)
        inner = norm_linear(x, self.norm3, self.linear1.weight, self.linear1.bias)
        return x + dropped(self.linear2(dropped_relu(inner, rate)), rate)


def without_overlap(logits: Tensor) -> Tensor:
    """Let each pixel belong to the object with the highest logit: [N, 1, H, W] to the same shape.

    The others' logits are lowered to -10 there, a certain no. For one clip's objects at a time.
    """
    winner = logits.argmax(dim=0, keepdim=True)
    objects = torch.arange(len(logits), device=logits.device)[:, None, None, None]
    return torch.where(objects == winner, logits, logits.clamp(max=-10.0))

"""Hiera, the backbone: a vision transformer in four stages with attention inside windows.

Everything after the patch embedding is channels-last, [B, H, W, C].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import TrunkConfig
from model.layers import MLP, DropPath
from model.lean import halve, norm_linear


class Hiera(nn.Module):
    """Images [B, 3, H, W], sides multiples of 32, to four maps.

    Map i is [B, width * 2^i, H / 2^(i + 2), W / 2^(i + 2)].
    """

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        width, tile = config.width, config.windows[0]
        self.pos_embed = nn.Parameter(torch.zeros(1, width, config.background, config.background))
        self.pos_embed_window = nn.Parameter(torch.zeros(1, width, tile, tile))
        self.patch_embed = PatchEmbed(width)
        self.blocks = nn.ModuleList(_blocks(config))
        self.last_of_stage = [sum(config.depths[: i + 1]) - 1 for i in range(4)]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Four maps, finest first, in channels-last memory."""
        x = self.patch_embed(images)
        x = x + self.position(x.shape[1], x.shape[2])
        stages = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.last_of_stage:
                stages.append(x.permute(0, 3, 1, 2))
        return stages

    def position(self, height: int, width: int) -> Tensor:
        """A smooth map plus one that repeats in every window: [1, height, width, C]."""
        smooth = F.interpolate(self.pos_embed, size=(height, width), mode="bicubic")
        tile = self.pos_embed_window
        repeats = (1, 1, height // tile.shape[2], width // tile.shape[3])
        return (smooth + tile.tile(repeats)).permute(0, 2, 3, 1)


class PatchEmbed(nn.Module):
    """Overlapping 7 x 7 patches every 4 pixels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=7, stride=4, padding=3)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] to [B, H/4, W/4, C]."""
        return self.proj(images).permute(0, 2, 3, 1)


class Block(nn.Module):
    """Attention and MLP; where a stage begins, also half the resolution and twice the width."""

    def __init__(
        self, width_in: int, width: int, heads: int, window: int, halve: bool, drop_path: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width_in, eps=1e-6)
        self.attn = WindowAttention(width_in, width, heads, window, halve)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = MLP(width, 4 * width, width, layers=2, activation=F.gelu)
        if halve:
            self.proj = nn.Linear(width_in, width)
        self.halve = halve

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, width_in] to [B, H, W, width], or half of H and W."""
        if self.halve:
            normed = self.norm1(x)
            x = halve(self.proj(normed)) + self.drop_path(self.attn(normed))
        else:
            x = x + self.drop_path(self.attn(x, self.norm1))
        return x + self.drop_path(self.mlp(x, self.norm2))


class WindowAttention(nn.Module):
    """Attention among the tokens of a window (0: of the image).

    Where a stage begins, the queries are pooled, which halves the map.
    """

    def __init__(self, width_in: int, width: int, heads: int, window: int, halve: bool) -> None:
        super().__init__()
        self.qkv = nn.Linear(width_in, 3 * width)
        self.proj = nn.Linear(width, width)
        self.heads, self.window, self.halve = heads, window, halve

    def forward(self, x: Tensor, norm: nn.LayerNorm | None = None) -> Tensor:
        """[B, H, W, width_in] to [B, H, W, width], or half of H and W. norm: of the inputs."""
        height, width = x.shape[1:3]
        rows, columns = (self.window, self.window) if self.window else (height, width)
        below, right = -height % rows, -width % columns
        if below or right:
            # The published models pad the input with zeros and attend to the padding without a
            # mask, so a padded token's projection is the bias. Padding after it gives the same for less.
            bare = self._project(x, norm, None)
            padded = F.pad(bare, (0, 0, 0, right, 0, below)).add_(self.qkv.bias.to(bare.dtype))
            qkv = _windows(padded, rows, columns)
        else:
            qkv = self._project(_windows(x, rows, columns), norm, self.qkv.bias)
        q, k, v = qkv.chunk(3, dim=-1)
        if self.halve:
            q = halve(q)
            height, width, rows, columns = height // 2, width // 2, rows // 2, columns // 2
        q, k, v = (
            t.flatten(1, 2).unflatten(2, (self.heads, -1)).transpose(1, 2) for t in (q, k, v)
        )
        answer = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.proj(_whole(answer.unflatten(1, (rows, columns)), height, width))

    def _project(self, x: Tensor, norm: nn.LayerNorm | None, bias: Tensor | None) -> Tensor:
        """Queries, keys and values, [..., width_in] to [..., 3 * width]."""
        if norm is None:
            return F.linear(x, self.qkv.weight, bias)
        return norm_linear(x, norm, self.qkv.weight, bias)


def _blocks(config: TrunkConfig) -> list[Block]:
    """All blocks in order. A stage's window starts with its second block: the first still works on
    the map of the stage before."""
    blocks: list[Block] = []
    depth = sum(config.depths)
    width_in, heads, window = config.width, config.heads, config.windows[0]
    for stage, count in enumerate(config.depths):
        width = config.stage_widths[stage]
        for block in range(count):
            index = len(blocks)
            halve = stage > 0 and block == 0
            heads = heads * 2 if halve else heads
            side = 0 if index in config.global_blocks else window
            drop = config.drop_path * index / max(depth - 1, 1)
            blocks.append(Block(width_in, width, heads, side, halve, drop))
            width_in, window = width, config.windows[stage]
    return blocks


def _windows(x: Tensor, rows: int, columns: int) -> Tensor:
    """Cut a map into windows: [B, H, W, C] to [B * windows, rows, columns, C]."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // rows, rows, width // columns, columns, channels)
    return x.transpose(2, 3).reshape(-1, rows, columns, channels)


def _whole(x: Tensor, height: int, width: int) -> Tensor:
    """The reverse of `_windows`, without what lies beyond [B, height, width, C]."""
    _, rows, columns, channels = x.shape
    down, across = -(-height // rows), -(-width // columns)
    x = x.reshape(-1, down, across, rows, columns, channels).transpose(2, 3)
    return x.reshape(-1, down * rows, across * columns, channels)[:, :height, :width]

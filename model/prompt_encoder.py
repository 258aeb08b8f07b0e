"""Clicks, boxes and earlier masks, as the mask decoder reads them."""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import SAM2Config
from model.layers import LayerNorm2d
from model.types import Prompts

POINT_KINDS = 4
"""Outside, inside, first and second corner of a box."""


class RandomFourier(nn.Module):
    """Random Fourier features of a place in the unit square."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.positional_encoding_gaussian_matrix: Tensor
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, hidden // 2))

    def forward(self, places: Tensor) -> Tensor:
        """x and y [..., 2] in 0..1 to [..., hidden]."""
        phase = 2 * math.pi * ((2 * places - 1) @ self.positional_encoding_gaussian_matrix)
        return torch.cat([phase.sin(), phase.cos()], dim=-1)


class PromptEncoder(nn.Module):
    """Prompts of N objects to sparse tokens [N, P + 1 or 2, C] and a dense map for each."""

    def __init__(self, config: SAM2Config) -> None:
        super().__init__()
        hidden = config.hidden
        self.image_size = config.image_size
        self.pe_layer = RandomFourier(hidden)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, hidden) for _ in range(POINT_KINDS))
        self.not_a_point_embed = nn.Embedding(1, hidden)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, 4, kernel_size=2, stride=2),
            LayerNorm2d(4),
            nn.GELU(),
            nn.Conv2d(4, 16, kernel_size=2, stride=2),
            LayerNorm2d(16),
            nn.GELU(),
            nn.Conv2d(16, hidden, kernel_size=1),
        )
        self.no_mask_embed = nn.Embedding(1, hidden)

    def forward(
        self, prompts: Prompts, grid: tuple[int, int] | torch.Size
    ) -> tuple[Tensor, Tensor]:
        """Sparse tokens of the points and the dense map of the mask; grid: (h, w) of that map."""
        return self.points(prompts.points, prompts.labels), self.mask(prompts.mask_logits, grid)

    def points(self, points: Tensor, labels: Tensor) -> Tensor:
        """points [N, P, 2] in pixels, labels [N, P] to [N, P + 1, C].

        A token that is not a point always follows, and one more comes first where P is 0: the
        published models are trained with both.
        """
        end = 2 if labels.shape[1] == 0 else 1
        kinds = F.pad(labels.long() + 1, (0, end))
        kinds_of_point = [self.not_a_point_embed, *self.point_embeddings]
        table = torch.cat([cast(nn.Embedding, kind).weight for kind in kinds_of_point])
        place = self.pe_layer((F.pad(points, (0, 0, 0, end)).float() + 0.5) / self.image_size)
        return place * (kinds > 0)[..., None] + F.embedding(kinds, table)

    def mask(self, logits: Tensor | None, grid: tuple[int, int] | torch.Size) -> Tensor:
        """Logits [N, 1, 4h, 4w], or larger, to [N, C, h, w], and None to [1, C, 1, 1]."""
        if logits is None:
            return self.no_mask_embed.weight[:, :, None, None]
        side = (4 * grid[0], 4 * grid[1])
        if logits.shape[-2:] != side:
            logits = F.interpolate(
                logits.float(), size=side, mode="bilinear", align_corners=False, antialias=True
            )
        return self.mask_downscaling(logits)

    def grid(self, height: int, width: int) -> Tensor:
        """The encoding of the centres of the map's cells, float32 [1, C, height, width]."""
        matrix = self.pe_layer.positional_encoding_gaussian_matrix
        y = (torch.arange(height, device=matrix.device, dtype=matrix.dtype) + 0.5) / height
        x = (torch.arange(width, device=matrix.device, dtype=matrix.dtype) + 0.5) / width
        places = torch.stack(
            [x[None, :].expand(height, width), y[:, None].expand(height, width)], dim=-1
        )
        return self.pe_layer(places).permute(2, 0, 1)[None]

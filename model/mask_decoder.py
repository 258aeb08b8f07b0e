"""From an object's view of a frame and its prompts to masks, their quality and its presence.

Letters: N objects, M masks, T tokens, C hidden width; h = w = S / 16.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.attention import TwoWayTransformer
from model.config import SAM2Config
from model.layers import MLP, LayerNorm2d

MASKS = 4
"""One mask for clear prompts, three for ambiguous ones."""
STABILITY_MARGIN, STABILITY_LIMIT = 0.05, 0.98


class DecodedMasks(NamedTuple):
    """M candidates of N objects, before anything is chosen."""

    logits: Tensor
    """[N, M, 4h, 4w]."""
    ious: Tensor
    """[N, M], estimated, 0..1."""
    tokens: Tensor
    """[N, M, C], the output token of each mask."""
    object_score: Tensor
    """[N, 1], logit of presence."""

    def several(self) -> tuple[Tensor, Tensor, Tensor]:
        """Masks, ious and tokens of the three candidates for an ambiguous prompt."""
        return self.logits[:, 1:], self.ious[:, 1:], self.tokens[:, 1:]

    def single(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mask, iou and token of the one candidate for a clear prompt."""
        return self.logits[:, :1], self.ious[:, :1], self.tokens[:, :1]

    def stable(self) -> tuple[Tensor, Tensor, Tensor]:
        """As `single`, but an unstable mask and its iou give way to the best of the three.

        The token stays that of the single mask, as in the published predictors.
        """
        mask, iou, token = self.single()
        keep = stability(mask)[..., 0] >= STABILITY_LIMIT
        row = torch.arange(len(mask), device=mask.device)
        best = self.ious[:, 1:].argmax(dim=1) + 1
        other, other_iou = self.logits[row, best][:, None], self.ious[row, best][:, None]
        return (
            torch.where(keep[:, :, None, None], mask, other),
            torch.where(keep, iou, other_iou),
            token,
        )


def stability(logits: Tensor, threshold: float = 0.0, margin: float = STABILITY_MARGIN) -> Tensor:
    """How little masks [N, M, H, W] change when the threshold moves: IoU in 0..1, [N, M, 1].

    Between the masks above threshold + margin and above threshold - margin; 1 where the latter is
    empty.
    """
    inner = (logits > threshold + margin).flatten(2).sum(dim=2, keepdim=True).float()
    outer = (logits > threshold - margin).flatten(2).sum(dim=2, keepdim=True).float()
    return torch.where(outer > 0, inner / outer.clamp(min=1), 1.0)


class MaskDecoder(nn.Module):
    """All four masks at a quarter of the input's side."""

    def __init__(self, config: SAM2Config) -> None:
        super().__init__()
        hidden = config.hidden
        self.transformer = TwoWayTransformer(config)
        self.iou_token = nn.Embedding(1, hidden)
        self.mask_tokens = nn.Embedding(MASKS, hidden)
        self.obj_score_token = nn.Embedding(1, hidden)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(hidden, hidden // 4, kernel_size=2, stride=2),
            LayerNorm2d(hidden // 4),
            nn.GELU(),
            nn.ConvTranspose2d(hidden // 4, hidden // 8, kernel_size=2, stride=2),
            nn.GELU(),
        )
        self.conv_s0 = nn.Conv2d(hidden, hidden // 8, kernel_size=1)
        self.conv_s1 = nn.Conv2d(hidden, hidden // 4, kernel_size=1)
        self.output_hypernetworks_mlps = nn.ModuleList(
            MLP(hidden, hidden, hidden // 8, layers=3) for _ in range(MASKS)
        )
        self.iou_prediction_head = MLP(hidden, hidden, MASKS, layers=3)
        self.pred_obj_score_head = MLP(hidden, hidden, 1, layers=3)

    def forward(
        self, image: Tensor, grid: Tensor, sparse: Tensor, dense: Tensor, s4: Tensor, s8: Tensor
    ) -> DecodedMasks:
        """Decode the prompts of N objects.

        image [N, C, h, w]; grid [1, C, h, w], where its cells are; sparse [N, T, C] and dense
        (broadcast against image) of the prompt encoder; s4 [N, C/8, 4h, 4w], s8 [N, C/4, 2h, 2w].
        """
        # The order of the output tokens is that of the published weights: presence, quality, masks.
        own = torch.cat(
            [self.obj_score_token.weight, self.iou_token.weight, self.mask_tokens.weight]
        )
        tokens = torch.cat([own.to(sparse.dtype).expand(len(sparse), -1, -1), sparse], dim=1)
        cells = (image + dense).flatten(2).transpose(1, 2)
        tokens, cells = self.transformer(tokens, cells, grid.flatten(2).transpose(1, 2))
        mask_tokens = tokens[:, 2 : 2 + MASKS]
        return DecodedMasks(
            logits=self._masks(
                mask_tokens, cells.transpose(1, 2).unflatten(2, image.shape[2:]), s4, s8
            ),
            ious=self.iou_prediction_head(tokens[:, 1]).sigmoid(),
            tokens=mask_tokens,
            object_score=self.pred_obj_score_head(tokens[:, 0]),
        )

    def _masks(self, tokens: Tensor, image: Tensor, s4: Tensor, s8: Tensor) -> Tensor:
        """Enlarge the image [N, C, h, w] fourfold; read it with a vector from each token."""
        up8, norm, _, up4, _ = self.output_upscaling
        image = F.gelu(norm(up8(image) + s8))
        image = F.gelu(up4(image) + s4)
        vectors = [mlp(tokens[:, i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)]
        return (torch.stack(vectors, dim=1) @ image.flatten(2)).unflatten(2, image.shape[2:])

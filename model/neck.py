"""The feature pyramid over the trunk, and the image encoder that holds both."""

from __future__ import annotations

from collections import OrderedDict
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from model.config import SAM2Config
from model.hiera import Hiera


class ImageEncoder(nn.Module):
    """Trunk and neck under the names of the published checkpoints; `SAM2.encode` runs them."""

    def __init__(self, config: SAM2Config) -> None:
        super().__init__()
        self.trunk = Hiera(config.trunk)
        self.neck = FpnNeck(config)


class FpnNeck(nn.Module):
    """One lateral 1 x 1 convolution per stage; `convs[0]` is the coarsest.

    Only stride 16 receives something from above (from stride 32, which is read for nothing else).
    """

    def __init__(self, config: SAM2Config) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Sequential(OrderedDict(conv=nn.Conv2d(width, config.hidden, kernel_size=1)))
            for width in reversed(config.trunk.stage_widths)
        )

    def coarse(self, stages: list[Tensor]) -> Tensor:
        """Stride 16, [B, C, S/16, S/16]: its lateral plus the enlarged lateral of stride 32."""
        lateral = self.convs[1](stages[2])
        above = F.interpolate(self.convs[0](stages[3]).float(), scale_factor=2.0, mode="nearest")
        return lateral + above.to(lateral.dtype)

    def fine(self, stages: list[Tensor], level: int, head: nn.Conv2d) -> Tensor:
        """Stride 4 (level 0) or 8 (level 1), already through the mask decoder's 1 x 1 convolution.

        Two linear maps in a row are one: multiplying their weights first spares a map of C channels
        at the finest resolution, forward and backward. Equal up to rounding.
        """
        lateral = cast(nn.Conv2d, cast(nn.Sequential, self.convs[3 - level])[0])
        (first, first_bias), (second, second_bias) = _pointwise(lateral), _pointwise(head)
        weight, bias = second @ first, second @ first_bias + second_bias
        return F.conv2d(stages[level], weight[:, :, None, None], bias)


def _pointwise(conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Weight [out, in] and bias [out] of a 1 x 1 convolution."""
    assert conv.bias is not None
    return conv.weight.flatten(1), conv.bias

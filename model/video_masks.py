"""What a session hands out: the masks of one frame, enlarged only when somebody looks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from model.memory import without_overlap


@dataclass(frozen=True)
class FrameMasks:
    """Where the objects are on one frame. Unpacks as `frame, ids, logits`."""

    frame: int
    ids: list[int]
    """Of the O objects, ascending."""
    low: Tensor
    """Mask logits at the network's resolution, float32 [O, 1, S/4, S/4]; -1024 everywhere on an
    object that is absent or not known yet."""
    size: tuple[int, int]
    """Height and width of the video."""
    exclusive: bool = False
    """Each pixel belongs to one object at most."""

    @property
    def logits(self) -> Tensor:
        """Mask logits at the size of the video, float32 [O, 1, H, W]; an object is where they are
        positive. Computed when asked for."""
        full = F.interpolate(self.low, size=self.size, mode="bilinear", align_corners=False)
        return without_overlap(full) if self.exclusive and len(full) > 1 else full

    def __iter__(self) -> Iterator[Any]:
        return iter((self.frame, self.ids, self.logits))

"""What the data wing hands out: one clip, and a batch of clips.

Sizes: B clips, T frames, O objects of one clip, N objects of the whole batch, H and W pixels, S
the model's side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True)
class Clip:
    """A window of one video, or one picture as a video of one frame.

    frames: uint8 [T, H, W, 3], RGB.
    masks: bool [T, O, H, W]; an object that is absent on a frame is all False there. Masks may
    overlap.
    object_ids: the data set's own number of each object, length O.
    frame_numbers: the data set's own number of each frame, length T.
    """

    name: str
    dataset: str
    frames: np.ndarray
    masks: np.ndarray
    object_ids: tuple[int, ...]
    frame_numbers: tuple[int, ...]


@dataclass
class ClipBatch:
    """Clips of equal length, ready for the device.

    frames: uint8 [B, T, 3, S, S], possibly a channels-last view.
    masks: bool [N, T, S, S], the objects of all clips, those of clip 0 first. N may be 0.
    clip_of_object: int64 [N], the row of `frames` each object belongs to.
    names: the B clip names, for messages.
    kind: "image" when T is 1 by nature, else "video".
    slots: the number of each clip in the whole step's batch over all ranks, length B.
    """

    frames: torch.Tensor
    masks: torch.Tensor
    clip_of_object: torch.Tensor
    names: tuple[str, ...]
    kind: Literal["image", "video"]
    slots: tuple[int, ...]

    def to(self, device: torch.device | str, non_blocking: bool = True) -> ClipBatch:
        """The same batch on `device`."""
        return ClipBatch(
            frames=self.frames.to(device, non_blocking=non_blocking),
            masks=self.masks.to(device, non_blocking=non_blocking),
            clip_of_object=self.clip_of_object.to(device, non_blocking=non_blocking),
            names=self.names,
            kind=self.kind,
            slots=self.slots,
        )

    def pin_memory(self) -> ClipBatch:
        """The same batch in page-locked memory, from which copies to a GPU need not wait."""
        return ClipBatch(
            frames=self.frames.pin_memory(),
            masks=self.masks.pin_memory(),
            clip_of_object=self.clip_of_object.pin_memory(),
            names=self.names,
            kind=self.kind,
            slots=self.slots,
        )

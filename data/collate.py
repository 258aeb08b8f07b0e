"""Clips of one step, side by side in one ClipBatch, and its way from one process to another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from data.spec import Kind
from data.types import Clip, ClipBatch
from pipeline.errors import DataError


def collate(clips: Sequence[Clip], kind: Kind, slots: Sequence[int]) -> ClipBatch:
    """Clips of equal length and size as one batch. Pixels stay uint8; nothing is copied twice, a
    single clip not at all.

    slots: the number of each clip in the batch of all ranks.

    Raises DataError for clips that differ in length or size.
    """
    shapes = {clip.frames.shape for clip in clips}
    if len(shapes) != 1:
        raise DataError(f"clips of one batch differ in shape: {sorted(shapes)}")
    objects = [clip.masks.swapaxes(0, 1) for clip in clips]
    alone = len(clips) == 1
    frames = clips[0].frames[None] if alone else np.stack([clip.frames for clip in clips])
    masks = np.ascontiguousarray(objects[0]) if alone else np.concatenate(objects)
    owners = np.repeat(np.arange(len(clips)), [len(masks) for masks in objects])
    return ClipBatch(
        frames=torch.from_numpy(frames).permute(0, 1, 4, 2, 3),
        masks=torch.from_numpy(masks),
        clip_of_object=torch.from_numpy(owners.astype(np.int64)),
        names=tuple(f"{clip.dataset}/{clip.name}" for clip in clips),
        kind=kind,
        slots=tuple(slots),
    )


@dataclass
class PackedBatch:
    """A batch whose masks are bits, for the way from a worker: shared memory is slow to get and,
    in containers, small."""

    batch: ClipBatch
    """With `masks` uint8 [ceil(N*T*S*S / 8)]."""
    shape: tuple[int, ...]
    """That of the masks."""

    @classmethod
    def of(cls, batch: ClipBatch) -> PackedBatch:
        """`batch` with its masks packed."""
        bits = torch.from_numpy(np.packbits(batch.masks.numpy()))
        return cls(replace(batch, masks=bits), tuple(batch.masks.shape))

    def unpack(self) -> ClipBatch:
        """The batch as it was."""
        count = int(np.prod(self.shape))
        masks = np.unpackbits(self.batch.masks.numpy(), count=count).view(bool)
        return replace(self.batch, masks=torch.from_numpy(masks).view(self.shape))

    def pin_memory(self) -> ClipBatch:
        """The batch as it was, in page-locked memory; called by torch's DataLoader."""
        return self.unpack().pin_memory()

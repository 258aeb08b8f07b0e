"""Clips of one step, side by side in one ClipBatch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from data.spec import Kind
from data.types import Clip, ClipBatch
from pipeline.errors import DataError


def collate(clips: Sequence[Clip], kind: Kind, slots: Sequence[int]) -> ClipBatch:
    """Clips of equal length and size as one batch. Pixels stay uint8; nothing is copied twice.

    slots: the number of each clip in the batch of all ranks.

    Raises DataError for clips that differ in length or size.
    """
    shapes = {clip.frames.shape for clip in clips}
    if len(shapes) != 1:
        raise DataError(f"clips of one batch differ in shape: {sorted(shapes)}")
    frames = torch.from_numpy(np.stack([clip.frames for clip in clips]))
    masks = np.concatenate([clip.masks.swapaxes(0, 1) for clip in clips])
    owners = np.repeat(np.arange(len(clips)), [clip.masks.shape[1] for clip in clips])
    return ClipBatch(
        frames=frames.permute(0, 1, 4, 2, 3),
        masks=torch.from_numpy(masks),
        clip_of_object=torch.from_numpy(owners.astype(np.int64)),
        names=tuple(f"{clip.dataset}/{clip.name}" for clip in clips),
        kind=kind,
        slots=tuple(slots),
    )

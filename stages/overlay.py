"""What the network answers on one training batch, as a picture for TensorBoard."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from data.collate import collate
from data.mixture import TrainingClips
from stages.clip_task import ClipTask
from stages.evaluation.overlays import Shown, strip

CLIPS = 4


def training_picture(task: ClipTask, clips: TrainingClips, step: int) -> np.ndarray:
    """A few clips of the batch of `step`: pictures with the true outlines, and below them the answers.

    Returns uint8 [height, width, 3]. Changes nothing in the model.
    """
    count = min(CLIPS, clips.batch_size(step))
    chosen = [clips.sample(step, slot) for slot in range(count)]
    batch = collate(chosen, clips.kind(step), range(count)).to(task.world.device)
    with torch.no_grad():
        output = task.track(batch, step)
    side = batch.masks.shape[-2:]
    lows = [steps[-1].low.float() if steps else None for steps in output.steps]
    masks = [
        F.interpolate(low, size=side, mode="bilinear")[:, 0] > 0
        if low is not None
        else torch.zeros_like(batch.masks[:, 0])
        for low in lows
    ]
    answers = torch.stack(masks, 1).cpu().numpy()
    owner = batch.clip_of_object.cpu().numpy()
    rows = []
    for index, clip in enumerate(chosen):
        mine = answers[owner == index].swapaxes(0, 1)
        rows.append(strip(Shown(clip.name, clip.frames, clip.masks, {"answer": mine})))
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows]
    return np.concatenate(padded)

"""Random changes of a clip, and its way to the model's square: the fast way.

Flip, turn, shear, shift, zoom and the resize are one matrix, so every frame and mask is sampled
once, straight to the output size; colours change by one matrix as well. `data.exact` does the same
draws one operation after the other.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from data.changes import ClipChange, Geometry, draw_changes
from data.colour import change_colours
from data.exact import change_exactly
from data.settings import Augment
from data.types import Clip
from data.warp import FILL, render, render_masks, tile


def augment_clip(clip: Clip, augment: Augment, side: int, rng: np.random.Generator) -> Clip:
    """`clip` changed at random and resized to side x side.

    Turn, shear, shift and zoom are given up where they would push an object out of the first
    frame. An object of which the resize leaves no pixel there is dropped; one that appears later,
    when it leaves none anywhere.
    """
    change = draw_changes(augment, len(clip.frames), rng)
    changed = (change_exactly if augment.exact else change_clip)(clip, change, side)
    first = np.asarray(clip.masks[0].any(axis=(1, 2)))
    seen = np.asarray(changed.masks.any(axis=(2, 3)))
    kept = np.flatnonzero(np.where(first, seen[0], seen.any(axis=0)))
    if len(kept) == len(first):
        return changed
    ids = tuple(clip.object_ids[o] for o in kept)
    return replace(changed, masks=changed.masks[:, kept], object_ids=ids)


def change_clip(clip: Clip, change: ClipChange, side: int) -> Clip:
    """Carry `change` out; every object is kept."""
    inner = side if change.tile is None else side // 2
    height, width = clip.frames.shape[1:3]
    geometries = _that_keep_objects(clip, [step.geometry for step in change.frames], inner)
    frames = np.empty((len(clip.frames), inner, inner, 3), dtype=np.uint8)
    # Objects first in memory, as in a batch.
    masks = np.zeros((*clip.masks.shape[1::-1], inner, inner), dtype=bool).swapaxes(0, 1)
    for t, (geometry, step) in enumerate(zip(geometries, change.frames, strict=True)):
        matrix = geometry.matrix(width, height, inner)
        change_colours(render(clip.frames[t], matrix, inner, FILL), step, out=frames[t])
        render_masks(clip.masks[t], matrix, inner, out=masks[t])
    if change.tile is not None:
        frames, masks = tile(frames, masks, side, change.tile)
    return replace(clip, frames=frames, masks=masks)


def _that_keep_objects(clip: Clip, geometries: list[Geometry], side: int) -> list[Geometry]:
    """`geometries`, or their flips alone where the first of them pushes an object out that a plain
    resize shows."""
    first = geometries[0]
    if not first.is_affine:
        return geometries
    height, width = clip.frames.shape[1:3]
    shown = render_masks(clip.masks[0], first.matrix(width, height, side), side).any(axis=(1, 2))
    gone = clip.masks[0][~shown]
    plain = Geometry(flip=first.flip).matrix(width, height, side)
    if not render_masks(gone, plain, side).any():
        return geometries
    return [Geometry(flip=geometry.flip) for geometry in geometries]

"""What passes between the parts of the network.

Letters: B images, N objects, M candidate masks, P prompt points, C the hidden width, Cm the memory
width, S the side of the model's input; h = w = S / 16.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class ImageFeatures(NamedTuple):
    """What the image encoder says about B images; also, by rows, what N objects see of theirs."""

    s4: Tensor
    """[B, C/8, S/4, S/4], the finest level, already projected for the mask decoder."""
    s8: Tensor
    """[B, C/4, S/8, S/8], likewise."""
    s16: Tensor
    """[B, C, S/16, S/16], the level that memory and prompts work on."""
    position: Tensor
    """[1, C, S/16, S/16], the sine encoding of that level; the same for every image."""
    grid: Tensor
    """[1, C, S/16, S/16], the prompt encoder's encoding of the same cells, which the mask decoder
    reads; computed once for all objects, frames and clicks."""

    def rows(self, index: Tensor) -> ImageFeatures:
        """What N objects see: the features of the images `index` (int64 [N]), one row per object.

        Objects of a single image share its one row: every verb broadcasts it, and what does not
        depend on the object is computed once.
        """
        if len(self.s16) == 1:
            return self
        return self._replace(s4=self.s4[index], s8=self.s8[index], s16=self.s16[index])


class Prompts(NamedTuple):
    """What a user points at, for N objects."""

    points: Tensor
    """float [N, P, 2], x and y in pixels of the model's input. P may be 0: no points at all."""
    labels: Tensor
    """int [N, P]: 1 inside, 0 outside, 2 and 3 the corners of a box, -1 not a point."""
    mask_logits: Tensor | None = None
    """[N, 1, S/4, S/4], an earlier answer to refine."""

    @classmethod
    def none(cls, count: int, device: torch.device) -> Prompts:
        """No prompt for `count` objects: what a tracked frame is decoded with."""
        labels = torch.zeros(count, 0, dtype=torch.int64, device=device)
        return cls(torch.zeros(count, 0, 2, device=device), labels)


class FramePrediction(NamedTuple):
    """What the decoder says about N objects on one frame."""

    candidates: Tensor
    """Logits [N, M, S/4, S/4]; -1024 everywhere where the object is predicted absent."""
    ious: Tensor
    """[N, M], the decoder's own estimate of each candidate's IoU."""
    low: Tensor
    """Logits [N, 1, S/4, S/4], the candidate with the highest estimate."""
    pointer: Tensor
    """[N, C], the object pointer that later frames attend to."""
    object_score: Tensor
    """[N, 1], logit: is the object in this frame?"""


class Memory(NamedTuple):
    """What one frame leaves in the memory bank."""

    features: Tensor
    """[N, Cm, h, w]."""
    position: Tensor
    """[1, Cm, h, w], the sine encoding without the temporal part."""


class ClipOutput(NamedTuple):
    """What the network answered on every frame of a batch of clips, in the order of the frames."""

    steps: tuple[tuple[FramePrediction, ...], ...]
    """Per frame, the first answer and the one after each correction; the last is what was
    remembered."""
    judged: tuple[tuple[FramePrediction, ...], ...]
    """The same without masks that were given and taken over: there is nothing to learn from
    them."""
    prompts: tuple[Prompts | None, ...]
    """Per frame, the points the user gave in the end; None where there were none."""
    anchor: Tensor
    """Zero; where nothing is judged, one that depends on the network and so has a gradient."""

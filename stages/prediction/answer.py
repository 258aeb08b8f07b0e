"""What the network says about one frame, ready to be written and drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.memory import without_overlap
from stages.prediction.prompts import Asked


@dataclass(frozen=True)
class Answer:
    """The masks of one frame of H x W pixels."""

    frame: str
    """What its files are called."""
    picture: np.ndarray
    """uint8 [H, W, 3], RGB."""
    numbers: tuple[int, ...]
    """Of the objects, ascending."""
    masks: Sequence[np.ndarray]
    """bool [H, W] of each object; they may overlap."""
    rows: np.ndarray
    """uint16 [H, W]: 0 is background, k the k-th object. Each pixel belongs to one at most."""
    asked: Mapping[int, Asked] | None = None
    """What was said about the objects on this very frame."""
    details: Sequence[Mapping[str, Any]] = ()
    """For each object what else is known, for json; may be left out."""


def answer_of(
    frame: str,
    picture: np.ndarray,
    numbers: Sequence[int],
    logits: Tensor,
    threshold: float,
    asked: Mapping[int, Asked] | None = None,
    details: Sequence[Mapping[str, Any]] = (),
) -> Answer:
    """The answer of mask logits [O, H, W], objects in the order of `numbers`.

    An object is where its logits are above the threshold. Where several are, the pixel goes to the
    highest in `rows`, as the reference's predictor decides before it writes a palette picture.
    """
    alone = logits
    if len(logits) > 1:
        alone = without_overlap(logits[:, None])[:, 0]
    masks = (logits > threshold).cpu().numpy()
    parted = (alone > threshold).cpu().numpy() if alone is not logits else masks
    return Answer(
        frame,
        picture,
        tuple(numbers),
        list(masks),
        merged(parted, logits.shape[-2:]),
        asked,
        details,
    )


def nothing(frame: str, picture: np.ndarray, numbers: Sequence[int]) -> Answer:
    """The answer for a frame on which no object has been shown yet."""
    logits = torch.full((len(numbers), *picture.shape[:2]), -1.0)
    return answer_of(frame, picture, numbers, logits, 0.0)


def merged(masks: Sequence[np.ndarray] | np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Masks (bool [H, W] each, of ascending objects) in one map: uint16 [H, W], 0 is background, k
    the k-th mask. Where masks overlap the first one wins: the lower number."""
    rows = np.zeros(size, np.uint16)
    for index in range(len(masks) - 1, -1, -1):
        rows[masks[index]] = index + 1
    return rows

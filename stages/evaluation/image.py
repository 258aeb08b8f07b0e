"""Interactive segmentation of pictures, as SAM is scored: click, look, click where it is most
wrong.

Round 1 clicks at the centre of the object, every further one at the centre of the largest error,
inside what was missed or outside on what was spilled; the low-resolution answer of the round before
goes back in as a prompt. "After n clicks" therefore means n rounds, not n points at once. Of
several candidates the one with the highest *predicted* IoU is scored, which is what a user would
get.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from model.image_predictor import ImagePredictor
from model.prompts import Clicks, ObjectChance, box_corners, correction_click
from pipeline.distributed import World
from pipeline.errors import DataError
from stages.evaluation.kept import Kept
from stages.evaluation.sharing import share_out

if TYPE_CHECKING:
    from data.sources import Dataset

PROTOCOL = "one click per round at the centre of the largest error, mask of highest predicted IoU"
PROTOCOL_OF_BOX = f"a tight box, then {PROTOCOL}"
Start = Literal["click", "box"]
OBJECTS_AT_ONCE = 64
"""Objects of a picture that are decoded in one batch, where the picture is small."""
LOGIT_BYTES = 512 * 2**20
"""Most memory for the full-size logits of one batch; fewer objects at once on large pictures."""


@dataclass(frozen=True, eq=False)
class ImageScores:
    """IoU of every object after every round."""

    pictures: tuple[str, ...]
    """The picture of each object."""
    ious: np.ndarray
    """float64 [objects, rounds], 0 to 1; a round is a click, or first the box."""
    split: str = ""
    """Digest of the data set that was scored."""
    protocol: str = PROTOCOL

    def miou(self, clicks: int) -> float:
        """Mean IoU over all objects after so many clicks, 0 to 1."""
        return float(self.ious[:, clicks - 1].mean())


def evaluate_images(
    predictor: ImagePredictor,
    dataset: Dataset,
    *,
    clicks: int = 3,
    limit: int | None = None,
    start: Start = "click",
    progress: bool = True,
    world: World | None = None,
    kept: Kept | None = None,
) -> ImageScores:
    """Score the first `limit` pictures of `dataset` (all by default) with up to `clicks` clicks per
    object.

    start: with `box`, a tight box is drawn first, and a round for it comes before those of the
    clicks. world: the ranks that share the pictures; all have the answer. kept: where the scores of
    finished pictures are. Objects without a single pixel are left out. Raises DataError when nothing is left.
    """
    count = min(limit or len(dataset), len(dataset))
    rows = share_out(
        count,
        lambda index: score_picture(predictor, dataset, index, clicks, start),
        world,
        label="pictures",
        unit="picture",
        progress=progress,
        kept=kept,
    )
    if not sum(len(row) for row in rows):
        raise DataError(
            f"{dataset.name}: no object in the {len(rows)} pictures to evaluate; "
            f"check the data set's annotations"
        )
    names = [name for name, row in zip(dataset.names, rows, strict=False) for _ in row]
    protocol = PROTOCOL if start == "click" else PROTOCOL_OF_BOX
    return ImageScores(tuple(names), np.concatenate(rows), dataset.digest, protocol)


def score_picture(
    predictor: ImagePredictor, dataset: Dataset, index: int, clicks: int, start: Start = "click"
) -> np.ndarray:
    """IoU of each object of one picture after each round: float64 [objects, rounds]."""
    clip = dataset.load(index, [0])
    masks = clip.masks[0][clip.masks[0].any((1, 2))]
    predictor.set_image(clip.frames[0])
    size = objects_at_once(clip.frames[0][..., 0].size)
    parts = (masks[first : first + size] for first in range(0, len(masks), size))
    rows = [score_objects(predictor, part, clicks, start) for part in parts]
    return np.concatenate([np.zeros((0, clicks + (start == "box"))), *rows])


def score_objects(
    predictor: ImagePredictor, truth: np.ndarray, clicks: int, start: Start = "click"
) -> np.ndarray:
    """IoU after each round on the predictor's current picture.

    truth: bool [N, H, W] at the size of the picture, none empty. Returns float64 [N, rounds].
    """
    target = torch.from_numpy(truth).to(predictor.model.device)
    nobody = ObjectChance(
        0, 0, [0], torch.zeros(len(truth), dtype=torch.int64, device=target.device)
    )
    box = box_corners(target, nobody).points.flatten(1) if start == "box" else None
    guess, low, given, ious = None, None, None, []
    if box is not None:
        guess, low = _answer(predictor, None, box, None)
        ious.append(_iou(target, guess).cpu().numpy())
    for _ in range(clicks):
        click = correction_click(target, guess, nobody, "centre")
        given = click if given is None else given.then(click)
        before = guess
        guess, low = _answer(predictor, given, box, low)
        if before is not None:  # of a mask that was right, the user took nothing back
            right = (before == target).all(2, keepdim=True).all(1, keepdim=True)
            guess = torch.where(right, before, guess)
        ious.append(_iou(target, guess).cpu().numpy())
    return np.stack(ious, 1)


def _answer(
    predictor: ImagePredictor,
    given: Clicks | None,
    box: torch.Tensor | None,
    low: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The best candidate by the decoder's own estimate: masks bool [N, H, W], logits [N, 1, h, w].

    A single click is ambiguous, so three candidates are asked for; with more clicks, or a box, the
    decoder gives one.
    """
    points, labels = (None, None) if given is None else given
    several = low is None and box is None
    found = predictor.predict(points, labels, boxes=box, mask_input=low, multimask=several)
    best = found.best()
    return best.masks[:, 0], best.low


def _iou(truth: torch.Tensor, guess: torch.Tensor) -> torch.Tensor:
    common = (truth & guess).flatten(1).sum(1, dtype=torch.float64)
    return common / (truth | guess).flatten(1).sum(1, dtype=torch.float64)


def objects_at_once(pixels: int, candidates: int = 3) -> int:
    """How many objects are decoded in one batch on a picture of so many pixels."""
    float32 = 4
    fitting = LOGIT_BYTES // (candidates * float32 * pixels)
    return min(max(fitting, 1), OBJECTS_AT_ONCE)

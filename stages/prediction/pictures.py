"""One picture: the objects that prompts point at, or all that can be found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import overload

import numpy as np
import torch
from torch.nn import functional as F

from model.image_predictor import ImagePredictor
from model.mask_generator import GeneratedMask, MaskGenerator
from model.sam2 import SAM2, mask_logits
from pipeline.errors import ConfigError
from pipeline.pictures import read_rgb
from stages.prediction.answer import Answer, answer_of, merged
from stages.prediction.prompts import Asked, arrange
from stages.prediction.sources import Picture
from stages.prediction.spec import Everything, Prompt


def ask_picture(
    model: SAM2, item: Picture, prompts: Sequence[Prompt], threshold: float
) -> Iterator[Answer]:
    """The one answer for a picture. Raises DataError or ConfigError for prompts that do not fit."""
    picture = read_rgb(item.path, upright=True)
    asking = arrange(prompts, picture.shape[:2], str(item.path), picture=item.path.name)
    if not asking:
        raise ConfigError(f"{item.path}: no prompt is about this picture (`picture` in --prompts)")
    if set(asking) != {0}:
        raise ConfigError(f"{item.path} is a picture; --frame {max(asking)} is about videos")
    predictor = ImagePredictor(model)
    predictor.set_image(picture)
    logits, details = [], []
    for asked in asking[0].values():
        answer, iou = _ask(predictor, asked)
        logits.append(answer)
        details.append({"predicted_iou": round(iou, 4)})
    numbers = tuple(asking[0])
    yield answer_of(item.name, picture, numbers, torch.stack(logits), threshold, asking[0], details)


def find_everything(
    model: SAM2, item: Picture, wanted: Everything, threshold: float
) -> Iterator[Answer]:
    """The one answer for a picture without prompts. Objects are numbered from the smallest to the
    largest, so that where they overlap the smaller one is seen."""
    picture = read_rgb(item.path, upright=True)
    generator = MaskGenerator(model, mask_threshold=threshold, **asdict(wanted))
    found = sorted(generator.generate(picture), key=lambda mask: mask.area)
    masks = _Decoded(found)
    yield Answer(
        item.name,
        picture,
        tuple(range(1, len(found) + 1)),
        masks,
        merged(masks, picture.shape[:2]),
        details=[_details(mask) for mask in found],
    )


def _ask(predictor: ImagePredictor, asked: Asked) -> tuple[torch.Tensor, float]:
    """Mask logits [H, W] of one object, and the network's estimate of their IoU.

    A single click may mean a part or the whole: then the best of three answers counts.
    """
    points = asked.points[None] if len(asked.points) else None
    full, ious, _ = predictor.logits(
        points,
        asked.labels[None] if points is not None else None,
        asked.box,
        None if asked.mask is None else _low(asked.mask, predictor.model),
        multimask=len(asked.points) == 1 and asked.box is None,
    )
    best = int(ious[0].argmax())
    return full[0, best], float(ious[0, best])


def _low(mask: np.ndarray, model: SAM2) -> torch.Tensor:
    """A given mask, bool [H, W], as the logits [1, 1, S/4, S/4] that the prompt encoder takes."""
    side = model.config.image_size // 4
    plane = torch.from_numpy(mask)[None, None].float().to(model.device)
    small = F.interpolate(
        plane, size=(side, side), mode="bilinear", align_corners=False, antialias=True
    )
    return mask_logits(small >= 0.5)


@dataclass(frozen=True)
class _Decoded(Sequence[np.ndarray]):
    """Masks that are decoded when they are looked at; hundreds of a large picture fill a memory."""

    found: Sequence[GeneratedMask]

    def __len__(self) -> int:
        return len(self.found)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[np.ndarray]: ...
    def __getitem__(self, index: int | slice) -> np.ndarray | Sequence[np.ndarray]:
        if isinstance(index, slice):
            return _Decoded(self.found[index])
        return self.found[index].mask()


def _details(mask: GeneratedMask) -> dict[str, object]:
    """What SA-1B says of a mask."""
    x0, y0, x1, y1 = mask.crop_box
    return {
        "predicted_iou": round(mask.predicted_iou, 4),
        "stability_score": round(mask.stability_score, 4),
        "point_coords": [list(mask.point)],
        "crop_box": [x0, y0, x1 - x0, y1 - y0],
    }

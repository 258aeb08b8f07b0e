"""The original's image predictor: its names and shapes, numpy in and out, around ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from model.image_pixels import Picture
from model.image_predictor import ImagePredictor
from model.official.build import has_stability_fallback, refuse_download
from model.sam2 import SAM2
from pipeline.errors import DataError

Answer = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Masks (float32 0 and 1, or logits), IoU estimates and low-resolution logits: [M, H, W], [M] and
[M, S/4, S/4] for one object, with N in front for several."""


class SAM2ImagePredictor:
    """Answers points, boxes and masks on one picture, or on each of a batch.

    sam_model: from `build_sam2`, which notes whether single masks fall back to a more stable one
    (`apply_postprocessing`), or any SAM2, which then has no such fallback. The other options are
    those of `ImagePredictor`.
    """

    def __init__(
        self,
        sam_model: SAM2,
        mask_threshold: float = 0.0,
        max_hole_area: float = 0.0,
        max_sprinkle_area: float = 0.0,
    ) -> None:
        self.model = sam_model
        self._predictor = ImagePredictor(
            sam_model,
            stability_fallback=has_stability_fallback(sam_model),
            mask_threshold=mask_threshold,
            max_hole_area=max_hole_area,
            max_sprinkle_area=max_sprinkle_area,
        )
        self._is_batch = False

    @classmethod
    def from_pretrained(cls, model_id: str, **kwargs: Any) -> NoReturn:
        """Nothing is downloaded here: raises ConfigError that says what to do."""
        refuse_download(model_id)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.model.device

    def set_image(self, image: Picture) -> None:
        """Encode one picture: uint8 [H, W, 3] in RGB, or a PIL picture."""
        self._predictor.set_image(image)
        self._is_batch = False

    def set_image_batch(self, image_list: Sequence[Picture]) -> None:
        """Encode several pictures, of any sizes, for `predict_batch`."""
        self._predictor.set_images(image_list)
        self._is_batch = True

    def reset_predictor(self) -> None:
        """Forget the pictures."""
        self._predictor.reset()
        self._is_batch = False

    def get_image_embedding(self) -> Tensor:
        """The features that prompts are decoded with, [B, C, S/16, S/16] for B pictures."""
        return torch.cat([self._predictor.seen(i).embedding for i in range(self._count())])

    @property
    def _features(self) -> dict[str, Any]:
        """What the original keeps under this name, which its notebook looks into."""
        kept = [self._predictor.seen(i).features for i in range(self._count())]
        high = [torch.cat([one.s4 for one in kept]), torch.cat([one.s8 for one in kept])]
        return {"image_embed": self.get_image_embedding(), "high_res_feats": high}

    def predict(
        self,
        point_coords: np.ndarray | None = None,
        point_labels: np.ndarray | None = None,
        box: np.ndarray | None = None,
        mask_input: np.ndarray | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
        normalize_coords: bool = True,
    ) -> Answer:
        """Masks, IoU estimates and low-resolution logits of one object, or of N.

        point_coords: [P, 2] with point_labels [P], or [N, P, 2] with [N, P]. box: [4] or [N, 4].
        mask_input: [1, S/4, S/4] or [N, 1, S/4, S/4]. normalize_coords: coordinates are pixels of
        the picture; otherwise shares of its width and height. return_logits: instead of masks.
        """
        if self._is_batch:
            raise DataError("predict: several pictures are set; ask with predict_batch")
        return self._answer(
            point_coords,
            point_labels,
            box,
            mask_input,
            multimask_output=multimask_output,
            return_logits=return_logits,
            normalize_coords=normalize_coords,
        )

    def predict_batch(
        self,
        point_coords_batch: Sequence[np.ndarray | None] | None = None,
        point_labels_batch: Sequence[np.ndarray | None] | None = None,
        box_batch: Sequence[np.ndarray | None] | None = None,
        mask_input_batch: Sequence[np.ndarray | None] | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
        normalize_coords: bool = True,
    ) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
        """As `predict`, with one entry for each picture of `set_image_batch` in each list."""
        if not self._is_batch:
            raise DataError("predict_batch: call set_image_batch first")
        given = (point_coords_batch, point_labels_batch, box_batch, mask_input_batch)
        lists = [self._for_each_picture(part) for part in given]
        answers = [
            self._answer(
                *prompt,
                multimask_output=multimask_output,
                return_logits=return_logits,
                normalize_coords=normalize_coords,
                image=image,
            )
            for image, prompt in enumerate(zip(*lists, strict=True))
        ]
        masks, ious, low = zip(*answers, strict=True)
        return list(masks), list(ious), list(low)

    def _answer(
        self,
        point_coords: np.ndarray | None,
        point_labels: np.ndarray | None,
        box: np.ndarray | None,
        mask_input: np.ndarray | None,
        *,
        multimask_output: bool,
        return_logits: bool,
        normalize_coords: bool,
        image: int = 0,
    ) -> Answer:
        height, width = self._predictor.seen(image).size
        scale = np.array([1.0, 1.0] if normalize_coords else [width, height])
        points = None if point_coords is None else np.asarray(point_coords) * scale
        logits, ious, low = self._predictor.logits(
            _with_objects(points, 3),
            _with_objects(point_labels, 2),
            None if box is None else (np.asarray(box).reshape(-1, 2, 2) * scale).reshape(-1, 4),
            _with_objects(mask_input, 4),
            multimask=multimask_output,
            image=image,
        )
        masks = logits if return_logits else (logits > self._predictor.mask_threshold).float()
        return _plain(masks), _plain(ious), _plain(low)

    def _for_each_picture(self, given: Sequence[np.ndarray | None] | None) -> Sequence[Any]:
        """One prompt, or None, for each picture."""
        if given is not None and len(given) != self._count():
            raise DataError(
                f"predict_batch: found prompts for {len(given)} pictures, expected "
                f"{self._count()}, one for each of set_image_batch (None where there is none)"
            )
        return [None] * self._count() if given is None else given

    def _count(self) -> int:
        self._predictor.seen()
        return len(self._predictor)


def _with_objects(given: np.ndarray | None, dimensions: int) -> np.ndarray | None:
    """A prompt for one object as one for N = 1."""
    if given is None:
        return None
    values = np.asarray(given)
    return values[None] if values.ndim == dimensions - 1 else values


def _plain(values: Tensor) -> np.ndarray:
    """float32 on the CPU, without the dimension of objects where there is one."""
    return values.squeeze(0).float().cpu().numpy()

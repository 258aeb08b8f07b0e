"""The original's automatic mask generator: its argument names and records around ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NoReturn

import numpy as np

from model.image_pixels import Picture
from model.mask_generator import GeneratedMask, MaskGenerator
from model.official.build import has_stability_fallback, refuse_download
from model.sam2 import SAM2
from pipeline.errors import ConfigError
from pipeline.rle import run_lengths

OutputMode = Literal["binary_mask", "uncompressed_rle", "coco_rle"]
OUTPUT_MODES = ("binary_mask", "uncompressed_rle", "coco_rle")


class SAM2AutomaticMaskGenerator:
    """Finds all objects of a picture; see `MaskGenerator` for what the options mean.

    model: as for `SAM2ImagePredictor`; the fallback matters with use_m2m or single answers.
    output_mode: what "segmentation" holds: a bool [H, W], run lengths as a list, or as COCO's
    string. points_per_side must be None where point_grids are given. min_mask_region_area counts
    pixels of the picture in the end, and, as in the original on a GPU, cells of the low-resolution
    answers before that.
    """

    def __init__(
        self,
        model: SAM2,
        points_per_side: int | None = 32,
        points_per_batch: int = 64,
        pred_iou_thresh: float = 0.8,
        stability_score_thresh: float = 0.95,
        stability_score_offset: float = 1.0,
        mask_threshold: float = 0.0,
        box_nms_thresh: float = 0.7,
        crop_n_layers: int = 0,
        crop_nms_thresh: float = 0.7,
        crop_overlap_ratio: float = 512 / 1500,
        crop_n_points_downscale_factor: int = 1,
        point_grids: Sequence[np.ndarray] | None = None,
        min_mask_region_area: float = 0,
        output_mode: OutputMode = "binary_mask",
        use_m2m: bool = False,
        multimask_output: bool = True,
    ) -> None:
        if (points_per_side is None) == (point_grids is None):
            raise ConfigError("give either points_per_side or point_grids, and None for the other")
        if output_mode not in OUTPUT_MODES:
            raise ConfigError(
                f"output_mode is {output_mode!r}; expected one of {', '.join(OUTPUT_MODES)}"
            )
        self.output_mode = output_mode
        self._generator = MaskGenerator(
            model,
            points_per_side=1 if points_per_side is None else points_per_side,
            points_per_batch=points_per_batch,
            predicted_iou=pred_iou_thresh,
            stability=stability_score_thresh,
            stability_offset=stability_score_offset,
            mask_threshold=mask_threshold,
            box_nms=box_nms_thresh,
            crop_layers=crop_n_layers,
            crop_nms=crop_nms_thresh,
            crop_overlap=crop_overlap_ratio,
            crop_points_downscale=crop_n_points_downscale_factor,
            point_grids=point_grids,
            min_area=min_mask_region_area,
            max_hole_area=min_mask_region_area,
            max_sprinkle_area=min_mask_region_area,
            use_m2m=use_m2m,
            multimask=multimask_output,
            stability_fallback=has_stability_fallback(model),
        )

    @classmethod
    def from_pretrained(cls, model_id: str, **kwargs: Any) -> NoReturn:
        """Nothing is downloaded here: raises ConfigError that says what to do."""
        refuse_download(model_id)

    def generate(self, image: Picture) -> list[dict[str, Any]]:
        """A record for each object, with the keys segmentation, area, bbox (x, y, width, height),
        predicted_iou, point_coords, stability_score and crop_box."""
        return [self._record(mask) for mask in self._generator.generate(image)]

    def _record(self, found: GeneratedMask) -> dict[str, Any]:
        return {
            "segmentation": self._segmentation(found),
            "area": found.area,
            "bbox": _with_sides(found.box),
            "predicted_iou": found.predicted_iou,
            "point_coords": [list(found.point)],
            "stability_score": found.stability_score,
            "crop_box": _with_sides(found.crop_box),
        }

    def _segmentation(self, found: GeneratedMask) -> np.ndarray | dict[str, Any]:
        if self.output_mode == "binary_mask":
            return found.mask()
        if self.output_mode == "coco_rle":
            return dict(found.rle)
        return {**found.rle, "counts": run_lengths(found.rle["counts"]).tolist()}


def _with_sides(box: tuple[int, int, int, int]) -> list[int]:
    """x, y, width and height of a box, from its corners as they are: the box around a mask comes
    out one pixel smaller each way than the mask, as in the original and in SA-1B."""
    x0, y0, x1, y1 = box
    return [x0, y0, x1 - x0, y1 - y0]

"""Find every object in a picture: ask a grid of points, keep the answers that are good and new."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from itertools import starmap
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.image_pixels import Picture, rgb_pixels
from model.image_predictor import LOGIT_LIMIT, ImagePredictor
from model.image_prompts import read_prompts
from model.mask_cleanup import drop_small_regions
from model.mask_generator_geometry import (
    Box,
    crops,
    in_picture,
    is_cut_off,
    mask_boxes,
    point_grid,
    suppress,
)
from model.sam2 import SAM2
from model.types import Prompts
from pipeline import rle
from pipeline.errors import ConfigError

PIXELS_AT_ONCE = 2**25
"""Masks are enlarged to the picture's size so few at a time that they have no more pixels than this
together (128 MiB of logits), but at least one."""


@dataclass(frozen=True, eq=False)
class GeneratedMask:
    """One object that was found."""

    rle: dict[str, Any]
    """The mask, COCO run lengths {"size": [H, W], "counts": str} at the picture's size."""
    box: Box
    """x0, y0, x1, y1 in pixels, corners included: may be given back as a prompt."""
    area: int
    """Pixels of the mask."""
    predicted_iou: float
    """The network's own estimate of the mask's quality, 0..1."""
    stability_score: float
    """IoU of the masks at a threshold a little higher and a little lower, 0..1."""
    point: tuple[float, float]
    """x, y of the point that was asked, in pixels."""
    crop_box: Box
    """x0, y0, x1, y1 (not included) of the part of the picture that was looked at."""

    def mask(self) -> np.ndarray:
        """The mask as bool [H, W]."""
        return rle.decode(self.rle)


class Answers(NamedTuple):
    """What the network says to some points, flat over points and candidates: K masks."""

    low: Tensor
    """Logits [K, 1, S/4, S/4]."""
    ious: Tensor
    """[K]."""
    points: Tensor
    """float64 [K, 2], x and y in pixels of the crop."""

    def where(self, keep: Tensor) -> Answers:
        """Those that a bool [K] names."""
        return Answers(self.low[keep], self.ious[keep], self.points[keep.to(self.points.device)])

    def parts(self, size: int) -> Iterator[Answers]:
        """At most `size` at a time; nothing of none."""
        parts = starmap(Answers, zip(*(part.split(size) for part in self), strict=True))
        return (part for part in parts if len(part.low))


@dataclass(frozen=True, eq=False)
class MaskGenerator:
    """Finds objects without being told where they are. Puts the model into eval mode.

    Raises ConfigError for settings that make no sense.
    """

    model: SAM2
    _: KW_ONLY
    points_per_side: int = 32
    """The grid has this many points in each direction, whatever the picture's proportions."""
    points_per_batch: int = 64
    """Points asked together; fewer need less memory."""
    predicted_iou: float = 0.8
    """Masks with a lower estimate of their quality are dropped."""
    stability: float = 0.95
    """Masks with a lower stability score are dropped."""
    stability_offset: float = 1.0
    """How far the threshold moves, up and down, to measure stability; in logits."""
    mask_threshold: float = 0.0
    """The logit above which a pixel belongs to a mask."""
    box_nms: float = 0.7
    """Of two masks of a crop whose boxes have a higher IoU, the one with the lower estimate
    goes."""
    crop_layers: int = 0
    """Look also at 2 x 2 crops of the picture (1), and at 4 x 4 (2), ...: for small objects."""
    crop_nms: float = 0.7
    """The same as `box_nms` between crops; the smaller crop's mask stays."""
    crop_overlap: float = 512 / 1500
    """Overlap of crops in the first layer, as a share of the picture's shorter side."""
    crop_points_downscale: int = 1
    """The grid's side in crops of layer i is divided by this to the power of i."""
    point_grids: Sequence[np.ndarray] | None = None
    """Instead of the even grid: float [P, 2] with x and y in 0..1, one for the picture and one for
    each layer of crops."""
    min_area: float = 0
    """Holes and islands smaller than this many pixels of the picture are filled and removed, and
    masks that became equal to others thereby are dropped."""
    max_hole_area: float = 0
    """Holes of up to this many cells are filled in the low-resolution answers, before masks are
    judged; see `ImagePredictor`."""
    max_sprinkle_area: float = 0
    """The same for islands, which are removed."""
    use_m2m: bool = False
    """Ask once more with each answer as a mask prompt: better masks, more time."""
    multimask: bool = True
    """Three candidates for each point instead of one."""
    stability_fallback: bool = True
    """For single answers; see `SAM2.decode`."""

    def __post_init__(self) -> None:
        for name, least in [
            ("points_per_side", 1),
            ("points_per_batch", 1),
            ("crop_points_downscale", 1),
            ("crop_layers", 0),
            ("min_area", 0),
            ("max_hole_area", 0),
            ("max_sprinkle_area", 0),
        ]:
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at least {least}")
        for name in ("predicted_iou", "stability", "box_nms", "crop_nms", "crop_overlap"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 0 to 1")
        self._grids()

    def generate(
        self, image: Picture, progress: Callable[[int, int], object] | None = None
    ) -> list[GeneratedMask]:
        """All objects found, the best first in each crop.

        image: see `image_pixels.rgb_pixels`. progress: called after each batch with the number of
        points asked so far and of all points.
        """
        pixels = rgb_pixels(image)
        size, grids = (pixels.shape[0], pixels.shape[1]), self._grids()
        places = crops(size, self.crop_layers, self.crop_overlap)
        total, asked = sum(len(grids[layer]) for _, layer in places), 0
        predictor = ImagePredictor(
            self.model,
            stability_fallback=self.stability_fallback,
            mask_threshold=self.mask_threshold,
            max_hole_area=self.max_hole_area,
            max_sprinkle_area=self.max_sprinkle_area,
        )
        found: list[GeneratedMask] = []
        for box, layer in places:
            in_crop: list[GeneratedMask] = []
            for points, masks in self._look(predictor, pixels, box, grids[layer]):
                in_crop += masks
                asked += points
                if progress is not None:
                    progress(asked, total)
            found += _distinct(in_crop, [m.predicted_iou for m in in_crop], self.box_nms)
        if len(places) > 1:
            found = _distinct(found, [1 / _box_area(m.crop_box) for m in found], self.crop_nms)
        return self._without_small_regions(found) if self.min_area > 0 else found

    def _grids(self) -> list[np.ndarray]:
        """The points of the whole picture and of each layer of crops, x and y in 0..1."""
        if self.point_grids is None:
            sides = [
                self.points_per_side // self.crop_points_downscale**layer
                for layer in range(self.crop_layers + 1)
            ]
            if not all(sides):
                raise ConfigError(
                    f"crop_points_downscale {self.crop_points_downscale} leaves no points for "
                    f"crop_layers {self.crop_layers} of points_per_side {self.points_per_side}"
                )
            return [point_grid(side) for side in sides]
        grids = [np.asarray(grid, np.float64) for grid in self.point_grids]
        shapes = [grid.shape for grid in grids]
        if len(grids) != self.crop_layers + 1 or any(s[1:] != (2,) or not s[0] for s in shapes):
            raise ConfigError(
                f"point_grids of shapes {shapes}; expected {self.crop_layers + 1} of [P, 2], one for "
                "the picture and one for each of crop_layers"
            )
        if not all(((grid >= 0) & (grid <= 1)).all() for grid in grids):
            raise ConfigError("point_grids: found points outside 0..1; give shares of the sides")
        return grids

    def _look(
        self, predictor: ImagePredictor, pixels: Tensor, crop: Box, grid: np.ndarray
    ) -> Iterator[tuple[int, list[GeneratedMask]]]:
        """Ask the grid's points of one crop: for each batch, how many and what was found."""
        x0, y0, x1, y1 = crop
        predictor.set_image(pixels[y0:y1, x0:x1])
        points = torch.from_numpy(grid * [x1 - x0, y1 - y0])
        size = pixels.shape[0], pixels.shape[1]
        for batch in points.split(self.points_per_batch):
            answers = self._ask(predictor, batch)
            yield len(batch), list(self._masks(predictor, answers, crop, size))

    def _ask(self, predictor: ImagePredictor, points: Tensor) -> Answers:
        """The answers to points [P, 2] that the network itself believes to be good."""
        low, ious = predictor.decode(_clicks(predictor, points), multimask=self.multimask)
        each_point = points.repeat_interleave(low.shape[1], 0)
        answers = Answers(low.flatten(0, 1)[:, None], ious.flatten(), each_point)
        if self.use_m2m:
            again = [_ask_again(predictor, part) for part in answers.parts(self.points_per_batch)]
            answers = Answers(*map(torch.cat, zip(*again, strict=True)))
        return answers.where(answers.ious > self.predicted_iou) if self.predicted_iou else answers

    def _masks(
        self,
        predictor: ImagePredictor,
        answers: Answers,
        crop: Box,
        size: tuple[int, int],
    ) -> Iterator[GeneratedMask]:
        """Those answers that are stable, not empty and not cut off by the crop's edge."""
        for part in answers.parts(max(1, PIXELS_AT_ONCE // (size[0] * size[1]))):
            logits = predictor.enlarge(part.low)[:, 0]
            scores = stability_scores(logits, self.mask_threshold, self.stability_offset)
            stable = scores >= self.stability
            part, scores = part.where(stable), scores[stable]
            shapes = (logits > self.mask_threshold)[stable].cpu().numpy()
            masks = in_picture(shapes, crop, size)
            boxes = mask_boxes(masks)
            good = np.flatnonzero(masks.any((1, 2)) & ~is_cut_off(boxes, crop, size))
            runs = rle.encode_many(masks if len(good) == len(masks) else masks[good])
            for row, counts in zip(good, runs, strict=True):
                x, y = part.points[row].tolist()
                yield GeneratedMask(
                    rle=counts,
                    box=_box(boxes[row]),
                    area=rle.area(counts),
                    predicted_iou=float(part.ious[row]),
                    stability_score=float(scores[row]),
                    point=(x + crop[0], y + crop[1]),
                    crop_box=crop,
                )

    def _without_small_regions(self, found: list[GeneratedMask]) -> list[GeneratedMask]:
        """The same without holes and islands smaller than `min_area`; where that makes two masks
        alike, the one that did not have to change stays."""
        mended, unchanged = [], []
        for each in found:
            mask, changed = drop_small_regions(torch.from_numpy(each.mask())[None], self.min_area)
            unchanged.append(0.0 if changed else 1.0)
            if changed:
                runs = rle.encode(mask[0].numpy())
                box = _box(mask_boxes(mask.numpy())[0])
                each = replace(each, rle=runs, box=box, area=rle.area(runs))
            mended.append(each)
        return _distinct(mended, unchanged, max(self.box_nms, self.crop_nms))


def stability_scores(logits: Tensor, threshold: float, offset: float) -> Tensor:
    """For each of mask logits [K, H, W] the IoU of the masks at threshold + offset and at
    threshold - offset, float32 [K]; 1 where both are empty.

    As `mask_decoder.stability`, but the pixels of each mask are counted by themselves: on the CPU
    that is twenty times faster than to sum along dimensions, which counts for large pictures.
    """
    inner, outer = (
        torch.stack([(each > level).count_nonzero() for each in logits]).float()
        for level in (threshold + offset, threshold - offset)
    )
    return torch.where(outer > 0, inner / outer.clamp(min=1), 1.0)


def _ask_again(predictor: ImagePredictor, answers: Answers) -> Answers:
    """The answers to the same points, each with its first answer as a mask prompt."""
    first = answers.low.clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
    prompts = _clicks(predictor, answers.points)._replace(mask_logits=first)
    low, ious = predictor.decode(prompts, multimask=False)
    return Answers(low, ious[:, 0], answers.points)


def _clicks(predictor: ImagePredictor, points: Tensor) -> Prompts:
    """Points [P, 2] in pixels of the crop as P objects with one click each."""
    model = predictor.model
    return read_prompts(
        points[:, None],
        torch.ones(len(points), 1),
        None,
        None,
        picture=predictor.seen().size,
        side=model.config.image_size,
        device=model.device,
    )


def _distinct(found: list[GeneratedMask], scores: list[float], limit: float) -> list[GeneratedMask]:
    """Those whose boxes do not overlap that of one with a better score too much, best first."""
    boxes = np.array([each.box for each in found]).reshape(-1, 4)
    return [found[row] for row in suppress(boxes, np.array(scores), limit)]


def _box(numbers: np.ndarray) -> Box:
    x0, y0, x1, y1 = numbers.tolist()
    return x0, y0, x1, y1


def _box_area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])

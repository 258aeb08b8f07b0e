"""Masks from the true boxes of a COCO file: mask AP as pycocotools computes it, and mIoU.

The boxes are ground truth, so AP says how well masks fill boxes and how well the network ranks its own masks, not
how well objects are detected; the protocol says so beside every figure.
"""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any

import numpy as np
import torch

from data.sources.coco import CocoInstances
from model.image_predictor import ImagePredictor
from pipeline import rle
from pipeline.errors import ConfigError, DataError
from pipeline.fetch import local_copy
from pipeline.storage import atomic_file
from stages.evaluation.image import objects_at_once
from stages.evaluation.protocols import Found, Subject
from stages.evaluation.sharing import share_out
from stages.evaluation_settings import CocoMeasurement

PROTOCOL = (
    "one mask for every true box (ground truth, crowds left out), score: predicted IoU; "
    "AP by pycocotools, IoU 0.50 to 0.95, at most {most} masks an image"
)
FIGURES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
"""The first six of COCOeval's, in its order."""
MOST = 100
"""Masks of an image that COCOeval looks at by default; raised where an image has more boxes."""


def measure(wanted: CocoMeasurement, subject: Subject) -> Found | None:
    """AP, its variants by IoU and size, and mIoU over the objects, all in percent."""
    dataset = subject.dataset
    if not isinstance(dataset, CocoInstances):
        raise ConfigError(
            f"dataset: {dataset.name} has format {dataset.spec.format}, expected coco: "
            "AP needs boxes and categories"
        )
    predictor = ImagePredictor(subject.model)
    count = min(wanted.max_images or len(dataset), len(dataset))
    pictures = share_out(
        count,
        lambda index: segment(predictor, dataset, index),
        subject.world,
        label="COCO boxes",
        unit="picture",
        progress=True,
        kept=subject.kept,
    )
    answers = [answer for found, _ in pictures for answer in found]
    if not answers:
        raise DataError(f"{dataset.name}: no object with a box in the {count} pictures")
    if not subject.world.is_first:
        return None
    most = max(MOST, *(len(found) for found, _ in pictures))
    place = subject.folder / "coco_results.json"
    with atomic_file(place, "w") as file:
        json.dump(answers, file)
    metrics = average_precision(dataset.source(0), answers, most)
    metrics["miou"] = 100 * float(np.mean([iou for _, ious in pictures for iou in ious]))
    protocol = PROTOCOL.format(most=most)
    return Found(metrics, protocol, dataset.digest, "the pictures' own", {"results": str(place)})


def segment(
    predictor: ImagePredictor, dataset: CocoInstances, index: int
) -> tuple[list[dict[str, Any]], list[float]]:
    """COCO's results of one picture, a mask for every object's box, and the IoU of each mask."""
    about = dataset.annotations(index)
    ids = [i for i in dataset.visible(index, 0) if about[i].get("bbox") is not None]
    if not ids:
        return [], []
    picture = dataset.pictures(index, [0])[0]
    height, width = picture.shape[:2]
    predictor.set_image(picture)
    answers, ious = [], []
    size = objects_at_once(height * width, candidates=1)
    for start in range(0, len(ids), size):
        part = ids[start : start + size]
        boxes = torch.tensor([about[i]["bbox"] for i in part], dtype=torch.float32)
        boxes[:, 2:] += boxes[:, :2]
        found = predictor.predict(boxes=boxes, multimask=False)
        masks = found.masks[:, 0].cpu().numpy()
        for i, mask, score in zip(part, masks, found.ious[:, 0].tolist(), strict=True):
            answers.append(
                {
                    "image_id": about[i]["image_id"],
                    "category_id": about[i]["category_id"],
                    "segmentation": rle.encode(mask),
                    "score": score,
                }
            )
        ious += _ious(dataset.masks(index, 0, part, (height, width)), masks)
    return answers, ious


def average_precision(
    annotations: str, answers: list[dict[str, Any]], most: int = MOST
) -> dict[str, float]:
    """COCOeval's figures in percent for the pictures that have `answers`; one that does not apply
    is left out.

    annotations: the COCO file. answers: in COCO's result format. most: masks of an image that count.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # it talks
        truth = COCO(local_copy(annotations))
        results = truth.loadRes([dict(one) for one in answers])  # it adds to what it is given
        judge = COCOeval(truth, results, "segm")
        judge.params.imgIds = sorted({answer["image_id"] for answer in answers})
        judge.params.maxDets = [1, 10, most]
        judge.evaluate()
        judge.accumulate()
        values = _figures(judge)
    return {name: 100 * value for name, value in zip(FIGURES, values, strict=True) if value >= 0}


def _figures(judge: Any) -> list[float]:
    """What COCOeval.summarize would print, for any limit of masks an image: -1 for no such object."""
    precision = judge.eval["precision"]  # [IoU, recall, category, size, masks an image]
    sizes, ious = list(judge.params.areaRngLbl), judge.params.iouThrs
    wanted = [("all", None), ("all", 0.5), ("all", 0.75)]
    wanted += [(size, None) for size in ("small", "medium", "large")]
    found = []
    for size, iou in wanted:
        rows = precision if iou is None else precision[np.isclose(ious, iou)]
        values = rows[:, :, :, sizes.index(size), -1]
        found.append(float(values[values > -1].mean()) if (values > -1).any() else -1.0)
    return found


def _ious(truth: np.ndarray, found: np.ndarray) -> list[float]:
    common = (truth & found).sum((1, 2))
    either = (truth | found).sum((1, 2))
    return [float(a / b) if b else 1.0 for a, b in zip(common, either, strict=True)]

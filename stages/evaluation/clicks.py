"""How good a mask is after n clicks, and how many clicks a good mask takes.

The clicks are those of `image`. The number of clicks (NoC) follows the custom of interactive segmentation: of an
object that never reaches the goal, all clicks that were allowed are counted, and how often that happens is told.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from model.image_predictor import ImagePredictor
from pipeline.storage import write_table
from stages.evaluation.image import ImageScores, evaluate_images
from stages.evaluation.protocols import Found, Subject
from stages.evaluation_settings import ClicksMeasurement

SHOWN_AT = (1, 3, 5)
"""Clicks after which mIoU is told, as in the SAM papers."""


def measure(wanted: ClicksMeasurement, subject: Subject) -> Found | None:
    """mIoU after 1, 3 and 5 clicks, NoC to every goal, and the share of objects that fail it."""
    scores = evaluate_images(
        ImagePredictor(subject.model),
        subject.dataset,
        clicks=wanted.clicks,
        limit=wanted.max_images,
        start=wanted.start,
        world=subject.world,
        kept=subject.kept,
    )
    if not subject.world.is_first:
        return None
    boxed = int(wanted.start == "box")
    metrics = {f"miou@{n}": 100 * scores.miou(n + boxed) for n in SHOWN_AT if n <= wanted.clicks}
    if boxed:
        metrics["miou@box"] = 100 * scores.miou(1)
    for goal in wanted.goals:
        needed, reached = clicks_to(scores.ious, goal / 100, boxed)
        metrics[f"noc{goal:g}"] = float(needed.mean())
        metrics[f"failed{goal:g}"] = 100 * float(1 - reached.mean())
    curve = subject.folder / "clicks.csv"
    _write(curve, scores)
    protocol = f"{scores.protocol}; at most {wanted.clicks} clicks, failures count as that many"
    files = {"clicks": str(curve)}
    return Found(metrics, protocol, scores.split, "the pictures' own", files)


def clicks_to(ious: np.ndarray, goal: float, boxed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Clicks until each object's IoU is at least `goal`, and whether it ever is.

    ious: [N, rounds]; the first `boxed` rounds are not clicks, so a box that suffices costs 0.
    Returns int64 [N] and bool [N]; an object that never gets there counts all clicks.
    """
    good = np.asarray(ious >= goal)
    reached = np.asarray(good.any(axis=1))
    rounds = np.where(reached, good.argmax(1) + 1, ious.shape[1])
    return rounds - boxed, reached


def _write(path: Path, scores: ImageScores) -> None:
    """A line for every object: its picture and the IoU after every round."""
    head = ["picture", *(f"round {n + 1}" for n in range(scores.ious.shape[1]))]
    rows = (
        [picture, *(f"{value:.6f}" for value in row)]
        for picture, row in zip(scores.pictures, scores.ious, strict=True)
    )
    write_table(path, head, rows)

"""The json beside an SA-V video: its masklets and what the release says about each of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from data.world.spec import FRAME_RATE
from pipeline import rle


def masklet_file(
    video: str, frames: int, masks: np.ndarray, kind: str, rng: np.random.Generator
) -> dict[str, Any]:
    """The content of `<video>_manual.json` or `<video>_auto.json`, with every field of the release.

    masks: bool [A, O, H, W] on the annotated frames. kind: "manual" or "auto"; as in the release,
    the first annotated frame is a float in manual files, and only auto files have stability scores.
    """
    annotated, objects, height, width = masks.shape
    areas = masks.sum((-2, -1))
    seen = areas > 0
    first = seen.argmax(0)
    sizes = [float(a[s].mean()) if s.any() else 0.0 for a, s in zip(areas.T, seen.T, strict=True)]
    manual = kind == "manual"
    scores = 1 - 0.02 * rng.random((annotated, objects)) ** 2
    return {
        "video_id": video,
        "video_duration": frames / FRAME_RATE,
        "video_frame_count": float(frames),
        "video_height": float(height),
        "video_width": float(width),
        "video_resolution": float(height * width),
        "video_environment": "Indoor" if rng.random() < 0.5 else "Outdoor",
        "video_split": "train",
        "masklet": [rle.encode_many(frame) for frame in masks],
        "masklet_id": list(range(objects)),
        "masklet_size_rel": [round(size / (height * width), 10) for size in sizes],
        "masklet_size_abs": [round(size, 10) for size in sizes],
        "masklet_size_bucket": [_bucket(size) for size in sizes],
        "masklet_visibility_changes": [_changes(s, f) for s, f in zip(seen.T, first, strict=True)],
        "masklet_first_appeared_frame": [float(f) if manual else int(f) for f in first],
        "masklet_frame_count": [annotated] * objects,
        "masklet_edited_frame_count": [
            int(rng.integers(1, annotated + 1)) if manual else 0 for _ in range(objects)
        ],
        "masklet_type": [kind] * objects,
        "masklet_stability_score": [None] * objects if manual else scores.round(6).tolist(),
        "masklet_num": objects,
    }


def _bucket(size: float) -> str:
    """The release's three sizes, by mean visible pixels (COCO's bounds reproduce its example)."""
    if size < 32**2:
        return "small"
    return "medium" if size < 96**2 else "large"


def _changes(seen: np.ndarray, first: int) -> int:
    """How often a masklet vanishes or returns after it first appeared."""
    return int(np.abs(np.diff(seen[first:].astype(int))).sum())

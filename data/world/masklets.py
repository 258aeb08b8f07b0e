"""The json beside an SA-V video: its masklets and what the release says about each of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from data.masklets import masklet_facts
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
    facts = masklet_facts(areas, height * width)
    first = facts["masklet_first_appeared_frame"]
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
        **facts,
        "masklet_size_rel": [round(size, 10) for size in facts["masklet_size_rel"]],
        "masklet_size_abs": [round(size, 10) for size in facts["masklet_size_abs"]],
        "masklet_first_appeared_frame": [float(f) for f in first] if manual else first,
        "masklet_edited_frame_count": [
            int(rng.integers(1, annotated + 1)) if manual else 0 for _ in range(objects)
        ],
        "masklet_type": [kind] * objects,
        "masklet_stability_score": [None] * objects if manual else scores.round(6).tolist(),
        "masklet_num": objects,
    }

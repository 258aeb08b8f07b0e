"""Measure a checkpoint on held-out pictures and videos, beside baselines a reader understands.

Pictures: mIoU after 1 and 3 clicks. Videos: J&F from the first mask of each object. The masks of a few videos are kept
for the report. Without an input checkpoint the untrained network is measured, which is the other baseline.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.sources import Dataset, open_dataset
from data.spec import DatasetSpec
from model.image_predictor import ImagePredictor
from model.sam2 import SAM2
from pipeline.config import parse
from pipeline.storage import atomic_file
from stages.contract import StageResult, StageSpec
from stages.evaluation.details import DETAILS, write_details
from stages.evaluation.image import ImageScores, evaluate_images
from stages.evaluation.jf import VideoScores
from stages.evaluation.summary import summarise, write_summary
from stages.evaluation.video import (
    evaluate_videos,
    repeat_first_masks,
    sam2_tracker,
    video_masks,
)
from stages.settings import Evaluation
from stages.training import build_model, open_stage_run


def run(spec: StageSpec) -> StageResult:
    """Evaluate `spec.input`; the stage's folder gets summary.json, baseline.json, details.json and masks/*.npz."""
    wanted = parse(Evaluation, spec.settings["evaluation"], where="evaluation")
    folder = Path(spec.folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = build_model(spec).to(device).eval()
    files: dict[str, str] = {}
    with torch.inference_mode():
        images = _score_images(model, spec.settings["images"], wanted)
        videos, baseline = None, None
        if spec.settings["videos"] is not None:
            dataset = _open(spec.settings["videos"], "videos")
            videos = evaluate_videos(
                sam2_tracker(model),
                dataset,
                limit=wanted.max_videos,
                every_frame=wanted.every_frame,
            )
            baseline = evaluate_videos(
                repeat_first_masks,
                dataset,
                limit=wanted.max_videos,
                every_frame=wanted.every_frame,
                label="first mask repeated",
            )
            files["masks"] = str(_keep_masks(model, dataset, wanted, folder / "masks"))
    summary = summarise(images, videos)
    write_summary(folder / "summary.json", summary)
    write_summary(folder / "baseline.json", summarise(None, baseline))
    write_details(folder / DETAILS, images, videos)
    metrics = summary.metrics()
    if baseline is not None:
        metrics["video/baseline_jf"] = baseline.jf

    record = open_stage_run(spec)
    step = spec.input.step if spec.input else 0
    record.log_metrics(step, {name.replace("@", "_at_"): value for name, value in metrics.items()})
    record.set_tags(_protocols(images, videos))
    record.log_artifact(folder / "summary.json")
    record.log_artifact(folder / DETAILS)
    record.close()
    return StageResult(
        stage=spec.name,
        key=spec.key,
        digest=spec.key,
        metrics=metrics,
        files={"summary": str(folder / "summary.json"), "scores": str(folder / DETAILS), **files},
        run_id=record.run_id,
        step=step,
    )


def _score_images(model: SAM2, data: Any, wanted: Evaluation) -> ImageScores | None:
    if data is None:
        return None
    return evaluate_images(ImagePredictor(model), _open(data, "images"), limit=wanted.max_images)


def _keep_masks(model: SAM2, dataset: Dataset, wanted: Evaluation, folder: Path) -> Path:
    """Write the masks of the first few videos as packed bits, one file a video, for the report to draw."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(min(wanted.overlay_videos, len(dataset))):
        masks = video_masks(sam2_tracker(model), dataset, index)
        with atomic_file(folder / f"{dataset.names[index]}.npz") as file:
            np.savez(file, bits=np.packbits(masks), shape=np.array(masks.shape))
    return folder


def _open(values: Any, name: str) -> Dataset:
    return open_dataset(parse(DatasetSpec, values, where=name))


def _protocols(images: ImageScores | None, videos: VideoScores | None) -> dict[str, str]:
    """What the numbers mean, beside them (law 9)."""
    tags: dict[str, str] = {}
    if images is not None:
        tags |= {"image.protocol": images.protocol, "image.split": images.split}
    if videos is not None:
        tags |= {"video.protocol": str(videos.protocol), "video.split": videos.split}
    return tags

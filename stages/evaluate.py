"""Measure a checkpoint on held-out pictures and videos, beside baselines a reader understands.

Pictures: mIoU after 1 and 3 clicks. Videos: J&F from the first mask of each object. Whatever else a recipe asks for is
measured by the protocols of `stages.evaluation.protocols`. The masks of a few videos are kept for the report. Without
an input checkpoint the untrained network is measured, which is the other baseline. Ranks share the items. An
evaluation that was interrupted does not measure finished items again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.sources import Dataset, open_dataset
from data.spec import DatasetSpec
from model.image_predictor import ImagePredictor
from model.sam2 import SAM2
from model.weights import load_checkpoint
from pipeline import distributed
from pipeline.config import parse
from pipeline.device import usable_device
from pipeline.distributed import World
from pipeline.storage import atomic_file, write_json
from pipeline.tracking import fetch_checkpoint
from stages.contract import StageResult, StageSpec
from stages.evaluation.details import DETAILS, write_details
from stages.evaluation.image import ImageScores, evaluate_images
from stages.evaluation.jf import VideoScores
from stages.evaluation.kept import Kept, done_before, forget
from stages.evaluation.protocols import Found, Subject, measure_by
from stages.evaluation.summary import summarise, write_summary
from stages.evaluation.video import (
    evaluate_videos,
    repeat_first_masks,
    sam2_tracker,
    video_masks,
)
from stages.settings import Evaluation
from stages.training import build_model, open_stage_run

WORST = 2
"""How many of the worst videos are drawn in the report."""
MORE = "more.json"
"""What the further protocols found, with what it means."""


def run(spec: StageSpec) -> StageResult | None:
    """Evaluate `spec.input`; the stage's folder gets summary.json, baseline.json, details.json and masks/*.npz.

    Rank 0 answers."""
    wanted = parse(Evaluation, spec.settings["evaluation"], where="evaluation")
    world = _world(wanted.device)
    try:
        return _run(spec, wanted, world)
    finally:
        distributed.shutdown()


def _run(spec: StageSpec, wanted: Evaluation, world: World) -> StageResult | None:
    folder = Path(spec.folder)
    if world.is_first:
        for line in done_before(folder, spec.key):
            print(line)
    model = _network(spec).to(world.device).eval()
    with torch.inference_mode():
        images = _score_images(spec, model, wanted, world)
        videos, baseline = None, None
        if spec.settings["videos"] is not None:
            dataset = _open(spec.settings["videos"], "videos")
            videos, baseline = _score_videos(spec, model, dataset, wanted, world)
        more = _measure_more(spec, model, wanted, world)
    if not world.is_first:
        return None
    files = {"summary": str(folder / "summary.json"), "scores": str(folder / DETAILS)}
    if videos is not None:
        with torch.inference_mode():
            chosen = drawn(dataset.names, videos, wanted.overlay_videos)
            files["masks"] = str(_keep_masks(model, dataset, chosen, folder / "masks"))
    summary = summarise(images, videos)
    write_summary(folder / "summary.json", summary)
    write_summary(folder / "baseline.json", summarise(None, baseline))
    write_details(folder / DETAILS, images, videos)
    metrics = summary.metrics()
    if baseline is not None:
        metrics["video/baseline_jf"] = baseline.jf
    if more:
        files["more"] = str(folder / MORE)
        write_json(folder / MORE, {name: asdict(found) for name, found in more.items()})
    for name, found in more.items():
        metrics |= {f"{name}/{key}": value for key, value in found.metrics.items()}
        files |= {f"{name}/{key}": place for key, place in found.files.items()}

    record = open_stage_run(spec)
    step = spec.input.step if spec.input else 0
    record.log_metrics(step, {name.replace("@", "_at_"): value for name, value in metrics.items()})
    record.set_tags(_protocols(images, videos, more))
    for name in ("summary", "scores", *(["more"] if more else [])):
        record.log_artifact(files[name])
    record.close()
    forget(folder)
    return StageResult(
        stage=spec.name,
        key=spec.key,
        digest=spec.key,
        metrics=metrics,
        files=files,
        run_id=record.run_id,
        step=step,
    )


def _world(device: str | None) -> World:
    """The ranks, on the device that was named; by default a GPU where there is one."""
    if device is None:
        return distributed.init()
    place = usable_device(device)
    world = distributed.init(place.type)
    return World(device=place) if world.size == 1 else world


def _network(spec: StageSpec) -> SAM2:
    """The network of the recipe; outside of one, that which the weights are of."""
    if spec.settings["model"] is not None:
        return build_model(spec)
    return load_checkpoint(_weights(spec), **spec.settings["weights"])


def _weights(spec: StageSpec) -> Path:
    """The file of the input checkpoint."""
    assert spec.input is not None
    uri = str(spec.tracking.get("uri", ""))
    return fetch_checkpoint(spec.input.uri, spec.input.sha256, Path(spec.folder) / "input", uri)


def _score_images(
    spec: StageSpec, model: SAM2, wanted: Evaluation, world: World
) -> ImageScores | None:
    if spec.settings["images"] is None:
        return None
    return evaluate_images(
        ImagePredictor(model),
        _open(spec.settings["images"], "images"),
        limit=wanted.max_images,
        world=world,
        kept=_kept(spec, "images"),
    )


def _score_videos(
    spec: StageSpec, model: SAM2, dataset: Dataset, wanted: Evaluation, world: World
) -> tuple[VideoScores, VideoScores]:
    """Of the network, and of the baseline that repeats the first mask."""
    ours, baseline = (
        evaluate_videos(
            tracker,
            dataset,
            limit=wanted.max_videos,
            every_frame=wanted.every_frame,
            label=label,
            world=world,
            kept=_kept(spec, label),
        )
        for tracker, label in (
            (sam2_tracker(model), "videos"),
            (repeat_first_masks, "first mask repeated"),
        )
    )
    return ours, baseline


def _measure_more(
    spec: StageSpec, model: SAM2, wanted: Evaluation, world: World
) -> dict[str, Found]:
    """What the further protocols find of a checkpoint, by name; nothing of an untrained network."""
    if spec.input is None or not wanted.more:
        return {}
    weights = _weights(spec)
    found: dict[str, Found] = {}
    for name, one in wanted.more.items():
        dataset = _open(spec.settings["more"][name], name)
        kept = _kept(spec, f"more.{name}")
        subject = Subject(model, weights, dataset, world, Path(spec.folder) / name, kept)
        answer = measure_by(one, subject)
        if answer is not None:
            found[name] = answer
    return found


def _kept(spec: StageSpec, measurement: str) -> Kept:
    return Kept(Path(spec.folder), spec.key, measurement)


def drawn(names: Sequence[str], scores: VideoScores, count: int) -> list[int]:
    """The videos to draw in the report: the first `count`, the same for every stage, and the worst and the best of
    this one."""
    jf = {video.name: video.jf for video in scores.videos if video.objects}
    ranked = sorted(jf, key=jf.__getitem__)
    ends = {*ranked[:WORST], *ranked[-1:]} if count else set()
    return [index for index, name in enumerate(names) if index < count or name in ends]


def _keep_masks(model: SAM2, dataset: Dataset, indices: Sequence[int], folder: Path) -> Path:
    """Write the masks of some videos as packed bits, one file a video, for the report to draw."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in indices:
        masks = video_masks(sam2_tracker(model), dataset, index)
        with atomic_file(folder / f"{dataset.names[index]}.npz") as file:
            np.savez(file, bits=np.packbits(masks), shape=np.array(masks.shape))
    return folder


def _open(values: Any, name: str) -> Dataset:
    return open_dataset(parse(DatasetSpec, values, where=name))


def _protocols(
    images: ImageScores | None, videos: VideoScores | None, more: dict[str, Found]
) -> dict[str, str]:
    """What the numbers mean, beside them (law 9)."""
    tags: dict[str, str] = {}
    if images is not None:
        tags |= {"image.protocol": images.protocol, "image.split": images.split}
    if videos is not None:
        tags |= {"video.protocol": f"{videos.given}; {videos.protocol}"}
        tags |= {"video.split": videos.split, "video.resolution": videos.sizes}
    for name, found in more.items():
        tags |= {f"{name}.protocol": found.protocol, f"{name}.split": found.split}
    return tags

"""Semi-supervised video segmentation of a whole data set, by way of files as benchmarks want them.

Each object is shown where the data set's custom is to show it and followed over all frames. A video
that is finished, with the same weights and settings, is not predicted again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from data.sources import Dataset
from pipeline.distributed import World
from pipeline.errors import DataError
from pipeline.stop import check_stop
from stages.evaluation.jf import Protocol, VideoScore, VideoScores
from stages.evaluation.predicted import has_truth, score_prediction
from stages.evaluation.protocols import Found, Subject
from stages.evaluation.score_files import MEANS, clear_scores, write_scores
from stages.evaluation.sharing import share_out
from stages.evaluation_settings import VosMeasurement, ZipStyle
from stages.predict import predict
from stages.prediction.spec import PredictSpec
from stages.prediction.submission import pack

MASKS, SCORES = "masks", "scores"
PER_OBJECT = ("sav", "sav_val")
"""Formats whose masks may overlap: a picture for each object."""


def measure(wanted: VosMeasurement, subject: Subject) -> Found | None:
    """Predict the rank's videos; then score and pack those of all.

    Raises DataError naming every video that cannot be predicted; there is no score then.
    """
    dataset, world = subject.dataset, subject.world
    objects = dataset.spec.format in PER_OBJECT and wanted.zip is None
    spec = PredictSpec(
        source=dataset.spec.root,
        out=str(subject.folder),
        checkpoint=str(subject.weights),
        image_size=subject.model.config.image_size,
        layouts=("objects",) if objects else ("palette",),
        overlay=False,
        late_objects=wanted.show_late,
        names=tuple(dataset.names),
        device=str(world.device),
    )

    def predict_shard(rank: int) -> tuple[str, ...]:
        shard = replace(spec, shard=(rank + 1, world.size))
        return predict(shard, lambda event: check_stop()).failures

    shards = share_out(world.size, predict_shard, world, label="predicting", unit="shard")
    failures = [line for part in shards for line in part]
    if failures:
        raise DataError("\n".join(failures))
    if world.is_first:
        clear_scores(subject.folder / SCORES)
    protocol = Protocol(wanted.late_objects, wanted.skip_first_and_last)
    scores = score_dataset(dataset, subject.folder, protocol, objects=objects, world=world)
    if not world.is_first:
        return None
    files = {"masks": str(subject.folder / MASKS)}
    if wanted.zip is not None:
        files["zip"] = str(pack_dataset(dataset, subject.folder, wanted.zip))
    if scores is None:
        return Found({}, "masks written, no truth to score them against", dataset.digest, "", files)
    files |= write_dataset_scores(scores, subject.folder)
    metrics = {"jf": scores.jf, **{name: scores.mean(name) for name in MEANS}}
    return Found(metrics, f"{scores.given}; {protocol}", scores.split, scores.sizes, files)


def score_dataset(
    dataset: Dataset,
    folder: Path,
    protocol: Protocol,
    *,
    objects: bool,
    world: World | None = None,
    tell: Callable[[], None] | None = None,
) -> VideoScores | None:
    """J&F of the masks in `folder`; None where the data set shows no more than first masks.

    objects: the masks lie in a folder for each object. tell: called after every video.
    """

    def score(index: int) -> VideoScore | None:
        found = None
        if has_truth(dataset, index):
            found = score_prediction(dataset, index, folder / MASKS, protocol, objects=objects)
        if tell:
            tell()
        return found

    videos = tuple(video for video in share_out(len(dataset), score, world) if video is not None)
    if not any(video.objects for video in videos):
        return None
    given = "each object shown as its first mask, all frames tracked, masks read from files"
    return VideoScores(videos, protocol, dataset.digest, given)


def write_dataset_scores(scores: VideoScores, folder: Path) -> dict[str, str]:
    """Write the scores below `folder`, in every form; the places worth opening by name."""
    places = write_scores(scores, folder / SCORES)
    return {name: str(place) for name, place in places.items()}


def pack_dataset(dataset: Dataset, folder: Path, style: ZipStyle) -> Path:
    """The masks in `folder` as one zip beside them."""
    return pack(folder / MASKS, dataset.names, folder / f"{style}.zip", style)

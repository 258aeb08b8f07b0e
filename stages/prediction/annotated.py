"""Semi-supervised segmentation of a data set's videos: objects are shown by their annotation and
then followed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, tee

import numpy as np

from model.sam2 import SAM2
from model.video_predictor import track_video
from pipeline.errors import DataError
from stages.evaluation.video import first_sights, places_of
from stages.prediction.answer import Answer, answer_of, nothing
from stages.prediction.sources import AnnotatedFilm


def follow(
    model: SAM2, item: AnnotatedFilm, threshold: float, *, late_objects: bool
) -> Iterator[Answer]:
    """An answer for every frame of the video, also those without annotation.

    late_objects: objects that appear after the first annotated frame are shown where they do;
    without it they are not followed. Before an object is shown it has no mask. Raises DataError
    where no object is ever shown.
    """
    dataset, index = item.dataset, item.index
    first = first_sights(dataset, index, late=late_objects)
    if not first:
        raise DataError(
            f"{dataset.name}/{item.name}: no annotated frame shows an object, so there is nothing "
            "to follow"
        )
    annotated = [int(number) for number in dataset.frame_numbers(index)]
    start = annotated[min(first.values())]
    numbers = tuple(first)
    frames = dataset.stream(index)
    for number, frame in frames:
        if number >= start:
            break
        yield nothing(dataset.frame_name(index, number), frame, numbers)
    else:
        raise DataError(
            f"{dataset.name}/{item.name}: the video ends before frame {start}, which has a mask"
        )
    shown = _shown(item, first, annotated, start, frame.shape[:2])
    told, seen = tee(chain([(number, frame)], frames))
    logits = track_video(model, (frame for _, frame in seen), shown)
    for answer, (number, frame) in zip(logits, told, strict=False):
        yield answer_of(dataset.frame_name(index, number), frame, numbers, answer, threshold)


def _shown(
    item: AnnotatedFilm,
    first: dict[int, int],
    annotated: list[int],
    start: int,
    size: tuple[int, ...],
) -> dict[int, dict[int, np.ndarray]]:
    """By place from `start` on, and object: bool [H, W]."""
    dataset, index = item.dataset, item.index
    wanted = [annotated[position] for position in first.values()]
    places = places_of(dataset, index, wanted, start, every_frame=True)
    shown: dict[int, dict[int, np.ndarray]] = {}
    for number, position in first.items():
        mask = dataset.masks(index, position, [number], (size[0], size[1]))[0]
        shown.setdefault(places[annotated[position]], {})[number] = mask
    return shown

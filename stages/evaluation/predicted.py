"""J&F of mask files that `predict` wrote, against the data set they were predicted from."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data.sources import Dataset
from pipeline.errors import DataError
from stages.evaluation.jf import Protocol, VideoScore, VideoScorer
from stages.evaluation.mask_files import planes, read_binary, read_labels


def has_truth(dataset: Dataset, index: int) -> bool:
    """Whether a video shows more of an object than its first mask; the hidden truth of validation
    sets with a server does not."""
    seen: set[int] = set()
    for position in range(dataset.frame_count(index)):
        visible = set(dataset.visible(index, position))
        if visible & seen:
            return True
        seen |= visible
    return False


def score_prediction(
    dataset: Dataset, index: int, masks: Path, protocol: Protocol, *, objects: bool
) -> VideoScore:
    """Score the masks of one video in `masks/<video>`.

    objects: they lie in a folder for each object; otherwise they are label maps. Raises DataError
    for one that is missing, broken, or of another size.
    """
    numbers = [int(number) for number in dataset.frame_numbers(index)]
    ids = sorted({i for p in range(len(numbers)) for i in dataset.visible(index, p)})
    scorer = VideoScorer(dataset.names[index], ids, protocol)
    for position in protocol.evaluated(range(len(numbers))):
        name = f"{dataset.frame_name(index, numbers[position])}.png"
        guess = _read(masks / dataset.names[index], name, ids, objects=objects)
        size = (guess.shape[1], guess.shape[2])
        scorer.add(numbers[position], dataset.masks(index, position, ids, size), guess)
    return scorer.result()


def _read(folder: Path, name: str, ids: list[int], *, objects: bool) -> np.ndarray:
    """bool [O, H, W]. An object that was never shown to the network has no folder, and no mask."""
    if not objects:
        return planes(read_labels(folder / name), ids)
    places = [folder / f"{number:03d}" for number in ids]
    found = {place: read_binary(place / name) for place in places if place.is_dir()}
    if not found:
        raise DataError(f"{folder}: no mask of any object; predict the video again")
    nothing = np.zeros_like(next(iter(found.values())))
    return np.stack([found.get(place, nothing) for place in places])

"""A result as columns that can be held against another one: each metric item by item, with what it
was measured on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from stages.evaluation.details import Details
from stages.evaluation.jf import ObjectScore

TITLES: Mapping[str, str] = {
    "video/jf": "video J&F",
    "video/j": "video J",
    "video/f": "video F",
    "video/jf_returned": "J&F after disappearances",
    "video/presence": "presence accuracy",
    "image/miou@1": "image mIoU@1",
    "image/miou@3": "image mIoU@3",
    "image/miou@5": "image mIoU@5",
}
"""The metrics that are compared, in the order they are shown."""


@dataclass(frozen=True)
class Figure:
    """One metric of one result, item by item; an item is a video or a picture."""

    name: str
    values: Mapping[str, float]
    """Mean over the objects of each item."""
    weights: Mapping[str, int]
    """Objects of each item; the weighted mean is the mean over all objects, as it is quoted."""
    split: str = ""
    """Digest of the data set; empty when not recorded."""
    protocol: str = ""
    """Empty when not recorded."""

    @property
    def full(self) -> float:
        """What a perfect score is: 100 for percentages, 1 for IoU."""
        return 1.0 if self.name.startswith("image/") else 100.0

    @property
    def digits(self) -> int:
        """Decimals worth showing."""
        return 3 if self.full == 1.0 else 1

    @property
    def items(self) -> str:
        """What an item is called."""
        return "pictures" if self.name.startswith("image/") else "videos"

    @property
    def mean(self) -> float:
        """Mean over all objects."""
        weights = [self.weights[item] for item in self.values]
        return float(np.average(list(self.values.values()), weights=weights))


@dataclass(frozen=True)
class Scored:
    """One result: what to call it, where it lies, its metrics by name."""

    name: str
    source: str
    figures: Mapping[str, Figure]
    sha256: str = ""
    """Digest of the checkpoint; empty when there is none on record."""


def scored_details(details: Details, name: str, source: str, sha256: str = "") -> Scored:
    """The metrics of a file of scores."""
    return Scored(name, source, {f.name: f for f in _figures(details)}, sha256)


def _figures(details: Details) -> Iterable[Figure]:
    """One column for each of TITLES that was measured."""
    if (videos := details.videos) is not None:
        protocol = protocol_text(videos.given, str(videos.protocol))
        by_video = {video.name: video.objects for video in videos.videos if video.objects}
        for name in (name for name in TITLES if name.startswith("video/")):
            value = _READ[name]
            scores = {
                video: [number for score in objects if (number := value(score)) is not None]
                for video, objects in by_video.items()
            }
            if any(scores.values()):
                yield figure_of(name, scores, videos.split, protocol)
    if (pictures := details.pictures) is not None:
        for click in (1, 3, 5):
            if click <= pictures.ious.shape[1]:
                found: dict[str, list[float]] = {}
                for picture, iou in zip(
                    pictures.pictures, pictures.ious[:, click - 1], strict=True
                ):
                    found.setdefault(picture, []).append(float(iou))
                yield figure_of(f"image/miou@{click}", found, pictures.split, pictures.protocol)


_READ: Mapping[str, Callable[[ObjectScore], float | None]] = {
    "video/jf": lambda score: score.jf,
    "video/j": lambda score: score.j,
    "video/f": lambda score: score.f,
    "video/jf_returned": lambda score: score.jf_returned,
    "video/presence": lambda score: score.presence,
}


def figure_of(
    name: str, scores: Mapping[str, Sequence[float]], split: str = "", protocol: str = ""
) -> Figure:
    """A metric from the values of the objects of each item; items without any are left out."""
    scores = {item: values for item, values in scores.items() if values}
    return Figure(
        name,
        {item: float(np.mean(values)) for item, values in scores.items()},
        {item: len(values) for item, values in scores.items()},
        split,
        protocol,
    )


def protocol_text(given: str, protocol: str) -> str:
    """What predictions were made from and how they were scored, as one text."""
    return "; ".join(filter(None, (given, protocol)))


def distinct(results: Sequence[Scored]) -> list[Scored]:
    """The same results under names that tell them apart."""
    names = [result.name for result in results]
    return [
        replace(result, name=result.source) if names.count(result.name) > 1 else result
        for result in results
    ]

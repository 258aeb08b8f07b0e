"""What an evaluation found, as plain numbers: small enough for a file, a table row, a metric
store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import DataError
from pipeline.storage import read_json, write_json
from stages.evaluation.jf import VideoScores

if TYPE_CHECKING:
    from stages.evaluation.image import ImageScores


@dataclass(frozen=True)
class ImageSummary:
    """Interactive segmentation of pictures."""

    miou: Mapping[int, float]
    """Mean IoU (0 to 1) over the objects after so many clicks."""
    pictures: int
    objects: int
    protocol: str
    split: str
    """Digest of the pictures that were scored."""


@dataclass(frozen=True)
class VideoSummary:
    """Video object segmentation from given masks; percentages."""

    jf: float
    j: float
    f: float
    presence: float
    """Frames on which it is right about whether the object is there."""
    objects: int
    protocol: str
    split: str
    """Digest of the videos that were scored."""
    sequences: Mapping[str, float] = field(default_factory=dict)
    """J&F of each video."""
    jf_returned: float | None = None
    """J&F after disappearances; none when no object comes back."""
    resolution: str = ""
    """Width and height of the masks that were compared."""


@dataclass(frozen=True)
class Summary:
    """One evaluation of one checkpoint, or of a baseline; a part that was not measured is None."""

    image: ImageSummary | None = None
    video: VideoSummary | None = None

    def metrics(self) -> dict[str, float]:
        """The headline figures by name, for a metric store: `image/miou@1`, `video/jf` …"""
        found: dict[str, float] = {}
        if self.image is not None:
            found |= {f"image/miou@{clicks}": value for clicks, value in self.image.miou.items()}
        if self.video is not None:
            video = self.video
            found |= {"video/jf": video.jf, "video/j": video.j, "video/f": video.f}
            found["video/presence"] = video.presence
            if video.jf_returned is not None:
                found["video/jf_returned"] = video.jf_returned
        return {key: value for key, value in found.items() if np.isfinite(value)}


def summarise(images: ImageScores | None = None, videos: VideoScores | None = None) -> Summary:
    """The plain numbers of what was scored."""
    return Summary(
        image=None if images is None else _image_summary(images),
        video=None if videos is None else _video_summary(videos),
    )


def write_summary(path: str | Path, summary: Summary) -> None:
    """Write `summary` as JSON."""
    write_json(path, asdict(summary))


def read_summary(path: str | Path) -> Summary:
    """The summary in a file that `write_summary` wrote. Raises DataError when it is not one."""
    values = read_json(path) or {}
    try:
        image, video = values["image"], values["video"]
        if image is not None:
            miou = {int(clicks): value for clicks, value in image["miou"].items()}
            image = ImageSummary(**(image | {"miou": miou}))
        return Summary(image, None if video is None else VideoSummary(**video))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(
            f"{path} is not an evaluation summary ({error!r}); delete it and evaluate again"
        ) from error


def _image_summary(scores: ImageScores) -> ImageSummary:
    return ImageSummary(
        miou={clicks + 1: float(value) for clicks, value in enumerate(scores.ious.mean(0))},
        pictures=len(set(scores.pictures)),
        objects=len(scores.pictures),
        protocol=scores.protocol,
        split=scores.split,
    )


def _video_summary(scores: VideoScores) -> VideoSummary:
    return VideoSummary(
        jf=scores.jf,
        j=scores.j,
        f=scores.f,
        presence=scores.presence,
        objects=len(scores.objects),
        protocol="; ".join(filter(None, (scores.given, str(scores.protocol)))),
        split=scores.split,
        sequences={video.name: video.jf for video in scores.videos if video.objects},
        jf_returned=scores.jf_returned,
        resolution=scores.sizes,
    )

"""Every single score of an evaluation as one file: what comparisons, failure categories and charts
are made of.

`summary.json` holds the figures a person quotes; `details.json`, beside it, holds J and F of every
object on every frame and the IoU of every object of every picture after every click, with the
protocol and the split they belong to. No torch is needed to read either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import DataError
from pipeline.storage import read_json, write_json
from stages.evaluation.jf import ObjectScore, Protocol, VideoScore, VideoScores

if TYPE_CHECKING:
    from stages.evaluation.image import ImageScores

DETAILS = "details.json"
FORMAT = 1
DIGITS = 6
"""Kept of a score between 0 and 1; a mean is right to a ten-thousandth of a point."""


@dataclass(frozen=True, eq=False)
class PictureScores:
    """IoU of every object of every picture after every click."""

    pictures: tuple[str, ...]
    """The picture of each object."""
    ious: np.ndarray
    """float64 [objects, clicks], 0 to 1."""
    split: str
    protocol: str


@dataclass(frozen=True, eq=False)
class Details:
    """All scores of one checkpoint, or of a baseline; a part that was not measured is None."""

    pictures: PictureScores | None = None
    videos: VideoScores | None = None


def write_details(
    path: str | Path, pictures: ImageScores | None = None, videos: VideoScores | None = None
) -> None:
    """Write what was scored as JSON, whole or not at all."""
    values = {
        "format": FORMAT,
        "pictures": None if pictures is None else _pictures_out(pictures),
        "videos": None if videos is None else _videos_out(videos),
    }
    write_json(path, values, indent=None)


def read_details(path: str | Path) -> Details:
    """The scores in a file that `write_details` wrote. Raises DataError when it is not one."""
    values = read_json(path)
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise DataError(
            f"{path} is not a file of scores (format {FORMAT}); delete it and evaluate again"
        )
    try:
        pictures, videos = values["pictures"], values["videos"]
        return Details(
            None if pictures is None else _pictures_in(pictures),
            None if videos is None else _videos_in(videos),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is broken ({error!r}); delete it and evaluate again") from error


def _pictures_out(scores: ImageScores) -> Mapping[str, Any]:
    return {
        "split": scores.split,
        "protocol": scores.protocol,
        "names": list(scores.pictures),
        "ious": _numbers(scores.ious),
    }


def _pictures_in(values: Mapping[str, Any]) -> PictureScores:
    names = tuple(values["names"])
    ious = np.asarray(values["ious"], float)
    if ious.ndim != 2 or len(ious) != len(names):
        raise ValueError(f"{len(names)} names for scores of shape {ious.shape}")
    return PictureScores(names, ious, values["split"], values["protocol"])


def _videos_out(scores: VideoScores) -> Mapping[str, Any]:
    return {
        "split": scores.split,
        "protocol": asdict(scores.protocol),
        "given": scores.given,
        "videos": [
            {
                "name": video.name,
                "unscored": list(video.unscored),
                "size": list(video.size),
                "objects": [_object_out(score) for score in video.objects],
            }
            for video in scores.videos
        ],
    }


def _object_out(score: ObjectScore) -> Mapping[str, Any]:
    return {
        "id": score.object_id,
        "frames": list(score.frames),
        "j": _numbers(score.region),
        "f": _numbers(score.contour),
        "visible": _flags(score.visible),
        "claimed": _flags(score.claimed),
    }


def _videos_in(values: Mapping[str, Any]) -> VideoScores:
    videos = tuple(
        VideoScore(
            video["name"],
            tuple(_object_in(score) for score in video["objects"]),
            tuple(video["unscored"]),
            tuple(video.get("size", (0, 0))),
        )
        for video in values["videos"]
    )
    return VideoScores(
        videos, Protocol(**values["protocol"]), split=values["split"], given=values["given"]
    )


def _object_in(values: Mapping[str, Any]) -> ObjectScore:
    region, contour = np.asarray(values["j"], float), np.asarray(values["f"], float)
    visible, claimed = (
        np.frombuffer(values[key].encode(), np.uint8) == ord("1") for key in ("visible", "claimed")
    )
    frames = tuple(values["frames"])
    if not len(frames) == len(region) == len(contour) == len(visible) == len(claimed) > 0:
        raise ValueError(f"object {values['id']}: columns of different length")
    return ObjectScore(values["id"], frames, region, contour, visible, claimed)


def _numbers(values: np.ndarray) -> Sequence[Any]:
    return [_numbers(value) if np.ndim(value) else round(float(value), DIGITS) for value in values]


def _flags(values: np.ndarray) -> str:
    """A column of bools as text: 1101."""
    return "".join("1" if value else "0" for value in values)

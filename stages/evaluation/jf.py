"""J&F, the score of video object segmentation, as the SA-V and vos-benchmark evaluators compute it.

J is the IoU of two masks. F asks how much of each contour lies within a few pixels of the other
one: with the share of the predicted contour near the true one (precision) and the reverse (recall),
F = 2PR / (P + R). Both are averaged over the frames of an object, then over the objects of the
whole data set; J&F is the mean of the two means.

Only numpy and OpenCV are needed. The numbers equal the reference evaluator's to 1e-9, at a fraction
of its time: everything happens inside the box that holds both masks, where a contour's
neighbourhood is small.

Letters: T frames, O objects, H and W pixels of the size the data set is annotated in (F depends on
it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, hypot
from typing import Literal, NamedTuple, TypeVar

import cv2
import numpy as np

from pipeline.errors import DataError

CONTOUR_REACH = 0.008
"""How far apart two contours may be and still agree, as a share of the picture's diagonal."""

Frame = TypeVar("Frame", int, str)
FrameMasks = Mapping[int, np.ndarray]
"""bool [O, H, W] of each annotated frame, by the data set's frame number."""


@dataclass(frozen=True)
class Protocol:
    """The choices that change J&F without changing a mask; they belong beside every number."""

    late_objects: Literal["sav", "davis"] = "sav"
    """`sav`: an object counts from the first evaluated frame where it, or its prediction, is seen.
    `davis`: it counts on every evaluated frame, and an empty answer before it appears earns full
    marks."""
    skip_first_and_last: bool = True
    """Leave out the first annotated frame, whose mask is given, and the last, as DAVIS does."""

    def evaluated(self, frames: Sequence[Frame]) -> Sequence[Frame]:
        """Those of the annotated `frames`, in order, that are scored."""
        return frames[1:-1] if self.skip_first_and_last else frames

    def __str__(self) -> str:
        since = "first sight (SA-V)" if self.late_objects == "sav" else "the first frame (DAVIS)"
        ends = "skipped" if self.skip_first_and_last else "scored"
        return f"objects counted from {since}, first and last annotated frame {ends}"


@dataclass(frozen=True, eq=False)
class ObjectScore:
    """One object of one video on the n frames where it counts; the properties are percentages."""

    object_id: int | str
    frames: tuple[int | str, ...]
    region: np.ndarray
    """J per frame, float64 [n], 0 to 1."""
    contour: np.ndarray
    """F per frame, float64 [n], 0 to 1."""
    visible: np.ndarray
    """bool [n]: the truth shows the object."""
    claimed: np.ndarray
    """bool [n]: the prediction shows the object."""

    @property
    def j(self) -> float:
        """Mean J."""
        return 100 * float(np.mean(self.region))

    @property
    def f(self) -> float:
        """Mean F."""
        return 100 * float(np.mean(self.contour))

    @property
    def jf(self) -> float:
        """The mean of J and F."""
        return (self.j + self.f) / 2

    @property
    def returned(self) -> np.ndarray:
        """bool [n]: frames that show the object after it had been out of sight."""
        seen = np.logical_or.accumulate(self.visible)
        lost = np.logical_or.accumulate(seen & ~self.visible)
        return lost & self.visible

    @property
    def jf_returned(self) -> float | None:
        """J&F on the frames after a disappearance; none when the object never comes back."""
        if not self.returned.any():
            return None
        return 50 * float(
            np.mean(self.region[self.returned]) + np.mean(self.contour[self.returned])
        )

    @property
    def presence(self) -> float:
        """Share of frames on which truth and prediction agree whether the object is there."""
        return 100 * float(np.mean(self.visible == self.claimed))


@dataclass(frozen=True)
class VideoScore:
    """The objects of one video."""

    name: str
    objects: tuple[ObjectScore, ...]
    unscored: tuple[int | str, ...] = ()
    """Objects the truth shows on no evaluated frame; they have no score and enter no mean."""

    @property
    def j(self) -> float:
        """Mean J over the objects; nan when none is scored."""
        return _mean([score.j for score in self.objects])

    @property
    def f(self) -> float:
        """Mean F over the objects; nan when none is scored."""
        return _mean([score.f for score in self.objects])

    @property
    def jf(self) -> float:
        """Mean J&F over the objects; nan when none is scored."""
        return (self.j + self.f) / 2


@dataclass(frozen=True)
class VideoScores:
    """A whole data set. Every mean is over objects, not over videos."""

    videos: tuple[VideoScore, ...]
    protocol: Protocol = Protocol()
    split: str = ""
    """Digest of the data set that was scored."""
    given: str = ""
    """What the predictions were made from; empty for masks of unknown origin."""

    @property
    def objects(self) -> tuple[ObjectScore, ...]:
        """All scored objects."""
        return tuple(score for video in self.videos for score in video.objects)

    @property
    def j(self) -> float:
        """Mean J."""
        return _mean([score.j for score in self.objects])

    @property
    def f(self) -> float:
        """Mean F."""
        return _mean([score.f for score in self.objects])

    @property
    def jf(self) -> float:
        """The mean of the two means: the headline number."""
        return (self.j + self.f) / 2

    @property
    def jf_returned(self) -> float | None:
        """J&F after disappearances, over the objects that come back; none when no object does."""
        values = [value for score in self.objects if (value := score.jf_returned) is not None]
        return _mean(values) if values else None

    @property
    def presence(self) -> float:
        """Mean agreement about whether the object is there."""
        return _mean([score.presence for score in self.objects])


class MaskScore(NamedTuple):
    """One object on one frame."""

    region: float
    """J, 0 to 1."""
    contour: float
    """F, 0 to 1."""
    visible: bool
    """The truth shows the object."""
    claimed: bool
    """The prediction shows it."""


class VideoScorer:
    """Scores one video frame by frame, so that no more than one frame's masks need be in memory."""

    def __init__(self, name: str, object_ids: Sequence[int | str], protocol: Protocol) -> None:
        self.name = name
        self.object_ids = list(object_ids)
        self.protocol = protocol
        self._frames: list[int | str] = []
        self._rows: list[list[MaskScore]] = [[] for _ in self.object_ids]

    def watch(self, object_id: int | str) -> None:
        """Follow one more object, which neither truth nor prediction has shown so far."""
        self.object_ids.append(object_id)
        self._rows.append([MaskScore(1.0, 1.0, False, False)] * len(self._frames))

    def add(self, frame: int | str, truth: np.ndarray, prediction: np.ndarray) -> None:
        """Score the masks of one evaluated frame, bool [O, H, W] each. Raises DataError when they
        do not fit."""
        if truth.shape != prediction.shape or len(truth) != len(self.object_ids):
            raise DataError(
                f"{self.name}, frame {frame}: the prediction has shape {prediction.shape}, "
                f"the truth {truth.shape}; expected {len(self.object_ids)} objects, same size"
            )
        self._frames.append(frame)
        for row, true_mask, guess in zip(self._rows, truth, prediction, strict=True):
            row.append(score_masks(true_mask, guess))

    def result(self) -> VideoScore:
        """The score of all frames added so far."""
        scores = []
        unscored: list[int | str] = []
        for object_id, rows in zip(self.object_ids, self._rows, strict=True):
            score = self._object(object_id, rows)
            if score is None:
                unscored.append(object_id)
            else:
                scores.append(score)
        return VideoScore(self.name, tuple(scores), tuple(unscored))

    def _object(self, object_id: int | str, rows: Sequence[MaskScore]) -> ObjectScore | None:
        """The frames that count, or None when the truth never shows the object."""
        visible = np.array([row.visible for row in rows], bool)
        claimed = np.array([row.claimed for row in rows], bool)
        if not visible.any():
            return None
        start = int(np.argmax(visible | claimed)) if self.protocol.late_objects == "sav" else 0
        region = np.array([row.region for row in rows[start:]])
        contour = np.array([row.contour for row in rows[start:]])
        frames = tuple(self._frames[start:])
        return ObjectScore(object_id, frames, region, contour, visible[start:], claimed[start:])


def score_video(
    truth: FrameMasks | np.ndarray,
    prediction: FrameMasks | np.ndarray,
    *,
    name: str = "video",
    object_ids: Sequence[int | str] | None = None,
    protocol: Protocol | None = None,
) -> VideoScore:
    """Score masks in memory.

    truth, prediction: bool [T, O, H, W], or a mapping from frame number to bool [O, H, W]. The
    truth may be sparse; predictions for other frames are ignored. Raises DataError when a frame of
    the truth has no prediction.
    """
    protocol = protocol or Protocol()
    truth, prediction = _by_frame(truth), _by_frame(prediction)
    if not truth:
        raise DataError(f"{name}: no annotated frame to score")
    missing = sorted(set(truth) - set(prediction))
    if missing:
        raise DataError(
            f"{name}: no prediction for annotated frames {listing(missing)}; "
            f"predict every annotated frame"
        )
    frames = sorted(truth)
    scorer = VideoScorer(name, object_ids or range(len(truth[frames[0]])), protocol)
    for frame in protocol.evaluated(frames):
        scorer.add(frame, truth[frame], prediction[frame])
    return scorer.result()


def score_masks(truth: np.ndarray, prediction: np.ndarray) -> MaskScore:
    """Score one object on one frame.

    truth, prediction: bool [H, W]. Two empty masks agree perfectly. A mask that fills the frame has
    no contour.
    """
    height, width = truth.shape
    truth, prediction = _crop_to_both(truth, prediction)
    in_truth, in_prediction = np.count_nonzero(truth), np.count_nonzero(prediction)
    common = np.count_nonzero(truth & prediction)
    union = in_truth + in_prediction - common
    region = common / union if union else 1.0
    reach = ceil(CONTOUR_REACH * hypot(height, width))
    contour = _contour_score(truth, prediction, reach)
    return MaskScore(region, contour, bool(in_truth), bool(in_prediction))


def _contour_score(truth: np.ndarray, prediction: np.ndarray, reach: int) -> float:
    """F of two cropped masks, uint8 [h, w] of 0 and 1."""
    true_contour, contour = _contour(truth), _contour(prediction)
    in_truth, in_prediction = np.count_nonzero(true_contour), np.count_nonzero(contour)
    if not in_truth or not in_prediction:
        return float(in_truth == in_prediction)
    precision = np.count_nonzero(contour & cv2.dilate(true_contour, _disk(reach))) / in_prediction
    recall = np.count_nonzero(true_contour & cv2.dilate(contour, _disk(reach))) / in_truth
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _contour(mask: np.ndarray) -> np.ndarray:
    """Pixels that differ from the one to the right, below, or diagonally below; beyond the edge the
    mask goes on."""
    padded = cv2.copyMakeBorder(mask, 0, 1, 0, 1, cv2.BORDER_REPLICATE)
    here = padded[:-1, :-1]
    return (here ^ padded[:-1, 1:]) | (here ^ padded[1:, :-1]) | (here ^ padded[1:, 1:])


def _crop_to_both(truth: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both masks as uint8, cut to the box around their union with one empty pixel on each side.

    That pixel holds the contour, which lies half a pixel up and left, and keeps the far side from
    being mistaken for the edge of the picture. Contours outside the box do not exist, so nothing
    beyond it can be near one.
    """
    truth, prediction = _bytes(truth), _bytes(prediction)
    boxes = [box for box in (cv2.boundingRect(truth), cv2.boundingRect(prediction)) if box[2]]
    if not boxes:
        return truth[:1, :1], prediction[:1, :1]
    top = max(min(y for _, y, _, _ in boxes) - 1, 0)
    left = max(min(x for x, _, _, _ in boxes) - 1, 0)
    bottom = max(y + h for _, y, _, h in boxes) + 1
    right = max(x + w for x, _, w, _ in boxes) + 1
    return truth[top:bottom, left:right], prediction[top:bottom, left:right]


def _bytes(mask: np.ndarray) -> np.ndarray:
    """A bool mask as uint8 0 and 1, without a copy where its layout allows."""
    return np.ascontiguousarray(mask, dtype=bool).view(np.uint8)


@lru_cache(maxsize=32)
def _disk(radius: int) -> np.ndarray:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return (x * x + y * y <= radius * radius).astype(np.uint8)


def _by_frame(masks: FrameMasks | np.ndarray) -> FrameMasks:
    return dict(enumerate(masks)) if isinstance(masks, np.ndarray) else masks


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def listing(items: Sequence[object], limit: int = 8) -> str:
    """The first few items and how many more there are."""
    shown = ", ".join(str(item) for item in items[:limit])
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit} more"

"""J&F, the score of video object segmentation, as the SA-V and vos-benchmark evaluators compute it.

J and F of two masks (see `masks`) are averaged over the frames of an object, then over the objects
of the whole data set; J&F is the mean of the two means. Recall is the share of frames above 0.5,
decay the loss from the first quarter of the frames to the last, both as DAVIS defines them.

Letters: T frames, O objects, H and W pixels of the size the data set is annotated in (F depends on
it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

from pipeline.errors import DataError
from stages.evaluation.masks import MaskScore, score_masks

GOOD_ENOUGH = 0.5
"""Recall counts the frames above it."""
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
    def j_recall(self) -> float:
        """Share of the frames with J above 0.5."""
        return _recall(self.region)

    @property
    def f_recall(self) -> float:
        """Share of the frames with F above 0.5."""
        return _recall(self.contour)

    @property
    def j_decay(self) -> float:
        """By how much J is lower on the last quarter of the frames than on the first."""
        return _decay(self.region)

    @property
    def f_decay(self) -> float:
        """The same of F."""
        return _decay(self.contour)

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


class _Means:
    """Means over the objects, of a video or of a data set: percentages, nan when none is scored."""

    if (
        TYPE_CHECKING
    ):  # a field in one of those who inherit, and a dataclass takes this for its value

        @property
        def objects(self) -> tuple[ObjectScore, ...]:
            """What the means are over."""

    def mean(self, name: str) -> float:
        """Mean of one property of ObjectScore, such as `j_decay`, over the objects that have it."""
        values = [v for score in self.objects if (v := getattr(score, name)) is not None]
        return float(np.mean(values)) if values else float("nan")

    @property
    def j(self) -> float:
        """Mean J."""
        return self.mean("j")

    @property
    def f(self) -> float:
        """Mean F."""
        return self.mean("f")

    @property
    def jf(self) -> float:
        """The mean of the two means: the headline number."""
        return (self.j + self.f) / 2

    @property
    def jf_returned(self) -> float | None:
        """J&F after disappearances, over the objects that come back; none when no object does."""
        value = self.mean("jf_returned")
        return None if np.isnan(value) else value

    @property
    def presence(self) -> float:
        """Mean agreement about whether the object is there."""
        return self.mean("presence")


@dataclass(frozen=True)
class VideoScore(_Means):
    """The objects of one video."""

    name: str
    objects: tuple[ObjectScore, ...]
    unscored: tuple[int | str, ...] = ()
    """Objects the truth shows on no evaluated frame; they have no score and enter no mean."""
    size: tuple[int, int] = (0, 0)
    """Height and width the masks were compared at; F depends on it."""


@dataclass(frozen=True)
class VideoScores(_Means):
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
    def sizes(self) -> str:
        """Width and height of the scored masks: `854x480`, or the smallest and the largest."""
        found = sorted(
            {v.size for v in self.videos if v.objects}, key=lambda size: size[0] * size[1]
        )
        ends = dict.fromkeys((found[0], found[-1])) if found else {}
        return " to ".join(f"{width}x{height}" for height, width in ends)


class VideoScorer:
    """Scores one video frame by frame, so that no more than one frame's masks need be in memory."""

    def __init__(self, name: str, object_ids: Sequence[int | str], protocol: Protocol) -> None:
        self.name = name
        self.object_ids = list(object_ids)
        self.protocol = protocol
        self._size = (0, 0)
        self._frames: list[int | str] = []
        self._rows: list[list[MaskScore]] = [[] for _ in self.object_ids]

    def watch(self, object_id: int | str) -> None:
        """Follow one more object, which neither truth nor prediction has shown so far."""
        self.object_ids.append(object_id)
        self._rows.append([MaskScore(1.0, 1.0, False, False)] * len(self._frames))

    def add(
        self,
        frame: int | str,
        truth: np.ndarray,
        prediction: np.ndarray,
        size: tuple[int, int] | None = None,
    ) -> None:
        """Score the masks of one evaluated frame, bool [O, H, W] each. Raises DataError when they
        do not fit.

        size: of the whole frame, where the masks are what `crop_to_both` left of it.
        """
        if truth.shape != prediction.shape or len(truth) != len(self.object_ids):
            raise DataError(
                f"{self.name}, frame {frame}: the prediction has shape {prediction.shape}, "
                f"the truth {truth.shape}; expected {len(self.object_ids)} objects, same size"
            )
        size = size or (truth.shape[1], truth.shape[2])
        self._size = max(self._size, size)
        self._frames.append(frame)
        for row, true_mask, guess in zip(self._rows, truth, prediction, strict=True):
            row.append(score_masks(true_mask, guess, size))

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
        return VideoScore(self.name, tuple(scores), tuple(unscored), self._size)

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


def _by_frame(masks: FrameMasks | np.ndarray) -> FrameMasks:
    return dict(enumerate(masks)) if isinstance(masks, np.ndarray) else masks


def _recall(values: np.ndarray) -> float:
    return 100 * float(np.mean(values > GOOD_ENOUGH))


def _decay(values: np.ndarray) -> float:
    """The quarters share the frame at their seam, as DAVIS's do."""
    seams = np.round(np.linspace(1, len(values), 5) + 1e-10).astype(int) - 1
    first, last = values[: seams[1] + 1], values[seams[3] : seams[4] + 1]
    return 100 * float(np.mean(first) - np.mean(last))


def listing(items: Sequence[object], limit: int = 8) -> str:
    """The first few items and how many more there are."""
    shown = ", ".join(str(item) for item in items[:limit])
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit} more"

"""Videos with a simulated user: prompt objects, look at the masks, correct frames, look again.

Both ways are those of the SAM 2 paper (section 6.1). Offline, the whole video is followed, the user corrects the
frame where the object's IoU is lowest, and it is followed again. Online, the video is followed once, and the user
stops it to correct a frame where the IoU is below a limit. Clicks go, one after the other, to the centre of the
largest error. Objects are judged and corrected each for itself; frames are the annotated ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
import torch

from data.sources import Dataset
from model.prompts import ObjectChance, box_corners, correction_click
from model.video_masks import FrameMasks
from model.video_predictor import VideoPredictor
from model.video_session import VideoSession
from pipeline.errors import DataError
from pipeline.stop import check_stop
from pipeline.storage import write_table
from stages.evaluation.jf import Protocol, VideoScore, VideoScorer, VideoScores
from stages.evaluation.protocols import Found, Subject
from stages.evaluation.sharing import share_out
from stages.evaluation.video import first_sights
from stages.evaluation_settings import InteractiveMeasurement

SCORED = Protocol(late_objects="sav", skip_first_and_last=False)
"""Corrected frames are scored as well: a user has them."""
FEATURE_BYTES = 2 << 30
"""Memory for features of a video, which is gone through again and again."""
NOBODY = ObjectChance(0, 0, [0], torch.zeros(1, dtype=torch.int64))
"""Clicks at centres need no chance."""


@dataclass(frozen=True)
class Pass:
    """How one video looks after some interaction."""

    score: VideoScore
    interacted: Mapping[int, int]
    """Frames that were prompted or corrected so far, by object."""


def measure(wanted: InteractiveMeasurement, subject: Subject) -> Found | None:
    """J&F after 1, 2, … interacted frames, and its mean over them."""
    dataset = subject.dataset
    predictor = VideoPredictor(subject.model, feature_budget=FEATURE_BYTES)

    def play(index: int) -> list[Pass]:
        with predictor.session(Pictures(dataset, index)) as session:
            return interact(wanted, session, Truth(dataset, index))

    count = min(wanted.max_videos or len(dataset), len(dataset))
    videos = share_out(
        count,
        play,
        subject.world,
        label=f"interactive, {wanted.mode}",
        unit="video",
        progress=True,
        kept=subject.kept,
    )
    rounds = [
        VideoScores(tuple(video[n].score for video in videos if video), SCORED, dataset.digest)
        for n in range(wanted.frames)
    ]
    if not rounds[0].objects:
        raise DataError(f"{dataset.name}: no object in the {count} videos to interact with")
    if not subject.world.is_first:
        return None
    metrics = {f"jf@{n + 1}": scores.jf for n, scores in enumerate(rounds)}
    metrics["jf_mean"] = float(np.mean(list(metrics.values())))
    last = [n for video in videos if video for n in video[-1].interacted.values()]
    metrics["interacted_frames"] = float(np.mean(last))
    curve = subject.folder / "interactive.csv"
    _write(curve, videos)
    files = {"curve": str(curve)}
    return Found(metrics, _words(wanted), dataset.digest, rounds[-1].sizes, files)


def interact(wanted: InteractiveMeasurement, session: VideoSession, truth: Truth) -> list[Pass]:
    """The video after 1 to `wanted.frames` interacted frames; nothing for one without objects."""
    if not truth.first:
        return []
    if wanted.mode == "offline":
        return list(_offline(User(wanted, session, truth)))
    found: list[Pass] = []
    for budget in range(1, wanted.frames + 1):
        if found and max(found[-1].interacted.values()) < budget - 1:
            found.append(found[-1])  # nobody wanted to correct as many
        else:
            found.append(User(wanted, session, truth).follow(budget))
    return found


def _offline(user: User) -> Iterator[Pass]:
    found = user.follow()
    yield found
    for _ in range(1, user.wanted.frames):
        if user.correct_worst():  # else the video would look the same again
            found = user.follow()
        yield found


class User:
    """Someone who knows the truth. Beginning again, all objects are shown anew."""

    def __init__(self, wanted: InteractiveMeasurement, session: VideoSession, truth: Truth) -> None:
        self.wanted, self.session, self.truth = wanted, session, truth
        self.touched: list[set[int]] = [set() for _ in truth.first]
        self.ious: list[dict[int, float]] = [{} for _ in truth.first]
        session.reset()
        for row, (object_id, place) in enumerate(truth.first.items()):
            self._show(place, row, object_id)

    def follow(self, budget: int | None = None) -> Pass:
        """Go through the video once and score it.

        budget: with one, an object is corrected on the way, on so many frames at most.
        """
        scorer = VideoScorer(self.truth.name, list(self.truth.first), SCORED)
        for answer in self.session.propagate(min(self.truth.first.values())):
            check_stop()
            place = answer.frame
            real, found = self.truth.masks(place), _masks(answer)
            if budget is not None and self._look(place, real, found, budget):
                found = _masks(self.session.masks(place))
            for row, first in enumerate(self.truth.first.values()):
                if place >= first:
                    self.ious[row][place] = _iou(real[row], found[row])
            scorer.add(self.truth.numbers[place], real, found)
        counts = {o: len(self.touched[row]) for row, o in enumerate(self.truth.first)}
        return Pass(scorer.result(), counts)

    def correct_worst(self) -> bool:
        """Correct every object on the frame where it is worst, of those not yet interacted with;
        whether there was any to correct."""
        before = sum(map(len, self.touched))
        for row, object_id in enumerate(self.truth.first):
            touched = self.touched[row]
            left = {p: iou for p, iou in self.ious[row].items() if iou < 1 and p not in touched}
            if left:
                self.correct(min(left, key=lambda p: (left[p], p)), row, object_id)
        return sum(map(len, self.touched)) > before

    def _look(self, place: int, real: np.ndarray, found: np.ndarray, budget: int) -> bool:
        """Correct the objects that are bad on a frame; whether there were any."""
        bad = [
            (row, object_id)
            for row, (object_id, first) in enumerate(self.truth.first.items())
            if place > first
            and len(self.touched[row]) < budget
            and _iou(real[row], found[row]) < self.wanted.pause
        ]
        for row, object_id in bad:
            self.correct(place, row, object_id)
        return bool(bad)

    def correct(self, place: int, row: int, object_id: int) -> None:
        """Click on what is wrong, look, and click again."""
        self.touched[row].add(place)
        real = self.truth.masks(place)[row]
        for _ in range(self.wanted.clicks):
            found = _masks(self.session.masks(place))[row]
            if np.array_equal(real, found):
                return
            self._click(place, object_id, real, found)

    def _show(self, place: int, row: int, object_id: int) -> None:
        real = self.truth.masks(place)[row]
        self.touched[row].add(place)
        if self.wanted.start == "mask":
            self.session.add_mask(place, object_id, real)
        elif self.wanted.start == "box":
            corners = box_corners(torch.from_numpy(real[None]), NOBODY).points
            self.session.add_box(place, object_id, corners.flatten().numpy())
        else:
            found = None
            for _ in range(self.wanted.clicks):
                if found is not None and np.array_equal(real, found):
                    return
                answer = self._click(place, object_id, real, found)
                found = _masks(answer)[answer.ids.index(object_id)]

    def _click(
        self, place: int, object_id: int, real: np.ndarray, found: np.ndarray | None
    ) -> FrameMasks:
        guess = None if found is None else torch.from_numpy(found[None])
        click = correction_click(torch.from_numpy(real[None]), guess, NOBODY, "centre")
        return self.session.add_points(
            place, object_id, click.points[0].numpy(), click.labels[0].numpy()
        )


class Truth:
    """What the user knows of a video; places are positions among its annotated frames."""

    def __init__(self, dataset: Dataset, index: int) -> None:
        self.dataset, self.index, self.name = dataset, index, dataset.names[index]
        self.numbers = [int(number) for number in dataset.frame_numbers(index)]
        self.first = first_sights(dataset, index)
        """The first place of every object, objects in ascending order."""
        height, width = dataset.pictures(index, [0])[0].shape[:2]
        self.size = (height, width)

    def masks(self, place: int) -> np.ndarray:
        """bool [O, H, W] at the size of the video."""
        return self.dataset.masks(self.index, place, tuple(self.first), self.size)


class Pictures(Sequence[np.ndarray]):
    """The annotated frames of a video, read as they are asked for: uint8 [H, W, 3]."""

    def __init__(self, dataset: Dataset, index: int) -> None:
        self.dataset, self.number = dataset, index

    def __len__(self) -> int:
        return self.dataset.frame_count(self.number)

    @overload
    def __getitem__(self, place: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, place: slice) -> list[np.ndarray]: ...
    def __getitem__(self, place: int | slice) -> np.ndarray | list[np.ndarray]:
        places = range(len(self))[place]
        if isinstance(places, range):
            return self.dataset.pictures(self.number, list(places))
        return self.dataset.pictures(self.number, [places])[0]


def _masks(answer: FrameMasks) -> np.ndarray:
    """bool [O, H, W]."""
    return (answer.logits[:, 0] > 0).cpu().numpy()


def _iou(real: np.ndarray, found: np.ndarray) -> float:
    """1 where both are empty."""
    either = np.count_nonzero(real | found)
    return np.count_nonzero(real & found) / either if either else 1.0


def _words(wanted: InteractiveMeasurement) -> str:
    shown = f"{wanted.clicks} clicks" if wanted.start == "click" else f"its {wanted.start}"
    how = (
        "the frame with the lowest IoU is corrected and the video followed again"
        if wanted.mode == "offline"
        else f"followed once, a frame is corrected where IoU < {wanted.pause:g}"
    )
    return (
        f"{wanted.mode}: each object shown by {shown} on its first frame; {how}, "
        f"{wanted.clicks} clicks a frame at centres of errors, up to {wanted.frames} frames an object; {SCORED}"
    )


def _write(path: Path, videos: Sequence[Sequence[Pass]]) -> None:
    """A line for every object and number of interacted frames."""
    head = ["video", "object", "frames allowed", "frames interacted", "J", "F", "J&F"]
    rows = (
        [
            one.score.name,
            score.object_id,
            n + 1,
            one.interacted[int(score.object_id)],
            *(f"{value:.4f}" for value in (score.j, score.f, score.jf)),
        ]
        for video in videos
        for n, one in enumerate(video)
        for score in one.score.objects
    )
    write_table(path, head, rows)

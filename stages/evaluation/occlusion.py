"""What becomes of objects that go out of sight: are they found again, and does the network know that they are gone?

An absence is a run of annotated frames without the object between two that show it; a return is the run of frames
behind it that show the object, up to the next absence. Everything is counted on the annotated frames that J&F counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.sources import Dataset
from model.losses import AREAS
from pipeline.storage import write_table
from stages.evaluation.jf import ObjectScore, Protocol, VideoScores
from stages.evaluation.protocols import Found, Subject
from stages.evaluation.video import evaluate_videos, sam2_tracker
from stages.evaluation_settings import OcclusionMeasurement

ABSENCES = (("1-5", 5), ("6-20", 20), ("over 20", None))
"""Lengths of an absence in annotated frames, and the longest of each."""
SOON = 3
"""Frames of a return on which an object has to be found to count as found again."""


@dataclass(frozen=True)
class Return:
    """One object that is back."""

    video: str
    object_id: int
    frame: int
    """Number of the first frame that shows it again."""
    absence: int
    """Annotated frames it was away."""
    share: float
    """Of the picture that it covers on that frame."""
    jf: float
    """J&F over the frames of the return, in percent."""
    found: bool
    """J is above 0.5 on one of the first frames of the return."""


def measure(wanted: OcclusionMeasurement, subject: Subject) -> Found | None:
    """J&F and the share found again, over all returns, by length of absence and by size; presence over
    all objects."""
    scores = evaluate_videos(
        sam2_tracker(subject.model),
        subject.dataset,
        limit=wanted.max_videos,
        every_frame=wanted.every_frame,
        label="occlusion",
        world=subject.world,
        kept=subject.kept,
    )
    if not subject.world.is_first:
        return None
    returns = list(returns_of(scores, subject.dataset))
    place = subject.folder / "returns.csv"
    _write(place, returns)
    protocol = (
        f"{scores.given}; returns after absences, both in annotated frames; found again: J > 0.5 on "
        f"one of the first {SOON} frames; {Protocol()}"
    )
    metrics = {**presence(scores.objects), **_means(returns)}
    files = {"returns": str(place)}
    return Found(metrics, protocol, scores.split, scores.sizes, files)


def returns_of(scores: VideoScores, dataset: Dataset) -> Iterator[Return]:
    """Every return in `scores`; the truth of `dataset` is asked for sizes."""
    index_of = {name: index for index, name in enumerate(dataset.names)}
    for video in scores.videos:
        index = index_of[video.name]
        position_of = {int(n): p for p, n in enumerate(dataset.frame_numbers(index))}
        for score in video.objects:
            for away, first, end in absences(score.visible):
                frame, object_id = int(score.frames[first]), int(score.object_id)
                mask = dataset.masks(index, position_of[frame], [object_id], video.size)[0]
                region, contour = score.region[first:end], score.contour[first:end]
                yield Return(
                    video.name,
                    object_id,
                    frame,
                    away,
                    float(mask.mean()),
                    50 * float(region.mean() + contour.mean()),
                    bool((region[:SOON] > 0.5).any()),
                )


def absences(visible: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Of bool [n]: for every return the length of the absence before it, its first index and the one
    behind its last."""
    seen, away, start = False, 0, -1
    for index, here in enumerate([*visible.tolist(), False]):
        if here:
            if seen and away:
                start, length = index, away
            seen, away = True, 0
            continue
        if start >= 0:
            yield length, start, index
            start = -1
        away += 1


def presence(objects: Iterable[ObjectScore]) -> dict[str, float]:
    """In percent: frames on which truth and network agree whether an object is there, as the mean over
    objects; of the frames that show an object, those where it is missed; of the others, those where it
    is claimed (left out where there are none)."""
    scores = list(objects)
    visible = np.concatenate([score.visible for score in scores])
    claimed = np.concatenate([score.claimed for score in scores])
    found = {"presence": float(np.mean([score.presence for score in scores]))}
    if visible.any():
        found["missed"] = 100 * float(np.mean(~claimed[visible]))
    if not visible.all():
        found["false_presence"] = 100 * float(np.mean(claimed[~visible]))
    return found


def _means(returns: Sequence[Return]) -> dict[str, float]:
    """Over all returns and those of a kind; a kind that did not occur is left out."""
    found = {"returns": float(len(returns))}
    groups = {"": list(returns)}
    for one in returns:
        groups.setdefault(f"/away {_length(one.absence)}", []).append(one)
        groups.setdefault(f"/{_size(one.share)}", []).append(one)
    for name, group in groups.items():
        if group:
            found[f"jf_returned{name}"] = float(np.mean([one.jf for one in group]))
            found[f"found_again{name}"] = 100 * float(np.mean([one.found for one in group]))
    return found


def _length(absence: int) -> str:
    return next(name for name, most in ABSENCES if most is None or absence <= most)


def _size(share: float) -> str:
    """Small, medium or large, with the limits of the losses' curves."""
    return [name for name, least in AREAS.items() if share >= least][-1]


def _write(path: Path, returns: Iterable[Return]) -> None:
    head = ["video", "object", "frame", "frames away", "share", "J&F", "found again"]
    rows = (
        [
            one.video,
            one.object_id,
            one.frame,
            one.absence,
            f"{one.share:.6f}",
            f"{one.jf:.4f}",
            int(one.found),
        ]
        for one in returns
    )
    write_table(path, head, rows)

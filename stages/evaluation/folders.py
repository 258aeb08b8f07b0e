"""J&F of a folder of predicted masks against a folder of true ones.

Two layouts: `davis` holds `<video>/<frame>.png`, each pixel the number of its object (DAVIS, MOSE,
LVOS, YouTube-VOS); `sav` holds `<video>/<object>/<frame>.png`, one mask per object (SA-V). Only
frames the truth annotates are scored. Anything that does not fit raises DataError before a number
is returned, so half a prediction is never a score.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Literal

from pipeline.environment import free_cores
from pipeline.errors import DataError
from pipeline.progress import ProgressWriter
from pipeline.stop import check_stop
from pipeline.workers import call_each
from stages.evaluation.jf import Protocol, VideoScore, VideoScorer, VideoScores, listing
from stages.evaluation.mask_files import (
    mask_names,
    new_values,
    planes,
    read_binary,
    read_labels,
    require_same_size,
)
from stages.evaluation.masks import crop_to_both

Layout = Literal["davis", "sav"]
ANNOTATIONS = ("Annotations_6fps", "Annotations/480p", "Annotations/Full-Resolution", "Annotations")
"""Where data sets keep their masks below their root."""


@dataclass(frozen=True)
class Comparison:
    """Two folders that go together, and how they are compared; travels to other processes."""

    truth: Path
    prediction: Path
    videos: tuple[str, ...]
    layout: Layout
    protocol: Protocol

    def parts(self, count: int) -> list[Comparison]:
        """The videos shared out over at most so many comparisons."""
        shares = (self.videos[part::count] for part in range(count))
        return [replace(self, videos=share) for share in shares if share]


@dataclass(frozen=True)
class Share:
    """A part of the videos as a job of its own, on whatever machine it lands."""

    comparison: Comparison
    workers: int | None
    """Videos scored side by side; None: as many as the job has cores."""
    folder: str
    """The job's, where its progress is written."""


def score_folders(
    truth: str | Path,
    prediction: str | Path,
    *,
    layout: Layout | None = None,
    protocol: Protocol | None = None,
    names: Collection[str] = (),
    strict: bool = True,
    workers: int = 1,
    tell: Callable[[int], None] | None = None,
) -> VideoScores:
    """Score every video below `truth` with the masks of the same names below `prediction`.

    The parameters are those of `compare` and `score_videos`. Raises DataError naming the file for
    anything missing, unreadable, of another size, or when both folders are one.
    """
    comparison = compare(
        truth, prediction, layout=layout, protocol=protocol, names=names, strict=strict
    )
    return conclude(comparison, score_videos(comparison, workers, tell))


def compare(
    truth: str | Path,
    prediction: str | Path,
    *,
    layout: Layout | None = None,
    protocol: Protocol | None = None,
    names: Collection[str] = (),
    strict: bool = True,
) -> Comparison:
    """What is to be scored, after everything that would make it meaningless is refused.

    layout: found from the truth when not given. names: only these videos of the truth; all when
    empty. strict: refuse missing and additional videos; otherwise those both have are scored.
    """
    truth, prediction = Path(truth), Path(prediction)
    videos = _common_videos(truth, prediction, names, strict)
    layout = layout or _layout(truth, videos)
    return Comparison(truth, prediction, tuple(videos), layout, protocol or Protocol())


def score_videos(
    comparison: Comparison, workers: int = 1, tell: Callable[[int], None] | None = None
) -> list[VideoScore]:
    """The scores of its videos, in order.

    workers: processes, one video each. tell: called with the number of videos done. Raises
    DataError for the first file that does not fit.
    """
    found: dict[int, VideoScore] = {}
    score = partial(score_video_folder, comparison)
    with closing(call_each(score, ((name,) for name in comparison.videos), workers)) as answers:
        for number, answer in answers:
            found[number] = answer()
            if tell:
                tell(len(found))
    return [found[number] for number in range(len(comparison.videos))]


def score_share(share: Share) -> list[VideoScore]:
    """Score the videos of one share."""
    progress = ProgressWriter(share.folder, len(share.comparison.videos), unit="video")

    def tell(done: int) -> None:
        progress.update(done)
        check_stop()

    return score_videos(share.comparison, share.workers or free_cores(), tell)


def conclude(comparison: Comparison, videos: Sequence[VideoScore]) -> VideoScores:
    """The scores of a data set from those of its videos. Raises DataError when nothing could be
    scored."""
    ordered = tuple(sorted(videos, key=lambda video: video.name))
    scores = VideoScores(ordered, comparison.protocol, _digest(comparison))
    if not scores.objects:
        raise DataError(
            f"{comparison.truth}: no object is visible on a scored frame of its {len(videos)} "
            f"videos ({comparison.protocol}); score all frames, or check that this is the folder of "
            "true masks"
        )
    return scores


def score_video_folder(comparison: Comparison, video: str) -> VideoScore:
    """Score one video of two folders."""
    truth, prediction = comparison.truth / video, comparison.prediction / video
    if comparison.layout == "davis":
        return _score_label_maps(truth, prediction, comparison.protocol)
    names = sorted(path.name for path in truth.iterdir() if path.is_dir())
    parts = [_score_object(truth, prediction, name, comparison.protocol) for name in names]
    extra = {path.name for path in prediction.iterdir() if path.is_dir()} - set(names)
    return VideoScore(
        video,
        tuple(score for part in parts for score in part.objects),
        (*(name for part in parts for name in part.unscored), *sorted(extra)),
        max((part.size for part in parts), default=(0, 0)),
    )


def _score_label_maps(truth: Path, prediction: Path, protocol: Protocol) -> VideoScore:
    """A video of label maps. Objects join as they are first seen."""
    scorer = VideoScorer(truth.name, [], protocol)
    for name in protocol.evaluated(mask_names(truth)):
        labels, guess = read_labels(truth / name), read_labels(prediction / name)
        require_same_size(labels, guess, prediction / name)
        for each in (labels, guess):
            for object_id in new_values(each, scorer.object_ids):
                scorer.watch(object_id)
        cut, cut_guess = crop_to_both(labels, guess)
        ids = scorer.object_ids
        size = (labels.shape[0], labels.shape[1])
        scorer.add(Path(name).stem, planes(cut, ids), planes(cut_guess, ids), size)
    video = scorer.result()
    ordered = sorted(video.objects, key=lambda score: int(score.object_id))
    return replace(video, objects=tuple(ordered))


def _score_object(truth: Path, prediction: Path, object_id: str, protocol: Protocol) -> VideoScore:
    """One object's folder of masks."""
    scorer = VideoScorer(f"{truth.name}/{object_id}", [object_id], protocol)
    for name in protocol.evaluated(mask_names(truth / object_id)):
        mask = read_binary(truth / object_id / name)
        guess = read_binary(prediction / object_id / name)
        require_same_size(mask, guess, prediction / object_id / name)
        scorer.add(Path(name).stem, mask[None], guess[None])
    return scorer.result()


def _common_videos(
    truth: Path, prediction: Path, names: Collection[str], strict: bool
) -> list[str]:
    for folder, what in ((truth, "true"), (prediction, "predicted")):
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder of {what} masks")
    if os.path.samefile(truth, prediction):
        raise DataError(
            f"{prediction}: the predictions are the true masks themselves; every score would be 100"
        )
    below = next((place for place in ANNOTATIONS if (truth / place).is_dir()), None)
    if below:
        raise DataError(
            f"{truth} is a whole data set, expected the folder of its masks: {truth / below}"
        )
    known, given = _videos(truth), _videos(prediction)
    if unknown := sorted(set(names) - known):
        raise DataError(f"{truth}: no video {listing(unknown)}, which the split names")
    wanted = set(names) or known
    missing, extra = sorted(wanted - given), sorted(given - known)
    if strict and (missing or extra):
        parts = [f"no prediction for {listing(missing)}"] if missing else []
        parts += [f"predictions without truth: {listing(extra)}"] if extra else []
        raise DataError(
            f"{prediction}: {'; '.join(parts)}. "
            f"Complete the folder, name the videos (--split), or score what both have (--partial)"
        )
    common = sorted(wanted & given)
    if not common:
        raise DataError(
            f"{truth} and {prediction} have no video in common; "
            f"expected one folder per video in each"
        )
    for video in common:
        _require_apart(truth / video, prediction / video)
    return common


def _require_apart(truth: Path, prediction: Path) -> None:
    """Refuse a prediction that is the truth by way of a link, of the folder or of a file."""
    first = next(truth.rglob("*.png"), truth)
    other = prediction / first.relative_to(truth)
    if os.path.samefile(truth, prediction) or (other.exists() and os.path.samefile(first, other)):
        raise DataError(f"{prediction}: the predictions are the true masks themselves (a link)")


def _videos(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_dir()}


def _layout(truth: Path, videos: Sequence[str]) -> Layout:
    first = truth / videos[0]
    if any(path.is_dir() for path in first.iterdir()):
        return "sav"
    if any(path.suffix.lower() == ".png" for path in first.iterdir()):
        return "davis"
    raise DataError(
        f"{first}: neither PNG files nor a folder per object; expected the masks of one video"
    )


def _digest(comparison: Comparison) -> str:
    """Identity of what was scored: the names of all videos and mask files."""
    digest = sha256()
    for video in comparison.videos:
        files = (comparison.truth / video).rglob("*.png")
        names = sorted(str(path.relative_to(comparison.truth)) for path in files)
        digest.update("\n".join(names).encode())
    return digest.hexdigest()

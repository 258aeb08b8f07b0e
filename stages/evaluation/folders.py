"""J&F of a folder of predicted masks against a folder of true ones.

Two layouts: `davis` holds `<video>/<frame>.png`, each pixel the number of its object (DAVIS, MOSE,
LVOS, YouTube-VOS); `sav` holds `<video>/<object>/<frame>.png`, one mask per object (SA-V). Only
frames the truth annotates are scored. Anything that does not fit raises DataError before a number
is returned, so half a prediction is never a score.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from pipeline.errors import DataError
from stages.evaluation.jf import Protocol, VideoScore, VideoScorer, VideoScores, listing

Layout = Literal["davis", "sav"]


def score_folders(
    truth: str | Path,
    prediction: str | Path,
    *,
    layout: Layout | None = None,
    protocol: Protocol | None = None,
    strict: bool = True,
    workers: int = 1,
    progress: bool = False,
) -> VideoScores:
    """Score every video below `truth` with the masks of the same names below `prediction`.

    layout: found from the truth when not given. strict: refuse missing and additional videos;
    otherwise the videos both have are scored. workers: processes, one video each. Raises DataError
    naming the file for anything missing, unreadable, of another size, or when both folders are one.
    """
    truth, prediction = Path(truth), Path(prediction)
    protocol = protocol or Protocol()
    videos = _common_videos(truth, prediction, strict)
    layout = layout or _layout(truth, videos)
    score = partial(score_video_folder, truth, prediction, layout=layout, protocol=protocol)
    with _mapper(workers) as run:
        bar = tqdm(
            run(score, videos), total=len(videos), desc="J&F", unit="video", disable=not progress
        )
        scores = VideoScores(tuple(bar), protocol, _digest(truth, videos))
    if not scores.objects:
        raise DataError(
            f"{truth}: no object is visible on a scored frame of its {len(videos)} videos "
            f"({protocol}); score all frames, or check that this is the folder of true masks"
        )
    return scores


def score_video_folder(
    truth: Path, prediction: Path, video: str, *, layout: Layout, protocol: Protocol
) -> VideoScore:
    """Score one video of two folders of the given layout."""
    if layout == "davis":
        return _score_label_maps(truth / video, prediction / video, protocol)
    scores = [
        _score_object(truth / video, prediction / video, folder.name, protocol)
        for folder in sorted(path for path in (truth / video).iterdir() if path.is_dir())
    ]
    return VideoScore(
        video,
        tuple(score for part in scores for score in part.objects),
        tuple(object_id for part in scores for object_id in part.unscored),
    )


def results_csv(scores: VideoScores) -> str:
    """One line per object, in the columns of the reference evaluator's results.csv: percentages
    with one decimal."""
    rows = [("Global score", "", scores.jf, scores.j, scores.f)]
    rows += [
        (video.name, f"{o.object_id:03}", o.jf, o.j, o.f)
        for video in scores.videos
        for o in video.objects
    ]
    width = max(len(name) for name in ("Global score", *(video.name for video in scores.videos)))
    lines = [f"{'sequence':<{width}},obj,  J&F,    J,    F"]
    lines += [
        f"{name:<{width}},{label:>3}, {jf:>4.1f}, {j:>4.1f}, {f:>4.1f}"
        for name, label, jf, j, f in rows
    ]
    return "\n".join(lines) + "\n"


def _score_label_maps(truth: Path, prediction: Path, protocol: Protocol) -> VideoScore:
    """A video of label maps. Objects join as they are first seen; those only predicted have no
    score."""
    scorer = VideoScorer(truth.name, [], protocol)
    in_truth: set[int] = set()
    for name in protocol.evaluated(_frames(truth)):
        labels, guess = _read_labels(truth / name), _read_labels(prediction / name)
        _same_size(labels, guess, prediction / name)
        in_truth |= set(_values(labels))
        for object_id in sorted((in_truth | set(_values(guess))) - set(scorer.object_ids)):
            scorer.watch(object_id)
        ids = scorer.object_ids
        scorer.add(Path(name).stem, _planes(labels, ids), _planes(guess, ids))
    video = scorer.result()
    return VideoScore(
        video.name, tuple(sorted(video.objects, key=lambda score: int(score.object_id)))
    )


def _score_object(truth: Path, prediction: Path, object_id: str, protocol: Protocol) -> VideoScore:
    """One object's folder of masks."""
    scorer = VideoScorer(f"{truth.name}/{object_id}", [object_id], protocol)
    for name in protocol.evaluated(_frames(truth / object_id)):
        mask = _read_binary(truth / object_id / name)
        guess = _read_binary(prediction / object_id / name)
        _same_size(mask, guess, prediction / object_id / name)
        scorer.add(Path(name).stem, mask[None], guess[None])
    return scorer.result()


def _common_videos(truth: Path, prediction: Path, strict: bool) -> list[str]:
    """The videos to score, after everything that would make the comparison meaningless is
    refused."""
    for folder, what in ((truth, "true"), (prediction, "predicted")):
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder of {what} masks")
    if os.path.samefile(truth, prediction):
        raise DataError(
            f"{prediction}: the predictions are the true masks themselves; every score would be 100"
        )
    wanted, given = _videos(truth), _videos(prediction)
    missing, extra = sorted(wanted - given), sorted(given - wanted)
    if strict and (missing or extra):
        parts = [f"no prediction for {listing(missing)}"] if missing else []
        parts += [f"predictions without truth: {listing(extra)}"] if extra else []
        raise DataError(
            f"{prediction}: {'; '.join(parts)}. "
            f"Complete the folder, or score what both have (strict=false)"
        )
    common = sorted(wanted & given)
    if not common:
        raise DataError(
            f"{truth} and {prediction} have no video in common; "
            f"expected one folder per video in each"
        )
    for video in common:
        if os.path.samefile(truth / video, prediction / video):
            raise DataError(
                f"{prediction / video}: the predictions are the true masks themselves (a link)"
            )
    return common


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


def _frames(folder: Path) -> list[str]:
    names = sorted(path.name for path in folder.iterdir() if path.suffix.lower() == ".png")
    if not names:
        raise DataError(f"{folder}: no PNG in it; expected one mask per annotated frame")
    return names


def _read(path: Path) -> Image.Image:
    try:
        image = Image.open(path)
        image.load()
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: no such mask, though the truth has this frame; predict every annotated frame"
        ) from error
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise DataError(f"{path}: not a readable PNG ({error}); write it again") from error
    if image.mode not in ("P", "L", "1"):
        raise DataError(
            f"{path}: a colour picture (mode {image.mode}); expected one number per pixel, "
            f"a palette or grey PNG. Save the object numbers, not their colours"
        )
    return image


def _read_labels(path: Path) -> np.ndarray:
    """uint8 [H, W] of object numbers. A grey file of only 0 and 255 is a single mask, object 1."""
    image = _read(path)
    labels = np.asarray(image, np.uint8)
    if image.mode == "L" and _values(labels) == [255]:
        return (labels > 0).astype(np.uint8)
    return labels


def _read_binary(path: Path) -> np.ndarray:
    """bool [H, W]; any non-zero value is the object, but only one such value may occur."""
    labels = np.asarray(_read(path), np.uint8)
    values = _values(labels)
    if len(values) > 1:
        raise DataError(
            f"{path}: values {listing(values)} besides 0; expected the mask of a single object"
        )
    return labels > 0


def _values(labels: np.ndarray) -> list[int]:
    """The values of a uint8 picture other than 0, ascending; a histogram is much quicker than
    sorting."""
    counts = cv2.calcHist([labels], [0], None, [256], [0, 256]).ravel()
    return [int(value) for value in np.flatnonzero(counts) if value]


def _planes(labels: np.ndarray, ids: Sequence[int | str]) -> np.ndarray:
    """bool [O, H, W], one plane per object number."""
    planes = np.empty((len(ids), *labels.shape), bool)
    for plane, object_id in zip(planes, ids, strict=True):
        np.equal(labels, int(object_id), out=plane)
    return planes


def _same_size(truth: np.ndarray, guess: np.ndarray, path: Path) -> None:
    if truth.shape != guess.shape:
        raise DataError(
            f"{path}: {guess.shape[1]}x{guess.shape[0]} pixels, the truth has "
            f"{truth.shape[1]}x{truth.shape[0]}; write predictions at the size of the annotation"
        )


def _digest(truth: Path, videos: Sequence[str]) -> str:
    """Identity of what was scored: the names of all videos and mask files."""
    digest = sha256()
    for video in videos:
        names = sorted(str(path.relative_to(truth)) for path in (truth / video).rglob("*.png"))
        digest.update("\n".join(names).encode())
    return digest.hexdigest()


@contextmanager
def _mapper(workers: int) -> Iterator[Callable[..., Iterator[VideoScore]]]:
    """`map` in this process, or over processes that keep the order of their results."""
    if workers <= 1:
        yield map
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield pool.map

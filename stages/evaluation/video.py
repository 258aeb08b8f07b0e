"""Semi-supervised video segmentation: each object is shown once, where it first appears, and then
followed.

A tracker gets the frames one by one and never sees the truth beyond those first masks. Scores are
taken as the masks come, so that a video of any length needs the memory of a few frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from data.sources import Dataset
from model.sam2 import SAM2
from model.video_predictor import track_video
from pipeline.distributed import World
from pipeline.errors import DataError
from pipeline.stop import until_stopped
from stages.evaluation.jf import Protocol, VideoScore, VideoScorer, VideoScores
from stages.evaluation.kept import Kept
from stages.evaluation.sharing import share_out


@dataclass(frozen=True)
class Task:
    """One video and what is shown of its objects.

    frames: uint8 [H, W, 3] each, from the first shown object on; read once, as they are needed.
    shown: by position among those frames, the masks (bool [H, W]) of the objects that first appear
    there, by row.
    """

    name: str
    object_ids: tuple[int, ...]
    start: int
    """Number of the first frame."""
    frames: Iterator[np.ndarray]
    shown: Mapping[int, Mapping[int, np.ndarray]]


Tracker = Callable[[Task], Iterator[np.ndarray]]
"""For each frame of the task in order, the masks of all its objects: bool [O, H, W]."""


def sam2_tracker(model: SAM2) -> Tracker:
    """The network as a tracker: an object is where its logits are positive. It ends between two
    frames when it is asked to stop."""

    def track(task: Task) -> Iterator[np.ndarray]:
        for logits in until_stopped(track_video(model, task.frames, task.shown)):
            yield (logits > 0).cpu().numpy()

    return track


def repeat_first_masks(task: Task) -> Iterator[np.ndarray]:
    """The baseline that knows nothing of video: every mask stays where it was shown."""
    masks: np.ndarray | None = None
    for position, frame in enumerate(task.frames):
        if masks is None:
            masks = np.zeros((len(task.object_ids), *frame.shape[:2]), bool)
        for row, mask in task.shown.get(position, {}).items():
            masks[row] = mask
        yield masks.copy()


def evaluate_videos(
    tracker: Tracker,
    dataset: Dataset,
    *,
    protocol: Protocol | None = None,
    limit: int | None = None,
    every_frame: bool = True,
    progress: bool = True,
    label: str = "videos",
    world: World | None = None,
    kept: Kept | None = None,
) -> VideoScores:
    """J&F of `tracker` on the first `limit` videos of `dataset` (all by default).

    every_frame: track all frames, also those without annotation, as is done on SA-V; otherwise only
    the annotated ones. world: the ranks that share the videos; all have the answer. kept: where the
    scores of finished videos are. Raises DataError when no object can be scored.
    """
    protocol = protocol or Protocol()
    count = min(limit or len(dataset), len(dataset))
    videos = share_out(
        count,
        lambda index: evaluate_video(tracker, dataset, index, protocol, every_frame=every_frame),
        world,
        label=label,
        unit="video",
        progress=progress,
        kept=kept,
    )
    tracked = "all" if every_frame else "annotated"
    given = f"each object shown as a mask where it first appears, {tracked} frames tracked"
    scores = VideoScores(tuple(videos), protocol, dataset.digest, given)
    if not scores.objects:
        raise DataError(
            f"{dataset.name}: no object is visible on a scored frame of its {count} videos "
            f"({protocol}); check the annotations, or score all frames"
        )
    return scores


def evaluate_video(
    tracker: Tracker, dataset: Dataset, index: int, protocol: Protocol, *, every_frame: bool = True
) -> VideoScore:
    """Score one video of `dataset`; a video without objects has an empty score."""
    annotated = [int(number) for number in dataset.frame_numbers(index)]
    position_of = {number: position for position, number in enumerate(annotated)}
    scored = set(protocol.evaluated(annotated))
    numbers: list[int] = []
    task = video_task(dataset, index, numbers, every_frame=every_frame)
    scorer = VideoScorer(task.name, task.object_ids, protocol)
    if not task.object_ids:
        return scorer.result()
    nothing = np.zeros((len(task.object_ids), 1, 1), bool)
    for number in sorted(scored):
        if number < task.start:
            scorer.add(number, nothing, nothing)
    for place, masks in enumerate(tracker(task)):
        number = numbers[place]
        if number in scored:
            size = (masks.shape[1], masks.shape[2])
            truth = dataset.masks(index, position_of[number], task.object_ids, size)
            scorer.add(number, truth, masks)
    missing = sorted(number for number in scored if number >= task.start and number not in numbers)
    if missing:
        raise DataError(
            f"{dataset.name}/{task.name}: frame {missing[0]} is annotated, but the video has no "
            f"such frame; the annotations belong to another copy of it"
        )
    return scorer.result()


def video_masks(tracker: Tracker, dataset: Dataset, index: int) -> np.ndarray:
    """The tracker's masks on the annotated frames of one video: bool [T, O, H, W], to be drawn.

    They go with `dataset.load(index)`: frames before an object is first shown have empty masks.
    """
    numbers: list[int] = []
    task = video_task(dataset, index, numbers, every_frame=False)
    masks = list(tracker(task))
    before = dataset.frame_count(index) - len(masks)
    return np.concatenate([np.zeros((before, *masks[0].shape), bool), np.stack(masks)])


def video_task(dataset: Dataset, index: int, numbers: list[int], *, every_frame: bool) -> Task:
    """What a tracker is given of one video.

    numbers: receives the number of each frame when the tracker reads it.
    """
    annotated = [int(number) for number in dataset.frame_numbers(index)]
    first = first_sights(dataset, index)
    start = annotated[min(first.values(), default=0)]

    def frames() -> Iterator[np.ndarray]:
        for number, frame in _stream(dataset, index, every_frame):
            if number >= start:
                numbers.append(number)
                yield frame

    object_ids = tuple(first)
    shown: dict[int, dict[int, np.ndarray]] = {}
    places = places_of(dataset, index, [annotated[p] for p in first.values()], start, every_frame)
    for row, (object_id, position) in enumerate(first.items()):
        size = dataset.pictures(index, [position])[0].shape[:2]
        mask = dataset.masks(index, position, [object_id], (size[0], size[1]))[0]
        shown.setdefault(places[annotated[position]], {})[row] = mask
    return Task(dataset.names[index], object_ids, start, frames(), shown)


def first_sights(dataset: Dataset, index: int, *, late: bool = True) -> dict[int, int]:
    """The first annotated frame (position) that shows each object, by object number, ascending.

    late: also of objects that appear after the first annotated frame that shows any.
    """
    first: dict[int, int] = {}
    for position in range(dataset.frame_count(index)):
        for object_id in dataset.visible(index, position):
            first.setdefault(object_id, position)
        if first and not late:
            break
    return dict(sorted(first.items()))


def places_of(
    dataset: Dataset, index: int, wanted: list[int], start: int, every_frame: bool
) -> dict[int, int]:
    """Where the frames numbered `wanted` stand among those a tracker reads, which begin at `start`.

    Only objects that appear late make it necessary to go through the video for this.
    """
    if set(wanted) <= {start}:
        return {start: 0}
    numbers = (
        [number for number, _ in dataset.stream(index)]
        if every_frame
        else [int(number) for number in dataset.frame_numbers(index)]
    )
    return {number: place for place, number in enumerate(n for n in numbers if n >= start)}


def _stream(dataset: Dataset, index: int, every_frame: bool) -> Iterator[tuple[int, np.ndarray]]:
    if every_frame:
        yield from dataset.stream(index)
        return
    for position, number in enumerate(dataset.frame_numbers(index)):
        yield int(number), dataset.pictures(index, [position])[0]

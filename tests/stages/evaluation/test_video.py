"""Following objects through held-out videos."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image

from data.sources import open_dataset
from data.spec import DatasetSpec
from model.sam2 import build_sam2
from pipeline.errors import DataError
from stages.evaluation.jf import Protocol
from stages.evaluation.video import (
    Task,
    evaluate_videos,
    repeat_first_masks,
    sam2_tracker,
    video_masks,
)
from tests.stages.evaluation.conftest import write_labels

FRAMES, HEIGHT, WIDTH = 9, 32, 48
ALL_FRAMES = Protocol(skip_first_and_last=False)


def label_maps() -> np.ndarray:
    """Object 1 moves right; object 2 appears on frame 4 and stays."""
    maps = np.zeros((FRAMES, HEIGHT, WIDTH), np.uint8)
    for t in range(FRAMES):
        maps[t, 4:14, 2 * t : 2 * t + 12] = 1
    maps[4:, 20:30, 30:44] = 2
    return maps


@pytest.fixture
def world(tmp_path):
    """Two videos in the DAVIS form, numbered from 5; the second is annotated on every fourth
    frame."""
    rng = np.random.default_rng(0)
    for name in ("dense", "sparse"):
        write_labels(tmp_path / "Annotations" / name, label_maps())
        for t in sorted((tmp_path / "Annotations" / name).iterdir(), reverse=True):
            number = int(t.stem)
            t.rename(t.with_name(f"{number + 5:05d}.png"))
            if name == "sparse" and number % 4:
                t.with_name(f"{number + 5:05d}.png").unlink()
            (tmp_path / "JPEGImages" / name).mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))
            picture.save(tmp_path / "JPEGImages" / name / f"{number + 5:05d}.jpg")
    return open_dataset(DatasetSpec(format="davis", root=str(tmp_path)))


def all_knowing(task: Task) -> Iterator[np.ndarray]:
    """A tracker that is told the truth of `label_maps` but gets its frames like any other."""
    maps = label_maps()
    for t, _ in enumerate(task.frames):
        yield np.stack([maps[t] == object_id for object_id in task.object_ids])


def test_the_truth_scores_full_marks(world):
    scores = evaluate_videos(all_knowing, world, progress=False)
    assert scores.jf == 100.0
    assert [video.name for video in scores.videos] == ["dense", "sparse"]
    assert scores.videos[0].objects[0].frames == (6, 7, 8, 9, 10, 11, 12)
    assert scores.videos[0].objects[1].frames == (9, 10, 11, 12)
    assert scores.videos[1].objects[0].frames == (9,)
    assert scores.split == world.digest
    assert "all frames tracked" in scores.given


def test_first_mask_repeated_by_hand(world):
    """After t frames the object has moved 2t of its 12 columns; the late one stands still."""
    scores = evaluate_videos(
        repeat_first_masks, world, protocol=ALL_FRAMES, limit=1, progress=False
    )
    moving, standing = scores.videos[0].objects
    expected = [max(12 - 2 * t, 0) / min(12 + 2 * t, 24) for t in range(FRAMES)]
    assert moving.region.tolist() == pytest.approx(expected)
    assert standing.j == 100.0


def test_only_annotated_frames(world):
    read: list[int] = []

    def counting(task: Task) -> Iterator[np.ndarray]:
        for masks in repeat_first_masks(task):
            read.append(1)
            yield masks

    evaluate_videos(counting, world, every_frame=False, progress=False)
    assert len(read) == 9 + 3
    evaluate_videos(counting, world, progress=False)
    assert len(read) == 12 + 18


@pytest.mark.parametrize("every_frame", [True, False])
def test_a_tracker_sees_late_objects_where_they_appear(world, every_frame):
    seen = {}

    def looking(task: Task) -> Iterator[np.ndarray]:
        seen[task.name] = task.shown
        return repeat_first_masks(task)

    evaluate_videos(looking, world, every_frame=every_frame, progress=False)
    assert sorted(seen["dense"]) == [0, 4]
    assert sorted(seen["sparse"]) == ([0, 4] if every_frame else [0, 1])
    assert seen["dense"][0][0].sum() == 120
    assert seen["dense"][4][1].sum() == 140


def test_frames_before_the_first_object_are_not_read(tmp_path, world):
    for number in (5, 6):
        path = tmp_path / "Annotations" / "dense" / f"{number:05d}.png"
        labels = Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8), "P")
        labels.putpalette([0] * 768)
        labels.save(path)
    fresh = open_dataset(DatasetSpec(format="davis", root=str(tmp_path), names=("dense",)))
    starts = []

    def looking(task: Task) -> Iterator[np.ndarray]:
        starts.append(task.start)
        return repeat_first_masks(task)

    davis = Protocol("davis", skip_first_and_last=False)
    by_convention = [
        evaluate_videos(looking, fresh, protocol=protocol, progress=False)
        .videos[0]
        .objects[0]
        .frames
        for protocol in (ALL_FRAMES, davis)
    ]
    assert starts == [7, 7]
    assert by_convention == [tuple(range(7, 14)), tuple(range(5, 14))]
    masks = video_masks(repeat_first_masks, fresh, 0)
    assert masks.shape == (FRAMES, 2, HEIGHT, WIDTH)
    assert not masks[:2].any()


def test_the_network_follows(world):
    torch.manual_seed(0)
    tracker = sam2_tracker(build_sam2("micro"))
    scores = evaluate_videos(tracker, world, protocol=ALL_FRAMES, progress=False)
    for video in scores.videos:
        assert [score.region[0] for score in video.objects] == [1.0, 1.0]
    masks = video_masks(tracker, world, 0)
    assert masks.shape == (FRAMES, 2, HEIGHT, WIDTH)
    assert (masks[4, 1] == (label_maps()[4] == 2)).all()


def test_nothing_visible_is_an_error(world, tmp_path):
    for path in (tmp_path / "Annotations").rglob("*.png"):
        Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(path)
    fresh = open_dataset(DatasetSpec(format="davis", root=str(tmp_path)))
    with pytest.raises(DataError, match="davis: no object is visible on a scored frame of its 2"):
        evaluate_videos(repeat_first_masks, fresh, progress=False)

"""Video sessions: the reference's answers, objects alone as together, corrections, misuse."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from model import video_features
from model.sam2 import SAM2
from model.video_features import encode_frames
from model.video_masks import FrameMasks
from model.video_predictor import VideoPredictor
from model.video_session import VideoSession
from pipeline.errors import DataError
from tests.model.videos import VIDEO, box_shape, noise, stored_video

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {"lasting_corrections": False, "stability_fallback": False},
    "post": {"lasting_corrections": False, "binary_prompts": True},
    "nonoverlap": {
        "lasting_corrections": False,
        "stability_fallback": False,
        "exclusive": True,
    },
    "allcond": {"stability_fallback": False},
}


def check(key: str, found: Iterable[FrameMasks]) -> None:
    """Compare with one stored call, where it is stored."""
    answers = list(found)
    if f"{key}/frames" not in VIDEO.stored:
        return
    assert [answer.frame for answer in answers] == VIDEO.array(f"{key}/frames").tolist()
    assert answers[0].ids == VIDEO.array(f"{key}/obj_ids").tolist()
    logits = torch.stack([answer.logits for answer in answers])
    VIDEO.check(f"{key}/logits", logits.reshape(*VIDEO.stored[f"{key}/logits@shape"]), 5e-3)
    masks = VIDEO.array(f"{key}/masks")
    assert ((logits > 0).numpy().reshape(masks.shape) != masks).sum() <= 25


@pytest.mark.parametrize("option", OPTIONS)
def test_the_reference_interactively(micro_golden: SAM2, option: str) -> None:
    """Box, click, second object, propagate, correct, propagate both ways, remove."""
    session = VideoPredictor(micro_golden, **OPTIONS[option]).session(stored_video())
    across, down = np.array([160, 90])
    box = [0.25 * across, 0.2 * down, 0.6 * across, 0.85 * down]
    check(f"{option}/box_obj1", [session.add_box(0, 1, box)])
    click = session.add_points(0, 1, [[0.4 * across, 0.5 * down]], [1])
    check(f"{option}/box_click_obj1", [click])
    other = session.add_points(0, 2, [[0.7 * across, 0.5 * down]], [1])
    check(f"{option}/click_obj2", [other])
    check(f"{option}/propagate", session.propagate())
    if f"{option}/corr_f6/frames" not in VIDEO.stored:
        return
    points = [[0.2 * across, 0.2 * down], [0.45 * across, 0.5 * down]]
    check(f"{option}/corr_f6", [session.add_points(6, 1, points, [0, 1], replace=True)])
    check(f"{option}/propagate2_from3", session.propagate(3, 6))
    check(f"{option}/reverse_from6", session.propagate(6, backwards=True))
    assert [found.frame for found in session.remove_object(1)] == [0, 6]
    check(f"{option}/propagate_after_remove", session.propagate())


@pytest.mark.parametrize("option", ["vos_perobj", "vos_nonoverlap"])
def test_the_reference_from_masks(micro_golden: SAM2, option: str) -> None:
    exclusive = option == "vos_nonoverlap"
    session = VideoPredictor(micro_golden, exclusive=exclusive).session(stored_video())
    session.add_mask(0, 1, VIDEO.array("in:vos_mask1"))
    check(f"{option}/first", [session.add_mask(0, 2, VIDEO.array("in:vos_mask2"))])
    if not exclusive:
        check(f"{option}/propagate", session.propagate())
        return
    # Two objects are nearly equal there: rounding decides which of them a pixel goes to.
    masks = VIDEO.array(f"{option}/propagate/masks")
    found = torch.stack([answer.logits > 0 for answer in session.propagate()])
    assert (found.numpy().reshape(masks.shape) != masks).mean() <= 0.005


@pytest.mark.parametrize("threads", [1, 2])
def test_a_late_object_of_the_reference(micro_golden: SAM2, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        session = VideoPredictor(micro_golden).session(stored_video())
        session.add_mask(3, 7, VIDEO.array("in:vos_mask2"))
        check("vos_late/propagate", session.propagate())
    finally:
        torch.set_num_threads(before)


Steps = Callable[[VideoSession, set[int]], dict[int, dict[int, Tensor]]]


def scenario(session: VideoSession, objects: set[int]) -> dict[int, dict[int, Tensor]]:
    """Three objects, prompted, corrected and followed both ways, of which `objects` take part.

    Returns low-resolution logits by object and step.
    """
    seen: dict[int, dict[int, Tensor]] = {n: {} for n in objects}
    steps = iter(range(1000))

    def note(found: Iterable[FrameMasks]) -> None:
        for answer in found:
            step = next(steps)
            for row, object_id in enumerate(answer.ids):
                seen[object_id][step] = answer.low[row].clone()

    def prompt(object_id: int, act: Callable[[], FrameMasks]) -> None:
        if object_id in objects:
            act()

    prompt(4, lambda: session.add_mask(1, 4, box_shape(5, 5)))
    prompt(2, lambda: session.add_box(1, 2, [20, 8, 45, 30], [[30, 20]], [1]))
    note(session.propagate(1, 4))
    prompt(9, lambda: session.add_points(5, 9, [[40, 30], [10, 10]], [1, 0]))
    note(session.propagate(1))
    prompt(2, lambda: session.add_points(6, 2, [[25, 20]], [0]))
    note(session.propagate(4, 6))
    note(session.propagate(6, backwards=True))
    prompt(4, lambda: session.clear_prompts(1, 4))
    prompt(4, lambda: session.add_mask(3, 4, box_shape(12, 9)))
    note(session.propagate(2))
    return seen


def test_objects_get_the_answers_they_would_get_alone(network: SAM2) -> None:
    predictor = VideoPredictor(network)
    together = scenario(predictor.session(noise(11)), {2, 4, 9})
    for number in (2, 4):
        alone = scenario(predictor.session(noise(11)), {number})[number]
        assert together[number].keys() == alone.keys()
        for step, low in alone.items():
            torch.testing.assert_close(together[number][step], low, atol=5e-3, rtol=5e-3)


def test_the_order_in_which_objects_are_added_changes_no_bit(network: SAM2) -> None:
    runs = []
    for order in ([1, 2, 3], [3, 1, 2]):
        session = VideoPredictor(network).session(noise(6))
        for number in order:
            session.add_mask(number - 1, number, box_shape(5 * number, 4 * number))
        runs.append([found.logits for found in session.propagate()])
    assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))


def test_features_are_kept_as_far_as_they_may(
    network: SAM2, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two passes over 26 frames with a correction between them: with no room, some, and enough."""
    encoded: list[int] = []

    def spy(model: SAM2, frames: Sequence[Any]) -> Any:
        encoded.append(len(frames))
        return encode_frames(model, frames)

    monkeypatch.setattr(video_features, "encode_frames", spy)

    def play(budget: int) -> tuple[Tensor, int]:
        encoded.clear()
        with VideoPredictor(network, feature_budget=budget).session(noise(26)) as session:
            session.add_mask(0, 1, box_shape(5, 4))
            list(session.propagate())
            session.add_points(9, 1, [[8, 8]], [1])
            return torch.stack([found.low for found in session.propagate()]), sum(encoded)

    seen = encode_frames(network, noise(1))[0]
    frame = seen.s4.nbytes + seen.s8.nbytes + seen.s16.nbytes
    some = 13 * frame + 4 * seen.grid.nbytes  # the prompted frame, and three groups of four
    (forgotten, often), (partly, fewer), (kept, once) = map(play, (0, some, 1 << 30))
    assert torch.equal(forgotten, partly) and torch.equal(forgotten, kept)
    assert once == 26 + 2  # frames with prompts are encoded alone
    assert often - 12 == fewer > once


def test_objects_with_memories_of_one_shape_are_one_batch(
    network: SAM2, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = []
    recall = SAM2.recall

    def spy(model: SAM2, features: Any, memories: Any, *args: Any, **kwargs: Any) -> Tensor:
        batches.append(len(memories[0][0].features))
        return recall(model, features, memories, *args, **kwargs)

    monkeypatch.setattr(SAM2, "recall", spy)
    session = VideoPredictor(network, objects_at_once=2).session(noise(20))
    for number, frame in ((1, 0), (2, 0), (3, 1)):
        session.add_mask(frame, number, box_shape(5 * number, 4))
    list(session.propagate())
    # frame 0 and 1: prompts; while memories grow, the late object is alone
    assert batches[:3] == [2, 2, 1]
    assert batches[-2:] == [2, 1]  # three alike, two at a time
    batches.clear()
    session = VideoPredictor(network).session(noise(20))
    for number, frame in ((1, 0), (2, 0), (3, 1)):
        session.add_mask(frame, number, box_shape(5 * number, 4))
    list(session.propagate())
    assert batches[-1] == 3


def test_as_track(network: SAM2) -> None:
    frames = noise(7)
    shown = {0: {1: box_shape(5, 5)}, 3: {2: box_shape(30, 20)}}
    predictor = VideoPredictor(network)
    session = predictor.session(np.stack(frames))
    for frame, objects in shown.items():
        for number, mask in objects.items():
            session.add_mask(frame, number, mask)
    for tracked, (frame, ids, logits) in zip(
        predictor.track(frames, shown), session.propagate(), strict=True
    ):
        assert ids == [1, 2]
        for row, first in enumerate(shown):
            if frame != first:
                torch.testing.assert_close(logits[row, 0], tracked[row], atol=5e-3, rtol=5e-3)


def test_a_correction_lasts_unless_told_otherwise(network: SAM2) -> None:
    for lasting in (True, False):
        session = VideoPredictor(network, lasting_corrections=lasting).session(noise(8))
        session.add_mask(0, 1, box_shape(5, 5))
        first = {found.frame: found.low for found in session.propagate()}
        corrected = session.add_points(4, 1, [[50, 30], [10, 10]], [1, 0]).low
        assert not torch.equal(corrected, first[4])
        again = {found.frame: found.low for found in session.propagate()}
        assert torch.equal(again[4], corrected) == lasting
        assert torch.equal(again[4], first[4]) != lasting
        assert torch.equal(again[7], first[7]) != lasting


def test_a_correction_of_the_first_frame_counts(network: SAM2) -> None:
    session = VideoPredictor(network, lasting_corrections=False).session(noise(3))
    session.add_mask(0, 1, box_shape(5, 5))
    before = [found.low for found in session.propagate()]
    corrected = session.add_points(0, 1, [[50, 30], [10, 10]], [1, 0]).low
    after = [found.low for found in session.propagate()]
    assert torch.equal(after[0], corrected)
    assert not torch.equal(after[2], before[2])


def test_a_prompt_while_a_propagation_runs_counts_from_the_next_frame(network: SAM2) -> None:
    session = VideoPredictor(network).session(noise(6))
    session.add_mask(0, 1, box_shape(5, 5))
    untouched = [found.low for found in session.propagate()]
    seen = []
    for found in session.propagate():
        seen.append(found.low)
        if found.frame == 2:
            session.add_points(2, 1, [[50, 30], [10, 10]], [1, 0])
            session.add_mask(2, 8, box_shape(30, 20))
    assert [len(low) for low in seen] == [1, 1, 1, 2, 2, 2]
    assert torch.equal(seen[2], untouched[2])
    assert not torch.equal(seen[3][:1], untouched[3])


def test_before_its_first_prompt_an_object_is_absent_or_guessed(network: SAM2) -> None:
    """With nothing but a memory and no pointer, which breaks the reference in fp32 on a CPU."""
    for anticipate in (False, True):
        session = VideoPredictor(network, anticipate=anticipate).session(noise(4))
        session.add_mask(2, 1, box_shape(5, 5))
        low = [found.low for found in session.propagate(0)]
        assert (low[0] == -1024).all().item() is not anticipate
        assert low[3].isfinite().all()


def test_backwards_and_clearing(network: SAM2) -> None:
    session = VideoPredictor(network).session(noise(6))
    session.add_mask(4, 1, box_shape(5, 5))
    assert [found.frame for found in session.propagate(backwards=True)] == [4, 3, 2, 1, 0]
    assert [found.frame for found in session.propagate(4, 1, backwards=True)] == [4]
    assert list(session.propagate(2, 0)) == []
    session.add_points(1, 1, [[8, 8]], [1])
    kept = session.clear_prompts(1, 1)
    assert torch.equal(kept.low, session.masks(1).low)
    session.clear_prompts(4, 1)
    with pytest.raises(DataError, match="object 1 has no prompt left on any frame"):
        session.propagate()
    session.reset()
    assert session.ids == []


def test_old_answers_around_a_prompt_can_be_forgotten(network: SAM2) -> None:
    session = VideoPredictor(network, forget_around_prompts=True).session(noise(20))
    session.add_mask(0, 1, box_shape(5, 5))
    list(session.propagate())
    session.add_points(10, 1, [[50, 30]], [1])
    list(session.propagate(10, 1))
    assert set(session.masklets[1].tracked) == {1, 2, 18, 19}


def test_holes_are_filled_where_asked_for(micro_golden: SAM2) -> None:
    found = []
    for area in (0, 10**6):
        session = VideoPredictor(micro_golden, fill_hole_area=area).session(stored_video())
        found.append(session.add_points(0, 1, [[64, 45]], [1]).low)
    assert (found[0] <= 0).any()
    assert (found[1] > 0).all()


@pytest.mark.parametrize(
    ("act", "named"),
    [
        (lambda s: s.add_points(0, 1, [[70, 5]], [1]), r"frame 0, object 1: the prompt \(70, 5\)"),
        (lambda s: s.add_points(0, 1, [[float("nan"), 5]], [1]), "points: found a number that is"),
        (lambda s: s.add_points(0, 1, [[5, 5], [6, 6]], [1]), "expected points"),
        (lambda s: s.add_points(0, 1, [[5, 5]], [7]), r"labels: found \[7"),
        (lambda s: s.add_box(0, 1, [1, 1, 5, 5], [[5, 5]]), "points without labels"),
        (lambda s: s.add_box(0, 1, [30, 10, 20, 20]), "expected x0, y0, x1, y1"),
        (lambda s: s.add_points(3, 1, [[5, 5]], [1]), "frame 3 is not in the video, which has 3"),
        (lambda s: s.add_points(-1, 1, [[5, 5]], [1]), "frame -1 is not in the video"),
        (lambda s: s.add_mask(0, 1, np.ones((4, 4), bool)), r"a mask of size \(4, 4\) for a video"),
        (lambda s: s.clear_prompts(0, 5), r"there is no object 5; the objects are \[\]"),
        (lambda s: s.remove_object(5), "there is no object 5"),
        (lambda s: s.propagate(), "there is no object to follow"),
    ],
)
def test_misuse(network: SAM2, act: Callable[[VideoSession], Any], named: str) -> None:
    session = VideoPredictor(network).session(noise(3))
    with pytest.raises(DataError, match=named):
        act(session)
    assert session.ids == []


def test_misuse_of_propagate(network: SAM2) -> None:
    session = VideoPredictor(network).session(noise(3))
    session.add_mask(0, 1, box_shape(5, 5))
    with pytest.raises(DataError, match="frame 3 is not in the video"):
        session.propagate(3)
    with pytest.raises(DataError, match="frames=-1: expected how many"):
        session.propagate(0, -1)


def test_an_empty_mask_says_that_the_object_is_absent(network: SAM2) -> None:
    session = VideoPredictor(network).session(noise(3))
    shown = session.add_mask(0, 1, np.zeros((40, 60), bool))
    assert (shown.logits < 0).all()
    assert session.masklets[1].pending[0].score.item() == -10
    assert all(found.logits.isfinite().all() for found in session.propagate())


def test_a_video_of_one_frame(network: SAM2) -> None:
    session = VideoPredictor(network).session(noise(1))
    session.add_mask(0, 1, box_shape(5, 5))
    assert [found.frame for found in session.propagate()] == [0]
    assert session.add_points(0, 1, [[50, 30]], [0]).low.isfinite().all()


def test_a_broken_frame_is_named_and_what_came_before_it_stays(network: SAM2) -> None:
    class Broken(list[NDArray[np.uint8]]):
        def __getitem__(self, number: Any) -> Any:
            if number == 5:
                raise DataError("00005.jpg is not a whole picture")
            return super().__getitem__(number)

    session = VideoPredictor(network).session(Broken(noise(8)))
    session.add_mask(0, 1, box_shape(5, 5))
    seen = []
    with pytest.raises(DataError, match=r"00005\.jpg"):
        seen.extend(found.frame for found in session.propagate())
    assert seen == [0, 1, 2, 3]
    assert session.masks(3).low.max() > -1024

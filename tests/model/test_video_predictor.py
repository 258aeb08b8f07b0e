"""The video predictor: the reference's answers for shown masks, streams, and misuse."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model.sam2 import SAM2
from model.video_predictor import VideoPredictor, track_video
from model.video_store import Answer, Shelf
from pipeline.errors import DataError
from tests.model.videos import VIDEO, box_shape, noise, stored_video


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("vos_perobj", {0: {1: "in:vos_mask1", 2: "in:vos_mask2"}}),
        ("vos_late", {3: {7: "in:vos_mask2"}}),
    ],
)
def test_reference_masks_through_a_video(
    micro_golden: SAM2,
    name: str,
    shown: dict[int, dict[int, str]],
) -> None:
    masks = {t: {n: VIDEO.array(key) for n, key in some.items()} for t, some in shown.items()}
    first = min(shown)
    answers = torch.stack(list(track_video(micro_golden, stored_video(), masks)))[first:]
    stored = VIDEO.array(f"{name}/propagate/masks")
    # on the frame where it is shown, a mask comes back as it was given: the reference blurs it
    assert ((answers > 0).numpy() != stored)[1:].sum() <= 25
    sampled, step = (
        VIDEO.stored[f"{name}/propagate/logits"],
        VIDEO.stored[f"{name}/propagate/logits@step"],
    )
    later = np.arange(len(sampled)) * int(step) >= answers[0].numel()
    ours = answers.flatten()[:: int(step)].numpy()
    np.testing.assert_allclose(ours[later], sampled[later], atol=5e-3)


def test_objects_are_followed_alone_as_together(network: SAM2) -> None:
    frames = noise(9)
    together = list(
        track_video(network, frames, {0: {3: box_shape(5, 5)}, 2: {1: box_shape(30, 20)}})
    )
    first = list(track_video(network, frames, box_shape(5, 5)[None]))
    assert len(together) == 9
    for t, (both, one) in enumerate(zip(together, first, strict=True)):
        assert both.shape == (2, 40, 60)
        torch.testing.assert_close(both[1], one[0], atol=1e-4, rtol=1e-4)
        assert (both[0] == -1024).all() == (t < 2)
    assert torch.equal(together[2][0] > 0, torch.from_numpy(box_shape(30, 20)))


def test_batches_of_frames_do_not_matter_and_frames_stream(network: SAM2) -> None:
    frames = noise(6)
    whole = list(VideoPredictor(network, frames_at_once=6).track(frames, box_shape(5, 5)[None]))
    read: list[int] = []

    def stream() -> Iterator[NDArray[np.uint8]]:
        for t, frame in enumerate(frames):
            read.append(t)
            yield frame

    one_by_one = VideoPredictor(network, frames_at_once=1).track(
        stream(), box_shape(5, 5)[None], frame_count=6
    )
    for t, logits in enumerate(one_by_one):
        assert read == list(range(t + 1))
        torch.testing.assert_close(logits, whole[t], atol=1e-3, rtol=1e-3)


def test_answers_that_no_frame_reads_any_more_are_forgotten(
    network: SAM2, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = []
    put = Shelf.__setitem__

    def spy(shelf: Shelf, frame: int, answer: Answer) -> None:
        put(shelf, frame, answer)
        kept.append(len(shelf))

    monkeypatch.setattr(Shelf, "__setitem__", spy)
    list(track_video(network, noise(30), box_shape(5, 5)[None]))
    assert len(kept) == 30
    assert max(kept) <= 16


def test_exclusive_answers_do_not_overlap(network: SAM2) -> None:
    masks = np.stack([box_shape(5, 5), box_shape(10, 10)])
    for logits in VideoPredictor(network, exclusive=True).track(noise(4), masks):
        assert ((logits > 0).sum(0) <= 1).all()


@pytest.mark.parametrize(
    ("masks", "named"),
    [
        (
            {0: {1: box_shape(0, 0)}, 2: {1: box_shape(0, 0)}},
            "object 1 is shown on frame 0 and again",
        ),
        ({5: {1: box_shape(0, 0)}}, "masks are given for frame 5, but the video has 3 frames"),
        (np.ones((1, 4, 4), bool), r"a mask of size \(4, 4\) for a video of size \(40, 60\)"),
    ],
)
def test_misuse_of_the_video_predictor(network: SAM2, masks: Any, named: str) -> None:
    with pytest.raises(DataError, match=named):
        list(track_video(network, noise(3), masks))

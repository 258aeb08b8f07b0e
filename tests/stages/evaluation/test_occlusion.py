"""Objects that go out of sight and come back, worked out by hand."""

import numpy as np
import pytest

from stages.evaluation.jf import Protocol, VideoScores, score_video
from stages.evaluation.occlusion import Return, _means, absences, presence, returns_of

H, W = 40, 60


def test_an_absence_lies_between_two_sights() -> None:
    def of(text: str) -> list[tuple[int, int, int]]:
        return list(absences(np.array([letter == "x" for letter in text])))

    assert of("xx..xxx.x") == [(2, 4, 7), (1, 8, 9)]
    assert of("..xx..") == []
    assert of(".x....x") == [(4, 6, 7)]
    assert of("xxxx") == [] and of("....") == [] and of("") == []


class TheTruth:
    """A square that is away on frames 3 and 4."""

    names = ("video",)

    def frame_numbers(self, index: int) -> list[int]:
        return list(range(0, 32, 4))

    def masks(self, index: int, position: int, ids: list[int], size: tuple[int, int]) -> np.ndarray:
        assert size == (H, W) and ids == [7]
        return frame(position)


def frame(position: int, side: int = 20) -> np.ndarray:
    mask = np.zeros((1, H, W), bool)
    if position not in (3, 4):
        mask[0, 10 : 10 + side, 10 : 10 + side] = True
    return mask


@pytest.fixture
def scores() -> VideoScores:
    """Perfect, but: claimed on frame 3, missed on frame 5 and half as high on 6."""
    numbers = TheTruth().frame_numbers(0)
    truth = {number: frame(position) for position, number in enumerate(numbers)}
    found = {number: mask.copy() for number, mask in truth.items()}
    found[12] = frame(0)
    found[20][:] = False
    found[24][0, 20:] = False
    protocol = Protocol(skip_first_and_last=False)
    video = score_video(truth, found, name="video", object_ids=[7], protocol=protocol)
    return VideoScores((video,), protocol, "digest")


def test_a_return_has_its_absence_its_size_and_its_score(scores: VideoScores) -> None:
    (one,) = returns_of(scores, TheTruth())
    (score,) = scores.objects
    assert (one.video, one.object_id, one.frame, one.absence) == ("video", 7, 20, 2)
    assert one.share == pytest.approx(400 / (H * W))
    assert score.region[5:].tolist() == [0.0, 0.5, 1.0]
    assert one.jf == pytest.approx(50 * (0.5 + score.contour[5:].mean()))
    assert one.found  # on the third frame
    assert one.jf == pytest.approx(score.jf_returned)


def test_presence_counts_what_is_missed_and_what_is_claimed(scores: VideoScores) -> None:
    found = presence(scores.objects)
    assert found == pytest.approx(
        {"presence": 100 * 6 / 8, "missed": 100 * 1 / 6, "false_presence": 100 * 1 / 2}
    )


def test_returns_are_grouped_by_length_of_absence_and_by_size() -> None:
    def back(absence: int, side: float, jf: float) -> Return:
        return Return("v", 1, 0, absence, (side / 640) ** 2, jf, jf > 50)

    returns = [back(5, 31, 40.0), back(6, 33, 60.0), back(20, 95, 80.0), back(21, 97, 20.0)]
    assert _means(returns) == pytest.approx(
        {
            "returns": 4,
            "jf_returned": 50.0,
            "found_again": 50.0,
            "jf_returned/away 1-5": 40.0,
            "found_again/away 1-5": 0.0,
            "jf_returned/away 6-20": 70.0,
            "found_again/away 6-20": 100.0,
            "jf_returned/away over 20": 20.0,
            "found_again/away over 20": 0.0,
            "jf_returned/small": 40.0,
            "found_again/small": 0.0,
            "jf_returned/medium": 70.0,
            "found_again/medium": 100.0,
            "jf_returned/large": 20.0,
            "found_again/large": 0.0,
        }
    )
    assert _means([]) == {"returns": 0.0}

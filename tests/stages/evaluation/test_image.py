"""The click protocol, with a user and a network that can be followed by hand."""

import numpy as np
import pytest
import torch

from data.types import Clip
from model.image_predictor import MaskAnswer
from pipeline.errors import DataError
from stages.evaluation import image
from stages.evaluation.image import (
    ImageScores,
    evaluate_images,
    objects_at_once,
    score_objects,
)


class Scripted:
    """Answers a fixed sequence of masks and remembers what it was asked."""

    def __init__(self, answers: list[np.ndarray], ious: list[list[float]]) -> None:
        self.model = torch.nn.Linear(1, 1)
        self.model.device = torch.device("cpu")
        self.answers, self.ious = answers, ious
        self.asked: list[tuple[list, list, object, bool]] = []

    def set_image(self, frame: np.ndarray) -> None:
        self.size = frame.shape[:2]

    def predict(self, points, labels, boxes=None, mask_input=None, multimask=True) -> MaskAnswer:
        turn = len(self.asked)
        self.asked.append((points[0].tolist(), labels[0].tolist(), mask_input, multimask))
        masks = torch.from_numpy(self.answers[turn])[None]
        low = torch.full((1, len(self.answers[turn]), 2, 2), float(turn))
        return MaskAnswer(masks, torch.tensor([self.ious[turn]]), low)


def square(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros((20, 30), bool)
    for y, x, height, width in boxes:
        mask[y : y + height, x : x + width] = True
    return mask


def test_rounds_click_on_the_largest_error_and_feed_the_answer_back():
    truth = square((2, 2, 9, 9))
    half = square((2, 2, 9, 3))
    spilled = square((2, 2, 9, 9), (12, 20, 7, 7))
    network = Scripted(
        [np.stack([spilled, half, truth]), spilled[None], truth[None]],
        [[0.2, 0.9, 0.3], [0.5], [0.5]],
    )
    ious = score_objects(network, truth[None], 3)
    assert ious[0].tolist() == [27 / 81, 81 / 130, 1.0]
    (first, *_), (second, labels, low, several), (third, all_labels, *_) = network.asked
    assert first == [[6.0, 6.0]]
    assert second[1] == [7.0, 4.0]
    assert labels == [1, 1]
    assert float(low.mean()) == 0.0
    assert not several
    assert third[2] == [23.0, 15.0]
    assert all_labels == [1, 1, 0]
    assert network.asked[0][3]


class Pictures:
    """A data set of two pictures, the second with an empty object."""

    name, digest, kind = "pictures", "d1gest", "image"

    def __init__(self, masks: list[np.ndarray]) -> None:
        self.items = masks
        self.names = tuple(f"p{index}" for index in range(len(masks)))

    def __len__(self) -> int:
        return len(self.items)

    def load(self, index, frames=None, objects=None) -> Clip:
        masks = self.items[index]
        picture = np.random.default_rng(index).integers(0, 256, (*masks.shape[1:], 3), np.uint8)
        ids = tuple(range(len(masks)))
        return Clip(self.names[index], self.name, picture[None], masks[None], ids, (0,))


def test_objects_of_all_pictures_count_alike(predictor, monkeypatch):
    first = np.stack([square((2, 2, 5, 5)), square((4, 9, 9, 9)), square((1, 20, 4, 4))])
    second = np.stack([square((5, 5, 8, 8)), square()])
    pictures = Pictures([first, second])
    scores = evaluate_images(predictor, pictures, progress=False)
    assert scores.pictures == ("p0", "p0", "p0", "p1")
    assert scores.ious.shape == (4, 3)
    assert ((scores.ious >= 0) & (scores.ious <= 1)).all()
    assert scores.split == "d1gest"
    assert scores.miou(3) == scores.ious[:, 2].mean()
    assert evaluate_images(predictor, pictures, limit=1, progress=False).pictures == ("p0",) * 3
    monkeypatch.setattr(image, "OBJECTS_AT_ONCE", 2)
    in_parts = evaluate_images(predictor, pictures, progress=False)
    np.testing.assert_allclose(in_parts.ious, scores.ious, atol=0.02)


def test_nothing_to_score_is_an_error(predictor):
    with pytest.raises(DataError, match="pictures: no object in the 1 pictures"):
        evaluate_images(predictor, Pictures([square()[None]]), progress=False)


def test_large_pictures_are_decoded_in_small_batches():
    assert objects_at_once(4000 * 4000) == 2
    assert objects_at_once(4000 * 4000, candidates=1) == 8
    assert objects_at_once(480 * 640) == 64 and objects_at_once(10**9) == 1


def test_a_mask_that_is_right_stays_right():
    """It covers the corner where the click falls that has nothing to correct."""
    truth = square((0, 0, 9, 9))
    network = Scripted([truth[None], square((5, 5, 3, 3))[None], square()[None]], [[0.9]] * 3)
    assert score_objects(network, truth[None], 3)[0].tolist() == [1.0, 1.0, 1.0]


def test_scores_are_means_over_objects():
    scores = ImageScores(("a", "b"), np.array([[0.2, 0.4], [0.6, 1.0]]))
    assert scores.miou(1) == pytest.approx(0.4)
    assert scores.miou(2) == pytest.approx(0.7)

"""How many clicks a good mask takes, counted by hand."""

import numpy as np
import pytest
import torch

from pipeline.config import parse
from pipeline.errors import ConfigError
from stages.evaluation.clicks import clicks_to
from stages.evaluation.image import score_objects
from stages.evaluation_settings import ClicksMeasurement
from tests.stages.evaluation.test_image import Scripted, square

IOUS = np.array([[0.5, 0.86, 0.91], [0.9, 0.8, 0.7], [0.1, 0.2, 0.3]])


def test_clicks_until_the_goal_and_all_of_them_where_it_is_not_reached() -> None:
    needed, reached = clicks_to(IOUS, 0.85)
    assert needed.tolist() == [2, 1, 3] and reached.tolist() == [True, True, False]
    needed, reached = clicks_to(IOUS, 0.9)
    assert needed.tolist() == [3, 1, 3] and reached.tolist() == [True, True, False]


def test_a_box_that_suffices_takes_no_click() -> None:
    needed, reached = clicks_to(IOUS, 0.85, boxed=1)
    assert needed.tolist() == [1, 0, 2] and reached.tolist() == [True, True, False]


def test_a_box_comes_before_the_clicks_and_stays() -> None:
    class Boxed(Scripted):
        def predict(self, points, labels, boxes=None, mask_input=None, multimask=True):
            empty = torch.zeros(1, 0, 2), torch.zeros(1, 0)
            points, labels = empty if points is None else (points, labels)
            self.boxes.append(boxes.tolist())
            return super().predict(points, labels, boxes, mask_input, multimask)

    truth = square((2, 2, 9, 9))
    network = Boxed([square((2, 2, 9, 3))[None], truth[None]], [[0.5], [0.9]])
    network.boxes = []
    ious = score_objects(network, truth[None], 1, start="box")
    assert ious[0].tolist() == [27 / 81, 1.0]
    assert network.boxes == [[[2.0, 2.0, 10.0, 10.0]]] * 2
    (first, _, low, several), (second, *_) = network.asked
    assert first == [] and low is None and not several
    assert second == [[7.0, 4.0]]


@pytest.mark.parametrize(
    ("field", "value"), [("clicks", 0), ("goals", [85, 120]), ("start", "mask")]
)
def test_settings_out_of_range_are_named(field: str, value: object) -> None:
    values = {"kind": "clicks", "dataset": "pictures", field: value}
    with pytest.raises(ConfigError, match=field):
        parse(ClicksMeasurement, values, where="evaluation.more.clicks")

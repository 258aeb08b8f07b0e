"""Evaluation stops at the first item it cannot read: a score of fewer is another score."""

import pytest

from data.sources import open_dataset
from data.spec import KINDS
from pipeline.errors import DataError
from stages.evaluation.image import evaluate_images
from stages.evaluation.jf import Protocol
from stages.evaluation.video import evaluate_videos, repeat_first_masks
from tests.data.breakage import ITEMS
from tests.data.test_broken_data_table import broken_set

KIND = {name: KINDS[case.format.split()[0]] for name, case in ITEMS.items()}


@pytest.mark.parametrize("name", [name for name, kind in KIND.items() if kind == "image"])
def test_pictures(tmp_path, predictor, name):
    dataset = open_dataset(broken_set(ITEMS[name], tmp_path / "set"))
    with pytest.raises(DataError) as error:
        evaluate_images(predictor, dataset, clicks=1, progress=False)
    assert ITEMS[name].found in str(error.value)


@pytest.mark.parametrize("name", [name for name, kind in KIND.items() if kind == "video"])
def test_videos(tmp_path, name):
    """The baseline reads what a network reads."""
    dataset = open_dataset(broken_set(ITEMS[name], tmp_path / "set"))
    protocol = Protocol(skip_first_and_last=False)
    with pytest.raises(DataError):
        evaluate_videos(repeat_first_masks, dataset, protocol=protocol, progress=False)

"""What `predict` refuses, and in which words."""

import numpy as np
import pytest

from data.labels import label_png
from pipeline.errors import CheckpointError, ConfigError, DataError
from stages.prediction.spec import Prompt
from tests.stages.prediction.scene import POINT, H, W, save


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "nothing says what to look for"),
        ({"prompts": (Prompt(points=((61, 5),)),)}, "60 wide and 40 high"),
        ({"prompts": (Prompt(box=(70, 0, 90, 20)),)}, "the box 70,0,90,20 is outside"),
        (
            {"prompts": (Prompt(object=256, points=((5, 5),)),)},
            "object 256 has no place in a palette",
        ),
        ({"prompts": (Prompt(frame=3, points=((5, 5),)),)}, "is a picture; --frame 3"),
        ({"prompts": POINT, "backwards": True}, "is about videos"),
        ({"prompts": POINT, "names": ("x",)}, "is no data set"),
        ({"prompts": (Prompt(box=(0, 0, 9, 9)), Prompt(box=(9, 9, 20, 20)))}, "two boxes"),
        ({"prompts": POINT, "device": "abacus"}, "device abacus: found no such kind"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_misuse_on_a_picture(settings, told, call, picture):
    try:
        failures = call(picture, **settings).failures
    except ConfigError as error:
        failures = (str(error),)
    assert len(failures) == 1 and told in failures[0] and "\n" not in failures[0]


def test_masks_that_do_not_fit(call, picture, tmp_path):
    empty = save(tmp_path / "empty.png", np.zeros((H, W), np.uint8))
    small = save(tmp_path / "small.png", np.full((9, 9), 255, np.uint8))
    both = np.zeros((H, W), np.uint8)
    both[:9], both[20:] = 1, 2
    several = save(tmp_path / "several.png", label_png(both))
    told = {
        Prompt(mask=str(empty)): "is empty",
        Prompt(mask=str(small)): "is 9x9 pixels",
        Prompt(mask=str(several), object=5): "holds the objects 1, 2",
        Prompt(mask=str(tmp_path / "none.png")): "none.png",
    }
    for prompt, words in told.items():
        assert words in call(picture, prompts=(prompt,)).failures[0]
    assert call(picture, prompts=(Prompt(mask=str(several)),)).finished == 1


def test_sources_that_are_none(call, tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        call(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no pictures"):
        call(tmp_path / "empty", prompts=POINT)


def test_weights_of_another_size(call, picture):
    with pytest.raises(CheckpointError, match="large"):
        call(picture, prompts=POINT, preset="large")

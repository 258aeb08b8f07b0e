"""Answers by themselves: overlaps, owners of pixels, drawings."""

import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stages.prediction.answer import Answer, answer_of, merged
from stages.prediction.overlay import DARK, INSIDE, draw
from stages.prediction.prompts import Asked
from stages.prediction.writers import PaletteMasks

GOLDEN = Path(__file__).parents[2] / "golden" / "n_datasets.npz"


def test_overlaps_go_to_the_lower_number_as_in_the_reference(tmp_path):
    """The stored merge is of objects 1, 4 and 2; the file it was written to had DAVIS's palette."""
    with np.load(GOLDEN) as stored:
        size = stored["vos/in@shape"]
        masks = np.unpackbits(stored["vos/in@bits"])[: size.prod()].reshape(size).astype(bool)
        expected = stored["vos/put_per_obj_mask"]
    by_number = masks[[0, 2, 1]]
    picture = np.zeros((*expected.shape, 3), np.uint8)
    rows = merged(by_number, expected.shape)
    assert masks.sum(0).max() > 1, "there is an overlap"
    PaletteMasks(tmp_path, "v", film=True).add(Answer("0", picture, (1, 2, 4), by_number, rows))
    written = Image.open(tmp_path / "masks/v/0.png")
    assert np.array_equal(np.asarray(written), expected)
    assert zlib.crc32(bytes(written.getpalette())) == 3699290587


def test_pixels_of_two_objects_go_to_the_surer_one():
    logits = torch.tensor([[[2.0, 1.0, -1.0]], [[1.0, 2.0, -2.0]]])
    answer = answer_of("0", np.zeros((1, 3, 3), np.uint8), (3, 8), logits, 0.0)
    assert answer.rows.tolist() == [[1, 2, 0]]
    assert np.array(answer.masks).tolist() == [[[True, True, False]], [[True, True, False]]]


def test_the_drawing_shows_objects_prompts_and_nothing_else():
    grey = np.full((200, 300, 3), 100, np.uint8)
    mask = np.zeros((200, 300), bool)
    mask[50:150, 100:200] = True
    asked = {5: Asked(np.array([[20.0, 20.0]], np.float32), np.array([1]))}
    answer = Answer("0", grey, (5,), [mask], merged([mask], mask.shape), asked)
    drawn = draw(answer)
    assert drawn.shape == (360, 540, 3) and (grey == 100).all()
    assert drawn[180, 270, 0] > drawn[180, 270, 1] + 40, "tinted in the first colour"
    assert (drawn[324, 504] < 100).all(), "the rest is darker"
    assert tuple(drawn[36, 36]) == INSIDE
    assert np.array_equal(drawn, draw(answer, film=True))


@pytest.mark.parametrize(
    ("size", "picture", "film"),
    [
        ((40, 60), (360, 540), (360, 540)),
        ((401, 603), (401, 603), (400, 604)),
        ((2000, 3000), (2000, 3000), (1080, 1620)),
        ((20, 1080), (20, 1080), (20, 1080)),
        ((1, 2000), (1, 2000), (2, 2000)),
    ],
)
def test_drawings_have_a_size_to_look_at(size, picture, film):
    pixels = np.zeros((*size, 3), np.uint8)
    answer = Answer("0", pixels, (), [], merged([], size))
    assert draw(answer).shape == (*picture, 3)
    assert draw(answer, film=True).shape == (*film, 3)


def test_numbers_stand_above_all_outlines():
    """The number of a small object reaches over the thin one around it, which is drawn later."""
    inner, ring = np.zeros((2, 400, 400), bool)
    inner[190:210, 190:210] = True
    ring[187:213, 187:213] = True
    ring &= ~inner
    picture = np.full((400, 400, 3), 100, np.uint8)
    one, both = (
        draw(Answer("0", picture, (1, 2), masks, merged(masks, inner.shape)))
        for masks in ([inner, np.zeros_like(ring)], [inner, ring])
    )
    dark = (one == np.array(DARK, np.uint8)).all(-1)
    assert dark.sum() > 50
    assert np.array_equal(one[dark], both[dark])

"""Holes and islands: OpenCV against torch against scikit-image, and what cleaning promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage import measure

from model import mask_cleanup
from model.mask_cleanup import clean, drop_small_regions, fill_holes, piece_areas

SIDES = st.integers(1, 12)
MASKS = st.tuples(st.integers(0, 3), SIDES, SIDES).flatmap(lambda shape: arrays(bool, shape))
AREAS = st.integers(0, 20)


def expected_areas(mask: np.ndarray) -> np.ndarray:
    labels = measure.label(mask, connectivity=2)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return sizes[labels]


@settings(deadline=None, max_examples=200)
@given(MASKS)
def test_pieces_are_counted_alike_by_opencv_torch_and_skimage(masks: np.ndarray) -> None:
    given = torch.from_numpy(masks)
    by_torch = mask_cleanup._areas_by_torch(given)
    assert by_torch.dtype == torch.int32
    assert torch.equal(piece_areas(given), by_torch)
    for mask, areas in zip(masks, by_torch.numpy(), strict=True):
        np.testing.assert_array_equal(areas, expected_areas(mask))


def spiral(side: int) -> np.ndarray:
    """A line one pixel wide that winds to the middle: the longest piece there is."""
    mask = np.zeros((side, side), bool)
    y, x, dy, dx = 0, 0, 0, 1
    for step in range(side, 0, -2):
        for _ in range(2):
            for _ in range(step - 1):
                mask[y, x] = True
                y, x = y + dy, x + dx
            dy, dx = dx, -dy
    return mask


def test_a_long_line_is_one_piece_after_few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = []
    look = mask_cleanup._highest_around
    monkeypatch.setattr(
        mask_cleanup, "_highest_around", lambda values: rounds.append(1) or look(values)
    )
    mask = torch.from_numpy(spiral(127))
    areas = mask_cleanup._areas_by_torch(mask[None])[0]
    assert (areas[mask] == mask.sum()).all()
    assert mask.sum() > 5000
    assert len(rounds) < 25


@settings(deadline=None, max_examples=100)
@given(MASKS, AREAS, AREAS, st.sampled_from([-1.0, 0.0, 2.5]))
def test_cleaned_masks_have_no_small_pieces_left(
    masks: np.ndarray, hole: int, island: int, threshold: float
) -> None:
    logits = torch.where(torch.from_numpy(masks), threshold + 3.0, threshold - 3.0)
    options = {"max_hole_area": hole, "max_sprinkle_area": island, "threshold": threshold}
    cleaned = clean(logits, **options)
    assert torch.equal(clean(cleaned, **options), cleaned)
    shape = cleaned > threshold
    if not shape.flatten(1).any() or hole == 0:
        return
    whole = shape.shape[-2] * shape.shape[-1]
    holes = piece_areas(~shape)
    assert not ((holes > 0) & (holes <= hole) & (holes < whole)).any()


def test_holes_and_islands_up_to_an_area_are_replaced() -> None:
    logits = torch.full((1, 2, 9, 9), -1.0)
    logits[0, 0, 2:7, 2:7] = 1.0
    logits[0, 0, 3, 3] = logits[0, 0, 4, 4] = -0.5  # one hole of two pixels, over the corner
    logits[0, 0, 0, 0] = 4.0
    assert torch.equal(clean(logits, max_hole_area=1), logits)
    filled = clean(logits, max_hole_area=2, max_sprinkle_area=1)
    expected = logits.clone()
    expected[0, 0, 3, 3] = expected[0, 0, 4, 4] = 10.0
    expected[0, 0, 0, 0] = -10.0
    assert torch.equal(filled, expected)
    by_video_rule = fill_holes(logits, 2)
    assert by_video_rule[0, 0, 3, 3] == pytest.approx(0.1)
    assert by_video_rule[0, 0, 0, 0] == 4.0
    assert fill_holes(logits, 0) is logits


def test_an_island_in_a_filled_hole_leaves_no_new_hole() -> None:
    """Looked for in the original mask, the island would be cut out of the filled hole."""
    logits = torch.full((7, 7), 1.0)
    logits[2:5, 2:5] = -1.0
    logits[3, 3] = 1.0
    assert (clean(logits, max_hole_area=8, max_sprinkle_area=8) > 0).all()


def test_small_regions_go_but_no_mask_vanishes() -> None:
    masks = torch.zeros(4, 10, 10, dtype=torch.bool)
    masks[0, :5, :5] = True
    masks[1] = masks[0]
    masks[1, 2, 2] = False
    masks[1, 9, 9] = True
    masks[2, 0, 0] = masks[2, 5, 5:7] = masks[2, 8, 1:3] = True
    kept, changed = drop_small_regions(masks, 4)
    assert changed.tolist() == [False, True, True, False]
    assert torch.equal(kept[0], masks[0])
    assert torch.equal(kept[1], masks[0])
    assert kept[2].nonzero().tolist() == [[5, 5], [5, 6]]
    assert not kept[3].any()
    exactly = torch.zeros(1, 6, 6, dtype=torch.bool)
    exactly[0, 1:3, 1:3] = True
    assert not drop_small_regions(exactly, 4)[1].any()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_same_on_a_gpu() -> None:
    masks = torch.rand(8, 64, 80, generator=torch.Generator().manual_seed(0)) > 0.55
    assert torch.equal(piece_areas(masks.cuda()).cpu(), piece_areas(masks))

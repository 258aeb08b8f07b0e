"""Automatic mask generation: grids, crops and suppression by hand, whole runs against asking each
point alone, and settings that make no sense."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from model import mask_generator
from model.image_predictor import ImagePredictor
from model.mask_cleanup import piece_areas
from model.mask_decoder import stability
from model.mask_generator import GeneratedMask, MaskGenerator, stability_scores
from model.mask_generator_geometry import crops, is_cut_off, mask_boxes, point_grid, suppress
from model.sam2 import SAM2
from pipeline.errors import ConfigError
from tests.golden.reader import Golden

IMAGE = Golden("micro_k_image_predictor.npz").array("in:image")
HEIGHT, WIDTH = IMAGE.shape[:2]
LENIENT: dict[str, Any] = {
    "points_per_side": 6,
    "predicted_iou": 0.4,
    "stability": 0.6,
    "stability_offset": 0.1,
    "mask_threshold": 3.0,
    "box_nms": 0.9,
}
"""The golden network was never trained; these keep about a dozen of its masks."""


def box_iou(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return shared / (sum(areas) - shared)


def summary(found: list[GeneratedMask]) -> list[tuple[Any, ...]]:
    return [(m.rle["counts"], m.box, m.area, m.point, m.crop_box) for m in found]


# ---- where to look


def test_points_are_the_centres_of_equal_cells() -> None:
    assert point_grid(2).tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    assert point_grid(1).tolist() == [[0.5, 0.5]]


def test_crops_overlap_and_cover_the_picture() -> None:
    assert crops((100, 150), 0, 0.34) == [((0, 0, 150, 100), 0)]
    first = crops((100, 150), 1, 512 / 1500)
    assert first == [
        ((0, 0, 150, 100), 0),
        ((0, 0, 92, 67), 1),
        ((0, 33, 92, 100), 1),
        ((58, 0, 150, 67), 1),
        ((58, 33, 150, 100), 1),
    ]
    both = crops((100, 150), 2, 512 / 1500)
    assert both[:5] == first
    assert len(both) == 1 + 4 + 16
    covered = np.zeros((100, 150), bool)
    for (x0, y0, x1, y1), _ in both[5:]:
        assert 0 <= x0 < x1 <= 150
        assert 0 <= y0 < y1 <= 100
        covered[y0:y1, x0:x1] = True
    assert covered.all()


def test_a_picture_of_one_pixel_has_no_empty_crops() -> None:
    assert {box for box, _ in crops((1, 1), 2, 512 / 1500)} == {(0, 0, 1, 1)}


def test_boxes_include_their_corners() -> None:
    masks = np.zeros((3, 8, 9), bool)
    masks[0, 2:5, 3:9] = True
    masks[2, 7, 0] = True
    assert mask_boxes(masks).tolist() == [[3, 2, 8, 4], [0, 0, 0, 0], [0, 7, 0, 7]]


def test_masks_that_end_at_an_inner_edge_are_cut_off() -> None:
    crop, size = (100, 0, 300, 200), (200, 400)
    boxes = np.array(
        [[150, 50, 200, 100], [110, 50, 200, 100], [150, 5, 200, 195], [150, 50, 281, 99]]
    )
    assert is_cut_off(boxes, crop, size).tolist() == [False, True, False, True]


def test_suppression_equals_opencv() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        corner = random.integers(0, 40, (60, 2))
        boxes = np.concatenate([corner, corner + random.integers(1, 60, (60, 2))], 1)
        scores = random.permutation(60) / 60 + 0.01
        sides = np.concatenate([corner, boxes[:, 2:] - corner], 1)
        theirs = cv2.dnn.NMSBoxes(sides.tolist(), scores.tolist(), 0.0, 0.5)
        assert suppress(boxes, scores, 0.5).tolist() == list(theirs)


def test_suppression_keeps_ties_lines_and_nothing() -> None:
    line, other = [0, 0, 0, 9], [5, 5, 5, 9]
    square = [0, 0, 9, 9]
    boxes = np.array([line, square, other, square])
    assert suppress(boxes, np.zeros(4), 0.7).tolist() == [0, 1, 2]
    assert suppress(np.zeros((0, 4)), np.zeros(0), 0.7).tolist() == []


# ---- whole runs


def one_by_one(model: SAM2) -> list[tuple[float, float, tuple[float, ...], np.ndarray]]:
    """What LENIENT should find, one point at a time, with all masks at full size."""
    predictor = ImagePredictor(model)
    predictor.set_image(IMAGE)
    found = []
    for x, y in point_grid(6) * [WIDTH, HEIGHT]:
        logits, ious, _ = predictor.logits([[[x, y]]], [[1]])
        for mask, iou in zip(logits[0], ious[0], strict=True):
            score = float((mask > 3.1).sum() / (mask > 2.9).sum())
            if iou > 0.4 and score >= 0.6 and (mask > 3).any():
                found.append((float(iou), score, (x, y), (mask > 3).numpy()))
    boxes = mask_boxes(np.stack([each[-1] for each in found]))
    return [found[row] for row in suppress(boxes, np.array([each[0] for each in found]), 0.9)]


def test_stability_scores_are_those_of_the_decoder() -> None:
    logits = torch.randn(5, 30, 40, generator=torch.Generator().manual_seed(0))
    logits[3], logits[4] = -9, 9
    expected = stability(logits[:, None], 0.5, 0.25).flatten()
    found = stability_scores(logits, 0.5, 0.25)
    assert torch.equal(found, expected)
    assert found[3] == found[4] == 1
    assert 0.4 < found[0] < 0.9


def test_a_run_equals_asking_each_point_alone(micro_golden: SAM2) -> None:
    found, expected = (
        MaskGenerator(micro_golden, **LENIENT).generate(IMAGE),
        one_by_one(micro_golden),
    )
    assert len(found) == len(expected) > 3
    for ours, (iou, score, point, mask) in zip(found, expected, strict=True):
        assert ours.predicted_iou == pytest.approx(iou, abs=1e-5)
        assert ours.stability_score == pytest.approx(score, abs=1e-2)
        assert ours.point == pytest.approx(point)
        assert (ours.mask() != mask).sum() <= 3


def test_masks_areas_and_boxes_belong_together(micro_golden: SAM2) -> None:
    found = MaskGenerator(micro_golden, **LENIENT).generate(IMAGE)
    for each in found:
        mask = each.mask()
        assert mask.shape == (HEIGHT, WIDTH)
        assert mask.sum() == each.area
        assert tuple(mask_boxes(mask[None])[0]) == each.box
        assert each.predicted_iou > 0.4
        assert each.stability_score >= 0.6
        assert each.crop_box == (0, 0, WIDTH, HEIGHT)
    assert [m.predicted_iou for m in found] == sorted(
        (m.predicted_iou for m in found), reverse=True
    )
    assert all(box_iou(a.box, b.box) <= 0.9 for a, b in combinations(found, 2))
    fewer = MaskGenerator(micro_golden, **{**LENIENT, "box_nms": 0.3}).generate(IMAGE)
    assert 0 < len(fewer) < len(found)


def test_the_size_of_batches_does_not_matter(
    micro_golden: SAM2, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = MaskGenerator(micro_golden, **LENIENT).generate(IMAGE)
    enlarged = []
    enlarge = ImagePredictor.enlarge

    def spy(predictor: ImagePredictor, low: torch.Tensor, image: int = 0) -> torch.Tensor:
        enlarged.append(len(low))
        return enlarge(predictor, low, image)

    monkeypatch.setattr(ImagePredictor, "enlarge", spy)
    monkeypatch.setattr(mask_generator, "PIXELS_AT_ONCE", 2 * HEIGHT * WIDTH + 1)
    calls: list[tuple[int, int]] = []
    small = MaskGenerator(micro_golden, points_per_batch=5, **LENIENT).generate(
        IMAGE, lambda done, total: calls.append((done, total))
    )
    assert max(enlarged) == 2, "no more masks are enlarged at a time than memory is set aside for"
    assert calls == [(done, 36) for done in [5, 10, 15, 20, 25, 30, 35, 36]]
    assert summary(small) == summary(whole)


def test_crops_find_more_and_smaller_masks_win(micro_golden: SAM2) -> None:
    calls: list[tuple[int, int]] = []
    generator = MaskGenerator(micro_golden, crop_layers=1, crop_nms=0.9, **LENIENT)
    found = generator.generate(IMAGE, lambda *done: calls.append(done))
    assert calls[-1] == (5 * 36, 5 * 36)
    crop_boxes = {m.crop_box for m in found}
    assert len(crop_boxes) > 1
    assert crop_boxes <= {box for box, _ in crops((HEIGHT, WIDTH), 1, 512 / 1500)}
    for each in found:
        x0, y0, x1, y1 = each.crop_box
        assert x0 <= each.box[0] <= each.box[2] < x1
        assert y0 <= each.box[1] <= each.box[3] < y1
        assert x0 < each.point[0] < x1
        assert y0 < each.point[1] < y1
        assert not is_cut_off(np.array([each.box]), each.crop_box, (HEIGHT, WIDTH)).any()
        assert each.mask().shape == (HEIGHT, WIDTH)
    assert all(box_iou(a.box, b.box) <= 0.9 for a, b in combinations(found, 2))
    areas = [(m.crop_box[2] - m.crop_box[0]) * (m.crop_box[3] - m.crop_box[1]) for m in found]
    assert areas == sorted(areas), "masks of smaller crops come first"


def test_small_holes_and_islands_are_removed(micro_golden: SAM2) -> None:
    found = MaskGenerator(micro_golden, min_area=60, **LENIENT).generate(IMAGE)
    assert found
    for each in found:
        mask = torch.from_numpy(each.mask())
        assert each.area == mask.sum()
        assert tuple(mask_boxes(mask[None].numpy())[0]) == each.box
        holes, islands = piece_areas(~mask), piece_areas(mask)
        assert not ((holes > 0) & (holes < 60)).any()
        assert len(islands[mask].unique()) == 1 or islands[mask].min() >= 60
    plain = MaskGenerator(micro_golden, **LENIENT).generate(IMAGE)
    assert any(
        ((areas := piece_areas(torch.from_numpy(~m.mask()))) > 0).logical_and(areas < 60).any()
        for m in plain
    )


def test_low_resolution_answers_can_be_cleaned_first(micro_golden: SAM2) -> None:
    cleaned = {"max_hole_area": 9, "max_sprinkle_area": 9}
    found = MaskGenerator(micro_golden, **LENIENT, **cleaned).generate(IMAGE)
    assert found
    assert summary(found) != summary(MaskGenerator(micro_golden, **LENIENT).generate(IMAGE))
    predictor = ImagePredictor(micro_golden, mask_threshold=3.0, **cleaned)
    predictor.set_image(IMAGE)
    masks = predictor.predict([[found[0].point]], [[1]]).masks[0].numpy()
    assert min((mask != found[0].mask()).sum() for mask in masks) <= 3


def test_answers_can_be_asked_to_improve_themselves(micro_golden: SAM2) -> None:
    refined = MaskGenerator(micro_golden, use_m2m=True, **LENIENT).generate(IMAGE)
    assert refined
    best = refined[0]
    predictor = ImagePredictor(micro_golden, mask_threshold=3.0)
    predictor.set_image(IMAGE)
    first = predictor.predict([[best.point]], [[1]])
    again = [
        predictor.predict([[best.point]], [[1]], mask_input=first.low[:, [m]], multimask=False)
        for m in range(3)
    ]
    nearest = min(again, key=lambda answer: abs(float(answer.ious) - best.predicted_iou))
    assert float(nearest.ious) == pytest.approx(best.predicted_iou, abs=1e-5)
    assert (nearest.masks[0, 0].numpy() != best.mask()).sum() <= 3


def test_one_mask_a_point_and_points_of_ones_own(micro_golden: SAM2) -> None:
    own = np.array([[0.2, 0.3], [0.7, 0.6]])
    found = MaskGenerator(
        micro_golden, point_grids=[own], multimask=False, predicted_iou=0, stability=0, box_nms=1
    ).generate(IMAGE)
    expected = {(WIDTH * x, HEIGHT * y) for x, y in own}
    assert {m.point for m in found} == expected
    assert len(found) == 2


def test_nothing_may_be_found(micro_golden: SAM2) -> None:
    strict = {"points_per_side": 2, "crop_layers": 1, "min_area": 5, "use_m2m": True}
    assert MaskGenerator(micro_golden, predicted_iou=1, **strict).generate(IMAGE) == []


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"points_per_side": 0}, "points_per_side is 0; expected at least 1"),
        ({"points_per_batch": 0}, "points_per_batch is 0"),
        ({"crop_layers": -1}, "crop_layers is -1"),
        ({"predicted_iou": 80}, "predicted_iou is 80; expected 0 to 1"),
        ({"crop_overlap": 1.5}, "crop_overlap is 1.5"),
        ({"points_per_side": 3, "crop_layers": 2, "crop_points_downscale": 2}, "leaves no points"),
        ({"point_grids": [np.zeros((4, 2))], "crop_layers": 1}, r"expected 2 of \[P, 2\]"),
        ({"point_grids": [np.zeros((4, 3))]}, r"shapes \[\(4, 3\)\]"),
        ({"point_grids": [np.array([[5.0, 5.0]])]}, "outside 0..1"),
    ],
)
def test_settings_that_make_no_sense(
    micro_golden: SAM2, settings: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        MaskGenerator(micro_golden, **settings)

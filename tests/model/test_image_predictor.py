"""The image predictor: the reference's answers, batches against singles, any picture, misuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from model.config import preset
from model.image_pixels import rgb_pixels, squeeze
from model.image_predictor import ImagePredictor
from model.sam2 import SAM2, build_sam2
from pipeline.errors import DataError
from tests.golden.reader import Golden

PICTURE = Golden("micro_k_image_predictor.npz")
CASES = list(PICTURE.meta["prompts"])
IMAGE = PICTURE.array("in:image")
SECOND = np.ascontiguousarray(IMAGE[:-6, ::-1])
"""The other picture of the stored batch: mirrored, six rows lower."""


@pytest.fixture(params=["", "dyn/"])
def prefix(request: pytest.FixtureRequest) -> str:
    """Stored without and with the fallback to a more stable mask."""
    return str(request.param)


@pytest.fixture
def predictor(micro_golden: SAM2, prefix: str) -> ImagePredictor:
    return ImagePredictor(micro_golden, stability_fallback=bool(prefix))


def prompt(name: str) -> dict[str, Any]:
    """The stored prompt of one case, for N objects."""
    stored = PICTURE.meta["prompts"][name]
    given: dict[str, Any] = {"multimask": stored["multimask_output"]}
    if "point_coords" in stored:
        points = np.array([stored["point_coords"]], np.float32)
        is_relative = not stored.get("normalize_coords", True)
        given["points"] = points * IMAGE.shape[1::-1] if is_relative else points
        given["labels"] = np.array([stored["point_labels"]])
    if "box" in stored:
        given["boxes"] = np.array(stored["box"], np.float32).reshape(-1, 4)
    return given


def check(predictor: ImagePredictor, key: str, given: dict[str, Any]) -> None:
    """Compare one answer with the stored one."""
    full, ious, low = predictor.logits(**given)
    one = slice(None) if len(ious) > 1 else 0
    PICTURE.check(f"{key}/ious", ious[one], 1e-4)
    PICTURE.check(f"{key}/low_res", low[one], 1e-4)
    if f"{key}/logits@shape" in PICTURE.stored:
        PICTURE.check(f"{key}/logits", full[one], 1e-4)
        return
    found = full > 0
    assert PICTURE.distance(f"{key}/masks", found[one]) <= 3
    areas = PICTURE.array(f"{key}/areas")
    assert np.abs(found.sum((-2, -1)).flatten().numpy() - areas).max() <= 3


@pytest.mark.parametrize("case", CASES)
def test_reference_answers(predictor: ImagePredictor, prefix: str, case: str) -> None:
    predictor.set_image(IMAGE)
    check(predictor, f"{prefix}{case}", prompt(case))


def test_reference_input_and_features(predictor: ImagePredictor, prefix: str) -> None:
    square = squeeze(rgb_pixels(IMAGE), 128, torch.device("cpu"))
    PICTURE.check(f"{prefix}transformed_image", predictor.model.normalise(square), 1e-5)
    predictor.set_image(IMAGE)
    seen = predictor.seen()
    PICTURE.check(f"{prefix}image_embed", seen.embedding, 5e-5)
    PICTURE.check(f"{prefix}hr0", seen.features.s4, 5e-5)
    PICTURE.check(f"{prefix}hr1", seen.features.s8, 5e-5)


def test_reference_refinement_of_an_earlier_answer(predictor: ImagePredictor, prefix: str) -> None:
    predictor.set_image(IMAGE)
    first = predictor.predict(**prompt("point"))
    again = {**prompt("point"), "multimask": False, "mask_input": first.low[:, :1]}
    check(predictor, f"{prefix}mask_input", again)
    assert first.best().masks.shape == (1, 1, 128, 192)


def test_reference_answers_in_a_batch(predictor: ImagePredictor, prefix: str) -> None:
    predictor.set_images([IMAGE, SECOND])
    assert len(predictor) == 2
    for image in range(2):
        check(predictor, f"{prefix}batch{image}", {**prompt("point"), "image": image})


def test_pictures_in_a_batch_are_answered_as_alone(network: SAM2) -> None:
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 255, (h, w, 3), np.uint8) for h, w in [(40, 50), (97, 31)]]
    together, alone = ImagePredictor(network), ImagePredictor(network)
    together.set_images(pictures)
    boxes = np.array([[3, 4, 20, 30], [0, 0, 31, 40]])
    for image, picture in enumerate(pictures):
        alone.set_image(picture)
        batched, single = together.predict(boxes=boxes, image=image), alone.predict(boxes=boxes)
        assert batched.masks.shape == (2, 3, *picture.shape[:2])
        torch.testing.assert_close(batched.low, single.low, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(batched.ious, single.ious, atol=1e-4, rtol=1e-4)


def test_many_objects_at_once_are_answered_one_by_one(network: SAM2) -> None:
    predictor = ImagePredictor(network)
    predictor.set_image(np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8))
    points = np.array([[[10, 10]], [[30, 20]], [[45, 35]]], np.float32)
    labels = np.ones((3, 1), np.int64)
    together = predictor.predict(points, labels)
    for row in range(3):
        alone = predictor.predict(points[row, None], labels[row, None])
        torch.testing.assert_close(together.low[row], alone.low[0], atol=1e-4, rtol=1e-4)


def test_no_objects_are_answered_with_no_masks(network: SAM2) -> None:
    predictor = ImagePredictor(network)
    predictor.set_image(np.zeros((40, 50, 3), np.uint8))
    answer = predictor.predict(boxes=np.zeros((0, 4)))
    assert answer.masks.shape == (0, 3, 40, 50)
    assert answer.best().ious.shape == (0, 1)


@pytest.mark.parametrize("side", [64, 160])
@pytest.mark.parametrize("size", [(1, 1), (7, 300), (260, 33)])
def test_any_size_of_picture_and_model(side: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    predictor = ImagePredictor(build_sam2(preset("micro", image_size=side)))
    predictor.set_image(np.full((*size, 3), 90, np.uint8))
    answer = predictor.predict([[[0, 0]]], [[1]])
    assert answer.masks.shape == (1, 3, *size)
    assert answer.low.shape == (1, 3, side // 4, side // 4)
    assert answer.low.isfinite().all()


def test_holes_and_islands_are_cleaned_before_the_masks_grow(micro_golden: SAM2) -> None:
    plain = ImagePredictor(micro_golden)
    clean = ImagePredictor(micro_golden, max_hole_area=8, max_sprinkle_area=8)
    plain.set_image(IMAGE)
    clean.set_image(IMAGE)
    before, after = plain.predict(**prompt("point")), clean.predict(**prompt("point"))
    assert torch.equal(before.low, after.low), "what is fed back is the network's own answer"
    assert not torch.equal(before.masks, after.masks)


def test_a_higher_threshold_gives_smaller_masks(micro_golden: SAM2) -> None:
    wide, tight = ImagePredictor(micro_golden), ImagePredictor(micro_golden, mask_threshold=1.0)
    wide.set_image(IMAGE)
    tight.set_image(IMAGE)
    inner, outer = tight.predict(**prompt("box")).masks, wide.predict(**prompt("box")).masks
    assert 0 < inner.sum() < outer.sum()
    assert not (inner & ~outer).any()


# ---- pictures as people have them

RANDOM = np.random.default_rng(3).integers(0, 256, (5, 7, 4), np.uint8)
RGB, GREY = RANDOM[..., :3], RANDOM[..., 0]


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (RGB, RGB),
        (torch.from_numpy(RGB.copy()), RGB),
        (RGB[:, ::-1], RGB[:, ::-1]),
        (Image.fromarray(RGB), RGB),
        (Image.fromarray(RANDOM), RGB),
        (RANDOM, RGB),
        (GREY, np.stack([GREY] * 3, -1)),
        (GREY[..., None], np.stack([GREY] * 3, -1)),
        (Image.fromarray(GREY), np.stack([GREY] * 3, -1)),
        (RGB.astype(np.uint16) * 257, RGB),
        (Image.fromarray(GREY.astype(np.uint16) * 257), np.stack([GREY] * 3, -1)),
        (Image.fromarray(GREY.astype(np.int32) * 257), np.stack([GREY] * 3, -1)),
    ],
)
def test_pictures_of_many_kinds_become_rgb(picture: Any, expected: np.ndarray) -> None:
    pixels = rgb_pixels(picture)
    assert pixels.dtype == torch.uint8
    np.testing.assert_array_equal(pixels.numpy(), expected)


def test_an_orientation_tag_is_left_alone(tmp_path: Any) -> None:
    tagged = Image.fromarray(RGB)
    exif = tagged.getexif()
    exif[0x0112] = 6
    tagged.save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as picture:
        assert picture.getexif()[0x0112] == 6
        np.testing.assert_array_equal(rgb_pixels(picture).numpy(), RGB)


@pytest.mark.parametrize(
    ("picture", "named"),
    [
        (np.zeros((4, 4, 3), np.float32), r"float32 \(4, 4, 3\); expected uint8 .* Scale it"),
        (np.zeros((4, 4, 3), bool), r"bool \(4, 4, 3\)"),
        (np.zeros((4, 4, 3), np.int64), r"int64 .* Convert it to uint8"),
        (np.zeros((3, 40, 50), np.uint8), r"\(3, 40, 50\).* permute\(1, 2, 0\)"),
        (np.zeros((2, 40, 50, 3), np.uint8), r"as a list to set_images"),
        (np.zeros((0, 5, 3), np.uint8), r"no pixels, shape \(0, 5, 3\)"),
        (Image.fromarray(np.full((2, 2), 70000, np.int32)), r"int32 \(2, 2\)"),
    ],
)
def test_other_pictures_are_refused(network: SAM2, picture: Any, named: str) -> None:
    with pytest.raises(DataError, match=named):
        ImagePredictor(network).set_image(picture)
    with pytest.raises(DataError, match="picture 1: found"):
        ImagePredictor(network).set_images([RGB, picture])


# ---- prompts that make no sense

POINT, INSIDE = np.array([[[10.0, 10.0]]]), np.array([[1]])


@pytest.fixture
def asked(network: SAM2) -> ImagePredictor:
    predictor = ImagePredictor(network)
    predictor.set_image(np.zeros((40, 50, 3), np.uint8))
    return predictor


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"points": POINT}, "points without labels"),
        ({"labels": INSIDE}, "labels without points"),
        ({"points": POINT[0], "labels": INSIDE}, r"expected points \[N, P, 2\], labels \[N, P\]"),
        (
            {"points": POINT, "labels": INSIDE[0]},
            r"points of shape \(1, 1, 2\) with labels .* \(1,\)",
        ),
        ({"points": POINT, "labels": INSIDE + 4}, r"labels: found \[5.0\]; expected 1 inside"),
        ({"points": POINT * np.nan, "labels": INSIDE}, "points: found a number that is not finite"),
        (
            {"points": POINT * 6, "labels": INSIDE},
            r"prompt \(60, 60\) of object 0 is outside .* 50 wide",
        ),
        (
            {"points": POINT - 10.5, "labels": 1 - INSIDE},
            r"prompt \(-0.5, -0.5\) of object 0 is outside",
        ),
        ({"points": [[["a", "b"]]], "labels": INSIDE}, "points: expected an array of numbers"),
        ({"points": [[[1, 2]], [[3]]], "labels": INSIDE}, "points: expected an array of numbers"),
        ({"boxes": [[20, 5, 10, 9]]}, r"prompt \(20, 5, 10, 9\) of object 0 is empty"),
        ({"boxes": [[0, 0, 9, 9], [60, 0, 70, 9]]}, "of object 1 is outside the picture"),
        ({"boxes": [[0, 0, np.inf, 9]]}, "boxes: found a number that is not finite"),
        ({"boxes": [[1, 2]]}, r"expected boxes \[N, 4\]"),
        (
            {"boxes": np.zeros((2, 4)), "points": POINT, "labels": INSIDE},
            "boxes for 2, points for 1",
        ),
        ({"mask_input": np.zeros((1, 24, 24))}, r"\(1, 24, 24\); expected logits \[N, 1, 24, 24\]"),
        ({"mask_input": np.zeros((1, 1, 40, 50))}, r"expected logits \[N, 1, 24, 24\]"),
        (
            {"mask_input": np.zeros((1, 1, 24, 24), bool)},
            "mask_input: expected an array of numbers",
        ),
        ({"mask_input": np.full((1, 1, 24, 24), np.nan)}, "mask_input: found a number that is not"),
        (
            {"points": POINT, "labels": INSIDE, "mask_input": np.zeros((2, 1, 24, 24))},
            "points for 1, mask_input for 2",
        ),
        ({"image": 1}, "picture 1 was asked for; expected 0 to 0"),
        ({"image": -1}, "picture -1 was asked for"),
    ],
)
def test_prompts_that_make_no_sense_are_refused(
    asked: ImagePredictor, given: dict[str, Any], named: str
) -> None:
    with pytest.raises(DataError, match=named):
        asked.predict(**given)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"points": [[[0, 0], [50, 40]]], "labels": [[1, 0]]},
        {"points": [[[900, -7]]], "labels": [[-1]]},
        {"boxes": [7, 7, 7, 20]},
        {"boxes": torch.tensor([[-5, -5, 90, 90]])},
        {"mask_input": torch.full((1, 1, 24, 24), -32.0)},
    ],
    ids=["nothing", "edges", "padding", "thin box", "box over the edge", "empty mask"],
)
def test_unusual_prompts_are_answered(asked: ImagePredictor, given: dict[str, Any]) -> None:
    answer = asked.predict(**given)
    assert answer.masks.shape == (1, 3, 40, 50)
    assert answer.low.isfinite().all()


def test_a_picture_must_be_set(network: SAM2) -> None:
    predictor = ImagePredictor(network)
    with pytest.raises(DataError, match="call set_image"):
        predictor.predict()
    with pytest.raises(DataError, match="found no pictures"):
        predictor.set_images([])
    predictor.set_image(RGB)
    predictor.reset()
    with pytest.raises(DataError, match="call set_image"):
        predictor.seen()

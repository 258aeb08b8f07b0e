"""The original's call names for pictures: its example notebooks, its numbers, and misuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from model import save_checkpoint
from model.official import (
    SAM2AutomaticMaskGenerator,
    SAM2ImagePredictor,
    SAM2VideoPredictor,
    build,
    build_sam2,
    build_sam2_hf,
    build_sam2_video_predictor,
    build_sam2_video_predictor_hf,
)
from model.official.build import RELEASED, BuiltSAM2
from model.sam2 import SAM2
from model.sam2 import build_sam2 as build_own
from pipeline import rle
from pipeline.errors import CheckpointError, ConfigError, DataError
from tests.golden.reader import MICRO, Golden, golden_model

PICTURE = Golden("micro_k_image_predictor.npz")
IMAGE = PICTURE.array("in:image")
SECOND = np.ascontiguousarray(IMAGE[:-6, ::-1])
HEIGHT, WIDTH = IMAGE.shape[:2]
LOW = (32, 32)


@pytest.fixture(scope="module")
def built() -> BuiltSAM2:
    """The golden network as the builder hands it out with apply_postprocessing=False."""
    return as_built(stability_fallback=False)


def as_built(stability_fallback: bool) -> BuiltSAM2:
    network = BuiltSAM2(MICRO, stability_fallback)
    network.load_state_dict(golden_model().state_dict())
    return network


# ---- the numbers of the original, through its own names


@pytest.mark.parametrize(
    ("network", "prefix"),
    [
        (lambda: as_built(stability_fallback=False), ""),
        (lambda: as_built(stability_fallback=True), "dyn/"),
        (golden_model, ""),
    ],
    ids=["built without post-processing", "built with it", "not built by name"],
)
def test_reference_answers(network: Callable[[], SAM2], prefix: str) -> None:
    predictor = SAM2ImagePredictor(network())
    predictor.set_image(IMAGE)
    for case, stored in PICTURE.meta["prompts"].items():
        arrays = {
            name: np.array(stored[name])
            for name in ("point_coords", "point_labels", "box")
            if name in stored
        }
        masks, ious, low = predictor.predict(**{**stored, **arrays})
        key = f"{prefix}{case}"
        PICTURE.check(f"{key}/ious", ious, 1e-4)
        PICTURE.check(f"{key}/low_res", low, 1e-4)
        if stored.get("return_logits"):
            PICTURE.check(f"{key}/logits", masks, 1e-4)
        else:
            assert PICTURE.distance(f"{key}/masks", masks.astype(bool)) <= 3
    PICTURE.check(f"{prefix}image_embed", predictor.get_image_embedding(), 5e-5)


def test_reference_answers_in_a_batch(built: BuiltSAM2) -> None:
    predictor = SAM2ImagePredictor(built)
    predictor.set_image_batch([IMAGE, SECOND])
    points, labels = [np.array([[86.4, 70.4]])] * 2, [np.array([1])] * 2
    answers = predictor.predict_batch(points, labels)
    for image, (masks, ious, low) in enumerate(zip(*answers, strict=True)):
        assert PICTURE.distance(f"batch{image}/masks", masks.astype(bool)) <= 3
        PICTURE.check(f"batch{image}/ious", ious, 1e-4)
        PICTURE.check(f"batch{image}/low_res", low, 1e-4)


# ---- the calls of the example notebooks, in their order


def check(
    answer: tuple[np.ndarray, np.ndarray, np.ndarray], count: tuple[int, ...], size: tuple[int, int]
) -> None:
    """Shapes and dtypes of masks, scores and logits, with `count` objects and candidates."""
    assert [part.shape for part in answer] == [(*count, *size), count, (*count, *LOW)]
    assert [part.dtype for part in answer] == [np.float32] * 3
    assert set(np.unique(answer[0])) <= {0.0, 1.0}


def test_image_notebook(built: BuiltSAM2) -> None:
    predictor = SAM2ImagePredictor(built)
    image = np.array(Image.fromarray(IMAGE).convert("RGB"))
    predictor.set_image(image)
    embedding = predictor._features["image_embed"]
    assert (embedding.shape, embedding[-1].shape) == ((1, 256, 8, 8), (256, 8, 8))
    assert [level.shape[1] for level in predictor._features["high_res_feats"]] == [32, 64]

    input_point, input_label = np.array([[50, 37]]), np.array([1])
    answer = predictor.predict(
        point_coords=input_point, point_labels=input_label, multimask_output=True
    )
    check(answer, (3,), (HEIGHT, WIDTH))
    _, scores, logits = (part[np.argsort(answer[1])[::-1]] for part in answer)
    assert (np.diff(scores) <= 0).all()

    input_point, input_label = np.array([[50, 37], [112, 62]]), np.array([1, 0])
    mask_input = logits[np.argmax(scores), :, :]
    answer = predictor.predict(
        point_coords=input_point,
        point_labels=input_label,
        mask_input=mask_input[None, :, :],
        multimask_output=False,
    )
    check(answer, (1,), (HEIGHT, WIDTH))

    input_box = np.array([42, 60, 70, 87])
    answer = predictor.predict(
        point_coords=None, point_labels=None, box=input_box[None, :], multimask_output=False
    )
    check(answer, (1,), (HEIGHT, WIDTH))
    answer = predictor.predict(
        point_coords=np.array([[57, 78]]),
        point_labels=np.array([0]),
        box=input_box,
        multimask_output=False,
    )
    check(answer, (1,), (HEIGHT, WIDTH))

    input_boxes = np.array(
        [[7, 60, 170, 87], [42, 60, 70, 87], [138, 60, 155, 87], [120, 42, 140, 50]]
    )
    answer = predictor.predict(
        point_coords=None, point_labels=None, box=input_boxes, multimask_output=False
    )
    check(answer, (4, 1), (HEIGHT, WIDTH))
    predictor.reset_predictor()


def test_image_notebook_in_batches(built: BuiltSAM2) -> None:
    predictor = SAM2ImagePredictor(built)
    boxes_batch = [np.array([[7, 60, 170, 87], [42, 60, 70, 87]]), np.array([[45, 17, 52, 52]])]
    predictor.set_image_batch([IMAGE, SECOND])
    masks_batch, scores_batch, logits_batch = predictor.predict_batch(
        None, None, box_batch=boxes_batch, multimask_output=False
    )
    check((masks_batch[0], scores_batch[0], logits_batch[0]), (2, 1), IMAGE.shape[:2])
    check((masks_batch[1], scores_batch[1], logits_batch[1]), (1,), SECOND.shape[:2])

    pts_batch = [np.array([[[50, 37]], [[110, 62]]]), np.array([[[40, 30]], [[80, 40]]])]
    labels_batch = [np.array([[1], [1]]), np.array([[1], [1]])]
    masks_batch, scores_batch, logits_batch = predictor.predict_batch(
        pts_batch, labels_batch, box_batch=None, multimask_output=True
    )
    for masks, scores, logits, image in zip(
        masks_batch, scores_batch, logits_batch, [IMAGE, SECOND], strict=True
    ):
        check((masks, scores, logits), (2, 3), image.shape[:2])
        best = masks[range(len(masks)), np.argmax(scores, axis=-1)]
        assert best.shape == (2, *image.shape[:2])


def test_generated_masks_fall_back_as_the_builder_said(built: BuiltSAM2) -> None:
    options = {
        "points_per_side": 4,
        "pred_iou_thresh": 0.0,
        "stability_score_thresh": 0.0,
        "multimask_output": False,
    }
    on, off, plain = (
        SAM2AutomaticMaskGenerator(network, **options, output_mode="coco_rle").generate(IMAGE)
        for network in (as_built(stability_fallback=True), built, golden_model())
    )
    assert plain == off != on


def test_mask_generator_notebook(built: BuiltSAM2) -> None:
    assert SAM2AutomaticMaskGenerator(built).generate(IMAGE) == []
    mask_generator = SAM2AutomaticMaskGenerator(
        model=built,
        points_per_side=8,
        points_per_batch=128,
        pred_iou_thresh=0.4,
        stability_score_thresh=0.6,
        stability_score_offset=0.1,
        crop_n_layers=1,
        box_nms_thresh=0.9,
        crop_n_points_downscale_factor=2,
        min_mask_region_area=25.0,
        use_m2m=True,
        mask_threshold=3.0,
    )
    masks = mask_generator.generate(IMAGE)
    assert masks
    assert list(masks[0]) == [
        "segmentation",
        "area",
        "bbox",
        "predicted_iou",
        "point_coords",
        "stability_score",
        "crop_box",
    ]
    for found in sorted(masks, key=lambda one: one["area"], reverse=True):
        assert found["segmentation"].shape == (HEIGHT, WIDTH)
        assert found["segmentation"].dtype == bool
        assert found["segmentation"].sum() == found["area"]
        rows, columns = np.nonzero(found["segmentation"])
        x, y, width, height = found["bbox"]
        assert (x, y) == (columns.min(), rows.min())
        assert (x + width, y + height) == (columns.max(), rows.max())
        assert np.shape(found["point_coords"]) == (1, 2)
        assert len(found["crop_box"]) == 4
        assert isinstance(found["predicted_iou"], float)
        assert isinstance(found["stability_score"], float)


def test_segmentations_in_three_forms(built: BuiltSAM2) -> None:
    options = {
        "points_per_side": None,
        "point_grids": [np.array([[0.5, 0.5]])],
        "pred_iou_thresh": 0.0,
        "stability_score_thresh": 0.0,
    }
    forms: dict[str, Any] = {
        form: SAM2AutomaticMaskGenerator(built, output_mode=form, **options).generate(IMAGE)
        for form in ("binary_mask", "uncompressed_rle", "coco_rle")
    }
    for mask, runs, coco in zip(*forms.values(), strict=True):
        shape = mask["segmentation"]
        assert isinstance(runs["segmentation"]["counts"], list)
        assert isinstance(coco["segmentation"]["counts"], str)
        for stored in (runs["segmentation"], coco["segmentation"]):
            assert stored["size"] == [HEIGHT, WIDTH]
            np.testing.assert_array_equal(rle.decode(stored), shape)


def test_video_notebook(built: BuiltSAM2, tmp_path: Path) -> None:
    for frame in range(5):
        Image.fromarray(np.roll(IMAGE, 3 * frame, 1)).save(tmp_path / f"{frame:05d}.jpg")
    predictor = SAM2VideoPredictor(built, fill_hole_area=8)
    inference_state = predictor.init_state(video_path=str(tmp_path))
    predictor.reset_state(inference_state)
    points, labels = np.array([[86, 70]], np.float32), np.array([1], np.int32)
    _, out_obj_ids, out_mask_logits = predictor.add_new_points_or_box(
        inference_state=inference_state, frame_idx=0, obj_id=4, points=points, labels=labels
    )
    assert list(out_obj_ids) == [4]
    assert (out_mask_logits[0] > 0.0).cpu().numpy().shape == (1, HEIGHT, WIDTH)
    _, out_obj_ids, out_mask_logits = predictor.add_new_points_or_box(
        inference_state=inference_state,
        frame_idx=0,
        obj_id=2,
        box=np.array([42, 60, 70, 87], np.float32),
    )
    assert list(out_obj_ids) == [4, 2]
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:60, 90:150] = True
    predictor.add_new_mask(inference_state, frame_idx=2, obj_id=7, mask=mask)

    video_segments = {}
    for out_frame_idx, out_obj_ids, out_mask_logits in predictor.propagate_in_video(
        inference_state
    ):
        assert out_mask_logits.shape == (3, 1, HEIGHT, WIDTH)
        assert out_mask_logits.dtype == torch.float32
        video_segments[out_frame_idx] = {
            out_obj_id: (out_mask_logits[i] > 0.0).cpu().numpy()
            for i, out_obj_id in enumerate(out_obj_ids)
        }
    assert list(video_segments) == [0, 1, 2, 3, 4]
    assert list(video_segments[4]) == [4, 2, 7]

    obj_ids, updated = predictor.remove_object(inference_state, 2, strict=False)
    assert list(obj_ids) == [4, 7]
    assert all(logits.shape == (2, 1, HEIGHT, WIDTH) for _, logits in updated)
    again = predictor.propagate_in_video(inference_state, start_frame_idx=3, reverse=True)
    assert [frame for frame, _, _ in again] == [3, 2, 1, 0]
    predictor.reset_state(inference_state)
    assert inference_state["obj_ids"] == []


# ---- building


def test_released_names_lead_to_presets() -> None:
    assert RELEASED["configs/sam2.1/sam2.1_hiera_b+.yaml"] == ("base_plus", "2.1")
    assert len(RELEASED) == 8
    for name, version in [
        ("configs/sam2.1/sam2.1_hiera_t.yaml", "2.1"),
        ("sam2_hiera_t.yaml", "2.0"),
        ("sam2.1_hiera_t", "2.1"),
    ]:
        network = build_sam2(name, device="cpu", hydra_overrides_extra=["++model.image_size=256"])
        assert network.config.version == version
        assert network.config.trunk.depths == (1, 2, 7, 2)
        assert network.config.image_size == 256
        assert network.stability_fallback
        assert not network.training


def test_post_processing_can_be_left_out() -> None:
    switch = "++model.sam_mask_decoder_extra_args.dynamic_multimask_via_stability="
    fixed = "++model.sam_mask_decoder_extra_args.dynamic_multimask_stability_thresh=0.98"
    name = "configs/sam2/sam2_hiera_t.yaml"
    off = build_sam2(name, device="cpu", apply_postprocessing=False, mode="train")
    assert not off.stability_fallback
    assert off.training
    on = build_sam2(
        name,
        device=torch.device("cpu"),
        apply_postprocessing=False,
        hydra_overrides_extra=[f"{switch}true", fixed],
    )
    assert on.stability_fallback


def test_video_predictors_are_built_with_their_options() -> None:
    name, small = "configs/sam2.1/sam2.1_hiera_t.yaml", "++model.image_size=64"
    usual = build_sam2_video_predictor(name, device="cpu", hydra_overrides_extra=[small])
    settings = usual.predictor.settings
    assert settings.stability_fallback
    assert (settings.fill_hole_area, settings.binary_prompts) == (8, True)
    assert not (settings.exclusive or settings.lasting_corrections)
    other = build_sam2_video_predictor(
        name,
        device="cpu",
        apply_postprocessing=False,
        hydra_overrides_extra=[
            small,
            "++model.non_overlap_masks=true",
            "++model.add_all_frames_to_correct_as_cond=True",
            "++model.clear_non_cond_mem_around_input=true",
            "++model.fill_hole_area=3",
        ],
    )
    settings = other.predictor.settings
    assert other.image_size == 64
    assert not (settings.stability_fallback or settings.binary_prompts)
    assert settings.exclusive
    assert settings.lasting_corrections
    assert settings.forget_around_prompts
    assert settings.fill_hole_area == 3
    with pytest.raises(ConfigError, match="fill_hole_area=many' has no counterpart"):
        build_sam2_video_predictor(
            name, device="cpu", hydra_overrides_extra=["++model.fill_hole_area=many"]
        )


def test_video_predictors_are_compiled_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[SAM2] = []
    monkeypatch.setattr(build, "compile_blocks", compiled.append)
    small = {"device": "cpu", "hydra_overrides_extra": ["++model.image_size=64"]}
    build_sam2_video_predictor("sam2.1_hiera_t.yaml", **small)
    assert compiled == []
    predictor = build_sam2_video_predictor("sam2.1_hiera_t.yaml", vos_optimized=True, **small)
    assert compiled == [predictor.model]


def test_weights_are_loaded_and_must_fit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    stored = build_own("tiny")
    save_checkpoint(stored, tmp_path / "tiny.pt")
    network = build_sam2("sam2.1_hiera_t.yaml", tmp_path / "tiny.pt", device="cpu")
    for name, value in stored.state_dict().items():
        assert torch.equal(network.state_dict()[name], value)
    with pytest.raises(CheckpointError, match="tiny"):
        build_sam2("sam2.1_hiera_s.yaml", tmp_path / "tiny.pt", device="cpu")


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: build_sam2("sam2_hiera_huge.yaml"), "none of the released .*sam2.1_hiera_b"),
        (lambda: build_sam2("sam2_hiera_t.yaml", mode="test", device="cpu"), "mode is 'test'"),
        (
            lambda: build_sam2(
                "sam2_hiera_t", device="cpu", hydra_overrides_extra=["++model.num_maskmem=4"]
            ),
            r"'\+\+model.num_maskmem=4' has no counterpart here; expected \+\+model.image_size=<int>",
        ),
        (
            lambda: build_sam2(
                "sam2_hiera_t", device="cpu", hydra_overrides_extra=["model.image_size=big"]
            ),
            "'model.image_size=big' has no counterpart",
        ),
        (
            lambda: build_sam2("sam2_hiera_t", device="abacus"),
            "device abacus: found no such kind; expected cpu",
        ),
        (lambda: build_sam2_hf("facebook/sam2-hiera-tiny"), "nothing is downloaded here"),
        (lambda: build_sam2_video_predictor_hf("facebook/sam2"), "nothing is downloaded here"),
        (lambda: SAM2ImagePredictor.from_pretrained("facebook/sam2"), "nothing is downloaded"),
        (lambda: SAM2AutomaticMaskGenerator.from_pretrained("facebook/sam2"), "get the checkpoint"),
    ],
)
def test_what_cannot_be_built(call: Any, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        call()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_device_is_named() -> None:
    with pytest.raises(ConfigError, match=r"device cuda: torch cannot use it here .* give cpu"):
        build_sam2("sam2_hiera_t.yaml")


def test_misuse(built: BuiltSAM2) -> None:
    predictor = SAM2ImagePredictor(built)
    with pytest.raises(DataError, match="call set_image"):
        predictor.predict()
    with pytest.raises(DataError, match="set_image_batch first"):
        predictor.predict_batch()
    predictor.set_image_batch([IMAGE, SECOND])
    with pytest.raises(DataError, match="ask with predict_batch"):
        predictor.predict()
    with pytest.raises(DataError, match="for 1 pictures, expected 2"):
        predictor.predict_batch(box_batch=[np.zeros(4)])
    with pytest.raises(ConfigError, match="either points_per_side or point_grids"):
        SAM2AutomaticMaskGenerator(built, point_grids=[np.zeros((1, 2))])
    with pytest.raises(ConfigError, match="output_mode is 'png'"):
        SAM2AutomaticMaskGenerator(built, output_mode="png")

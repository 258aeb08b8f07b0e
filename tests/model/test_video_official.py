"""The original's call names: arguments, shapes, numbers, options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from model.official.video import SAM2VideoPredictor
from model.sam2 import SAM2
from pipeline.errors import DataError
from tests.model.videos import VIDEO, box_shape, noise, stored_video


def check(key: str, found: list[Any]) -> None:
    assert [frame for frame, _, _ in found] == VIDEO.array(f"{key}/frames").tolist()
    assert found[-1][1] == VIDEO.array(f"{key}/obj_ids").tolist()
    logits = torch.stack([masks for _, _, masks in found])
    assert logits.dtype == torch.float32
    VIDEO.check(f"{key}/logits", logits.reshape(*VIDEO.stored[f"{key}/logits@shape"]), 5e-3)
    masks = VIDEO.array(f"{key}/masks")
    assert ((logits > 0).numpy().reshape(masks.shape) != masks).sum() <= 25


@pytest.mark.parametrize("option", ["plain", "allcond"])
def test_a_notebook_of_the_original(micro_golden: SAM2, option: str) -> None:
    predictor = SAM2VideoPredictor(
        micro_golden, add_all_frames_to_correct_as_cond=option == "allcond"
    )
    state = predictor.init_state(np.stack(stored_video()), offload_state_to_cpu=True)
    assert (state["num_frames"], state["video_height"], state["video_width"]) == (12, 90, 160)
    size = np.array([160, 90], np.float32)
    box = np.array([0.25, 0.2, 0.6, 0.85], np.float32) * np.tile(size, 2)
    found = [predictor.add_new_points_or_box(state, 0, 1, box=box)]
    check(f"{option}/box_obj1", found)
    click = np.array([[0.4, 0.5]], np.float32)
    found = [
        predictor.add_new_points_or_box(
            inference_state=state,
            frame_idx=0,
            obj_id=1,
            points=click,
            labels=np.array([1], np.int32),
            clear_old_points=False,
            normalize_coords=False,
        )
    ]
    check(f"{option}/box_click_obj1", found)
    points = torch.tensor([[0.7, 0.5]]) * torch.tensor([160.0, 90.0])
    check(f"{option}/click_obj2", [predictor.add_new_points(state, 0, 2, points, [1])])
    check(f"{option}/propagate", list(predictor.propagate_in_video(state)))
    points = np.array([[0.2, 0.2], [0.45, 0.5]], np.float32) * size
    found = [predictor.add_new_points_or_box(state, 6, 1, points, np.array([0, 1], np.int32))]
    check(f"{option}/corr_f6", found)
    again = predictor.propagate_in_video(state, start_frame_idx=3, max_frame_num_to_track=5)
    check(f"{option}/propagate2_from3", list(again))
    back = predictor.propagate_in_video(state, start_frame_idx=6, reverse=True)
    check(f"{option}/reverse_from6", list(back))
    if option == "plain":
        ids, updated = predictor.remove_object(state, 1)
        assert ids == VIDEO.array("plain/remove_obj1/ids").tolist()
        assert [t for t, _ in updated] == VIDEO.array("plain/remove_obj1/updated_frames").tolist()
        assert updated[0][1].shape == (1, 1, 90, 160)
        check("plain/propagate_after_remove", list(predictor.propagate_in_video(state)))


def test_from_masks_without_overlap(micro_golden: SAM2) -> None:
    predictor = SAM2VideoPredictor(micro_golden, non_overlap_masks=True)
    state = predictor.init_state(stored_video())
    predictor.add_new_mask(state, 0, 1, VIDEO.array("in:vos_mask1"))
    found = predictor.add_new_mask(state, 0, 2, torch.from_numpy(VIDEO.array("in:vos_mask2")))
    check("vos_nonoverlap/first", [found])
    assert ((found[2] > 0).sum(0) <= 1).all()


def test_objects_come_in_the_order_in_which_they_were_added(network: SAM2, tmp_path: Path) -> None:
    for t, frame in enumerate(noise(4)):
        Image.fromarray(frame).save(tmp_path / f"{t:05d}.jpg")
    predictor = SAM2VideoPredictor(network)
    state = predictor.init_state(str(tmp_path), async_loading_frames=True)
    predictor.add_new_mask(state, 0, "b", box_shape(5, 5))
    list(predictor.propagate_in_video(state))
    _, ids, masks = predictor.add_new_mask(state, 1, "a", np.ones((10, 15), bool))  # any size
    assert (ids, tuple(masks.shape)) == (["b", "a"], (2, 1, 40, 60))
    assert (masks[1] > 0).all()
    assert state["obj_ids"] == ["b", "a"]
    assert [t for t, _, _ in predictor.propagate_in_video(state, reverse=True)] == []
    assert [t for t, _, _ in predictor.propagate_in_video(state, 2, reverse=True)] == [2, 1, 0]
    frame, ids, masks = predictor.clear_all_prompts_in_frame(state, 1, "a")  # type: ignore[misc]
    assert (frame, ids, len(masks)) == (1, ["b", "a"], 2)
    assert predictor.clear_all_prompts_in_frame(state, 1, "a", need_output=False) is None
    assert predictor.remove_object(state, "c") == (["b", "a"], [])
    with pytest.raises(DataError, match="there is no object c"):
        predictor.remove_object(state, "c", strict=True)
    assert predictor.remove_object(state, "a", need_output=False) == (["b"], [])
    predictor.reset_state(state)
    assert state["obj_ids"] == []


def test_memory_around_a_prompt_is_cleared_where_the_original_crashes(network: SAM2) -> None:
    predictor = SAM2VideoPredictor(network, clear_non_cond_mem_around_input=True)
    state = predictor.init_state(noise(20))
    predictor.add_new_mask(state, 0, 1, box_shape(5, 5))
    assert len(list(predictor.propagate_in_video(state))) == 20
    assert min(state.session.masklets[0].tracked) == 1
    predictor.add_new_points_or_box(state, 10, 1, [[30.0, 20.0]], [1])
    assert len(list(predictor.propagate_in_video(state, 12))) == 8


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"points": [[1, 2]]}, "points and labels belong together"),
        ({}, "neither points nor box"),
        ({"box": [1, 2, 3, 4], "clear_old_points": False}, "a box comes before all points"),
        ({"points": [[1, 2], [3, 4]], "labels": [1]}, "2 points with 1 labels"),
        ({"points": [[1, float("nan")]], "labels": [1]}, "expected finite numbers"),
        ({"box": [1, 2, 3]}, "expected finite numbers, 2 per point"),
        ({"points": [[1, 2]], "labels": [1], "frame_idx": 9}, "frame 9 is not in the video"),
    ],
)
def test_misuse(network: SAM2, given: dict[str, Any], named: str) -> None:
    predictor = SAM2VideoPredictor(network)
    state = predictor.init_state(noise(2))
    with pytest.raises(DataError, match=named):
        predictor.add_new_points_or_box(state, **{"frame_idx": 0, "obj_id": 1, **given})
    assert state["obj_ids"] == []
    with pytest.raises(DataError, match="there is no object to follow"):
        next(predictor.propagate_in_video(state))
    with pytest.raises(KeyError, match="and no 'images'"):
        state["images"]

"""The original's video predictor by name, over a `VideoSession`."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.frames import FrameSource
from model.official.build import has_stability_fallback, refuse_download
from model.sam2 import SAM2
from model.types import Prompts
from model.video_masks import FrameMasks
from model.video_predictor import VideoPredictor
from model.video_session import VideoSession
from pipeline.errors import DataError

ObjectId = Hashable
Masks = tuple[int, list[ObjectId], Tensor]
"""frame_idx, obj_ids in the order in which they were added, video_res_masks: float logits
[O, 1, H, W]."""


@dataclass
class InferenceState:
    """What `init_state` returns. Of the original's entries it has "num_frames", "video_height",
    "video_width" and "obj_ids"; the rest is in the session."""

    session: VideoSession
    rows: dict[ObjectId, int] = field(default_factory=dict)
    """The session's number of each object: they count up, so rows come as objects were added."""
    added: int = 0

    def __getitem__(self, name: str) -> Any:
        known = {
            "num_frames": len(self.session.frames),
            "video_height": self.session.size[0],
            "video_width": self.session.size[1],
            "obj_ids": list(self.rows),
        }
        if name not in known:
            raise KeyError(f"inference_state has {', '.join(known)}, and no {name!r}")
        return known[name]

    def row(self, obj_id: ObjectId) -> int:
        """The number of an object, or the one it will have."""
        return self.rows.get(obj_id, self.added)

    def admit(self, obj_id: ObjectId) -> None:
        """Note an object that was prompted with success."""
        if obj_id not in self.rows:
            self.rows[obj_id] = self.added
            self.added += 1

    def known_row(self, obj_id: ObjectId) -> int:
        """The number of an object that there is."""
        if obj_id not in self.rows:
            raise DataError(f"there is no object {obj_id}; the objects are {list(self.rows)}")
        return self.rows[obj_id]

    def masks(self, found: FrameMasks) -> Masks:
        """As the original returns them."""
        return found.frame, list(self.rows), found.logits


class SAM2VideoPredictor:
    """Call names, arguments, shapes and numbers of the original; see docs/video.md for the few
    cases where the original fails and this does not.

    The options are the original's. `stability_fallback` is taken from the model where its builder
    noted it (`apply_postprocessing`). Objects may be added at any time.
    """

    def __init__(
        self,
        model: SAM2,
        *,
        fill_hole_area: int = 0,
        non_overlap_masks: bool = False,
        clear_non_cond_mem_around_input: bool = False,
        add_all_frames_to_correct_as_cond: bool = False,
        binarize_mask_from_pts_for_mem_enc: bool = False,
    ) -> None:
        self.model = model
        self.predictor = VideoPredictor(
            model,
            fill_hole_area=fill_hole_area,
            exclusive=non_overlap_masks,
            forget_around_prompts=clear_non_cond_mem_around_input,
            lasting_corrections=add_all_frames_to_correct_as_cond,
            binary_prompts=binarize_mask_from_pts_for_mem_enc,
            stability_fallback=has_stability_fallback(model),
            anticipate=True,
        )

    @classmethod
    def from_pretrained(cls, model_id: str, **kwargs: Any) -> SAM2VideoPredictor:
        """Nothing is downloaded here: raises ConfigError that says what to do."""
        refuse_download(model_id)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    @property
    def image_size(self) -> int:
        """Side of the model's input in pixels."""
        return self.model.config.image_size

    def init_state(
        self,
        video_path: FrameSource,
        offload_video_to_cpu: bool = False,
        offload_state_to_cpu: bool = False,
        async_loading_frames: bool = False,
    ) -> InferenceState:
        """Open a video: whatever `open_frames` takes.

        Frames are read when they are needed and not kept on the model's device, so
        `offload_video_to_cpu` and `async_loading_frames` have nothing left to choose.
        """
        predictor = VideoPredictor(
            self.model, self.predictor.settings, offload=offload_state_to_cpu
        )
        return InferenceState(predictor.session(video_path))

    @torch.inference_mode()
    def add_new_points_or_box(
        self,
        inference_state: InferenceState,
        frame_idx: int,
        obj_id: ObjectId,
        points: Any = None,
        labels: Any = None,
        clear_old_points: bool = True,
        normalize_coords: bool = True,
        box: Any = None,
    ) -> Masks:
        """Prompt an object: points [P, 2] with labels [P], a box [4], or both.

        Coordinates are pixels of the video, or 0 to 1 without `normalize_coords`. A box needs
        `clear_old_points`: it comes before all points.
        """
        if (points is None) != (labels is None):
            raise DataError("points and labels belong together: give both or none")
        if points is None and box is None:
            raise DataError("neither points nor box: give at least one of them")
        if box is not None and not clear_old_points:
            raise DataError("a box comes before all points: give it with clear_old_points=True")
        places, kinds = self._numbers(points, 2), self._numbers(labels, 1)
        if box is not None:
            places = torch.cat([self._numbers(box, 2), places])
            kinds = torch.cat([kinds.new_tensor([[2.0], [3.0]]), kinds])
        if len(places) != len(kinds):
            raise DataError(f"{len(places)} points with {len(kinds)} labels; expected as many")
        session = inference_state.session
        if normalize_coords:
            height, width = session.size
            places = places / places.new_tensor([width, height])
        prompts = Prompts(places[None] * self.image_size, kinds.T.int())
        row = inference_state.row(obj_id)
        found = session.prompt(frame_idx, row, prompts, replace=clear_old_points)
        inference_state.admit(obj_id)
        return inference_state.masks(found)

    def add_new_points(self, *args: Any, **kwargs: Any) -> Masks:
        """The older name of `add_new_points_or_box`."""
        return self.add_new_points_or_box(*args, **kwargs)

    def add_new_mask(
        self, inference_state: InferenceState, frame_idx: int, obj_id: ObjectId, mask: Any
    ) -> Masks:
        """Show an object: bool [H, W] of any size."""
        shown = torch.as_tensor(np.asarray(mask) if isinstance(mask, list) else mask)
        row = inference_state.row(obj_id)
        found = inference_state.session.prompt_mask(frame_idx, row, shown)
        inference_state.admit(obj_id)
        return inference_state.masks(found)

    def propagate_in_video(
        self,
        inference_state: InferenceState,
        start_frame_idx: int | None = None,
        max_frame_num_to_track: int | None = None,
        reverse: bool = False,
    ) -> Iterator[Masks]:
        """Follow all objects, by default from the first conditioning frame on, in either direction.

        As in the original, `max_frame_num_to_track` frames follow the first one, and in reverse
        there is nothing to do from frame 0.
        """
        session = inference_state.session
        count = None if max_frame_num_to_track is None else max_frame_num_to_track + 1
        start = session.first_prompted() if start_frame_idx is None else start_frame_idx
        if reverse and start == 0:
            count = 0
        for found in session.propagate(start, count, backwards=reverse):
            yield inference_state.masks(found)

    def clear_all_prompts_in_frame(
        self,
        inference_state: InferenceState,
        frame_idx: int,
        obj_id: ObjectId,
        need_output: bool = True,
    ) -> Masks | None:
        """Take back the prompts for one object on one frame."""
        row = inference_state.known_row(obj_id)
        found = inference_state.session.clear_prompts(frame_idx, row)
        return inference_state.masks(found) if need_output else None

    def reset_state(self, inference_state: InferenceState) -> None:
        """Forget all objects."""
        inference_state.session.reset()
        inference_state.rows.clear()

    def remove_object(
        self,
        inference_state: InferenceState,
        obj_id: ObjectId,
        strict: bool = False,
        need_output: bool = True,
    ) -> tuple[list[ObjectId], list[tuple[int, Tensor]]]:
        """Forget one object: the ids left, and the frames where it was prompted with the masks of
        the others. strict: an object that is not there is an error."""
        if obj_id not in inference_state.rows and not strict:
            return list(inference_state.rows), []
        changed = inference_state.session.remove_object(inference_state.known_row(obj_id))
        del inference_state.rows[obj_id]
        updated = [(found.frame, found.logits) for found in changed] if need_output else []
        return list(inference_state.rows), updated

    def _numbers(self, given: Any, width: int) -> Tensor:
        """Any numbers as float32 [P, width] on the model's device; none are [0, width]."""
        values = given if isinstance(given, Tensor) else np.array([] if given is None else given)
        values = torch.as_tensor(values).to(self.device, torch.float32)
        if values.numel() % width or not values.isfinite().all():
            raise DataError(f"expected finite numbers, {width} per point; found {given}")
        return values.reshape(-1, width)

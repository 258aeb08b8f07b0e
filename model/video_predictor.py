"""Segment objects through videos: as a stream from masks, or in a session with a user.

Frames are read as they are needed and memory is bounded, so a video may be of any length. Objects
whose memory has the same shape are one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import replace
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from model.frames import Frame, FrameSource, check_frame, open_frames
from model.memory import without_overlap
from model.sam2 import ABSENT_LOGIT, SAM2, mask_logits
from model.types import ImageFeatures
from model.video_features import encode_frames
from model.video_follow import Follower, squared_masks
from model.video_masklet import Masklet
from model.video_save import load_session
from model.video_session import VideoSession
from model.video_settings import VideoSettings
from model.video_store import AnswerStore
from pipeline.errors import DataError

Mask = NDArray[np.bool_] | Tensor
"""Bool [H, W] at the size of the video."""
ShownMasks = Mapping[int, Mapping[int, Mask]]
"""By position of the frame in the video and number of the object: where the object is on that
frame."""


class VideoPredictor:
    """Tracks objects through videos. Puts the model into eval mode.

    settings: how; single ones may be given by name instead, as in
    `VideoPredictor(model, exclusive=True)`.
    """

    def __init__(self, model: SAM2, settings: VideoSettings | None = None, **changes: Any) -> None:
        self.model = model.eval()
        self.settings = replace(settings or VideoSettings(), **changes)

    def session(self, source: FrameSource) -> VideoSession:
        """Prompt, propagate and correct interactively. source: see `open_frames`."""
        return VideoSession(self.model, open_frames(source), self.settings, self._store(), {})

    def resume(self, path: str | Path, source: FrameSource) -> VideoSession:
        """Go on with a session that `VideoSession.save` wrote, with the same weights and video.

        What changes numbers is as it was in that session; the rest is as in this predictor. Raises
        CheckpointError for a file that is no session or belongs to other weights, DataError for
        another video.
        """
        frames, store = open_frames(source), self._store()
        saved = load_session(path, self.model, frames, self.settings, store)
        return VideoSession(self.model, frames, saved.settings, store, saved.masklets)

    def track(
        self,
        frames: Iterable[Frame],
        masks: Mask | ShownMasks,
        *,
        frame_count: int | None = None,
    ) -> Iterator[Tensor]:
        """For each frame the mask logits of all O objects, [O, H, W] float32 at the size of the
        video.

        frames: uint8 [H, W, 3], RGB. masks: bool [O, H, W] for the first frame, or, for objects
        that appear later, {frame position: {object number: bool [H, W]}}; rows come in the order of
        the numbers. An object is shown once; before that its logits are -1024, and on that frame
        they are ±10 as shown. frame_count: length of the video where `frames` has none; it matters
        for videos below 16 frames only.

        Raises DataError for an object shown twice or after the end of the video, a mask or a frame
        of another size, or a frame that is no picture.
        """
        shown = _shown(masks)
        numbers = sorted({number for objects in shown.values() for number in objects})
        if frame_count is None and isinstance(frames, Sized):
            frame_count = len(frames)
        tracking = _Tracking(Follower(self.model, self.settings, frame_count))
        position = -1
        for position, (size, seen) in enumerate(self._seen(frames)):
            out = torch.full((len(numbers), *size), ABSENT_LOGIT, device=self.model.device)
            for number, logits in tracking.follow(position, seen, size):
                out[numbers.index(number)] = logits
            for number, logits in tracking.meet(position, seen, size, shown.get(position, {})):
                out[numbers.index(number)] = logits
            if self.settings.exclusive and len(out) > 1:
                out = without_overlap(out[:, None])[:, 0]
            yield out
        late = sorted(t for t in shown if t > position)
        if late:
            raise DataError(
                f"masks are given for frame {late[0]}, but the video has {position + 1} frames "
                f"(0 to {position})"
            )

    def _store(self) -> AnswerStore:
        settings = self.settings
        device = torch.device("cpu") if settings.offload else self.model.device
        return AnswerStore(device, settings.memory_budget, settings.spill_folder)

    def _seen(
        self, frames: Iterable[Frame]
    ) -> Iterator[tuple[tuple[int, int], Callable[[], ImageFeatures]]]:
        """The size of each frame and, on request, its features; frames are encoded some at a
        time."""
        coming, position = iter(frames), 0
        size: tuple[int, int] | None = None
        while batch := list(islice(coming, self.settings.frames_at_once)):
            encoded = cache(partial(encode_frames, self.model, batch))
            for row, frame in enumerate(batch):
                size = check_frame(frame, size, f"frame {position}")
                yield size, partial(_row, encoded, row)
                position += 1


class _Tracking:
    """Objects that were shown once and are followed from there."""

    def __init__(self, follower: Follower) -> None:
        self.follower = follower
        self.model = follower.model
        self.masklets: dict[int, Masklet] = {}
        self._store = AnswerStore(self.model.device)

    @torch.inference_mode()
    def follow(
        self, position: int, seen: Callable[[], ImageFeatures], size: tuple[int, int]
    ) -> list[tuple[int, Tensor]]:
        """Number and logits, at the size of the video, of each object shown before."""
        if not self.masklets:
            return []
        masklets = [self.masklets[number] for number in sorted(self.masklets)]
        self.follower.follow(masklets, position, seen(), backwards=False)
        low = torch.cat([masklet.tracked[position].low for masklet in masklets])
        for masklet in masklets:
            masklet.forget_before(position + 1 - self.follower.reach)
        full = F.interpolate(low, size=size, mode="bilinear", align_corners=False)[:, 0]
        return list(zip(sorted(self.masklets), full, strict=True))

    @torch.inference_mode()
    def meet(
        self,
        position: int,
        seen: Callable[[], ImageFeatures],
        size: tuple[int, int],
        shown: Mapping[int, Mask],
    ) -> list[tuple[int, Tensor]]:
        """Remember objects as they are shown; number and logits as shown of each."""
        if not shown:
            return []
        wrong = [tuple(mask.shape) for mask in shown.values() if tuple(mask.shape) != size]
        if wrong:
            raise DataError(
                f"frame {position}: a mask of size {wrong[0]} for a video of size {size} "
                "(height, width)"
            )
        given = torch.stack([torch.as_tensor(mask) for mask in shown.values()])
        given = given.to(self.model.device)[:, None].float()
        masks = squared_masks(given, self.model.config.image_size)
        answers = self.follower.remember(seen(), self.follower.adopt(seen(), masks))
        for number, answer in zip(shown, answers, strict=True):
            self.masklets[number] = Masklet(self._store)
            self.masklets[number].settle(position, answer, lasting=True)
        return list(zip(shown, mask_logits(given)[:, 0], strict=True))


def track_video(
    model: SAM2,
    frames: Iterable[Frame],
    masks: Mask | ShownMasks,
    *,
    frame_count: int | None = None,
) -> Iterator[Tensor]:
    """`VideoPredictor.track` with its default settings."""
    return VideoPredictor(model).track(frames, masks, frame_count=frame_count)


def _row(encoded: Callable[[], list[ImageFeatures]], row: int) -> ImageFeatures:
    return encoded()[row]


def _shown(masks: Mask | ShownMasks) -> dict[int, dict[int, Mask]]:
    """The masks by frame and object, each object once."""
    if not isinstance(masks, Mapping):
        return {0: dict(enumerate(masks))}
    first: dict[int, int] = {}
    for position in sorted(masks):
        for number in masks[position]:
            if number in first:
                raise DataError(
                    f"object {number} is shown on frame {first[number]} and again "
                    f"on frame {position}; "
                    "show each object once"
                )
            first[number] = position
    return {position: dict(masks[position]) for position in sorted(masks)}

"""Follow objects through a video from the masks they are shown with: semi-supervised segmentation,
streaming.

Frames are read as they are needed and memory is bounded, so a video may be of any length. Objects
that are shown on the same frame are one batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from model.memory import without_overlap
from model.memory_bank import MemoryBank
from model.memory_choice import MemoryWindow
from model.sam2 import ABSENT_LOGIT, SAM2, mask_logits
from model.types import ImageFeatures, Prompts
from pipeline.errors import DataError

Mask = NDArray[np.bool_] | Tensor
"""Bool [H, W] at the size of the video."""
ShownMasks = Mapping[int, Mapping[int, Mask]]
"""By position of the frame in the video and number of the object: where the object is on that
frame."""


@dataclass
class _Group:
    """Objects shown on the same frame."""

    numbers: list[int]
    masks: list[Mask]
    bank: MemoryBank


class VideoPredictor:
    """Tracks objects forwards through videos. Puts the model into eval mode.

    frames_at_once: frames encoded together, ahead of tracking. exclusive: each pixel belongs to at
    most one object in what is handed out (what is remembered stays as it was answered).
    """

    def __init__(
        self,
        model: SAM2,
        *,
        window: MemoryWindow | None = None,
        frames_at_once: int = 4,
        exclusive: bool = False,
    ) -> None:
        self.model = model.eval()
        self.window = window or MemoryWindow(future_pointers=False)
        self.frames_at_once = frames_at_once
        self.exclusive = exclusive

    def track(
        self,
        frames: Iterable[NDArray[np.uint8]],
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

        Raises DataError for an object shown twice or after the end of the video, or a mask of
        another size.
        """
        shown = _shown(masks)
        numbers = sorted({number for objects in shown.values() for number in objects})
        if frame_count is None and isinstance(frames, Sized):
            frame_count = len(frames)
        groups: list[_Group] = []
        position = -1
        for position, (size, features) in enumerate(self._seen(frames)):
            out = torch.full((len(numbers), *size), ABSENT_LOGIT, device=self.model.device)
            for group in groups:
                out[[numbers.index(n) for n in group.numbers]] = self._follow(
                    group, position, features, size
                )
            if shown.get(position):
                group = _Group(
                    list(shown[position]),
                    list(shown[position].values()),
                    MemoryBank(self.model, self.window, frame_count),
                )
                out[[numbers.index(n) for n in group.numbers]] = self._meet(
                    group, position, features, size
                )
                groups.append(group)
            yield without_overlap(out[:, None])[:, 0] if self.exclusive and len(out) > 1 else out
        late = sorted(t for t in shown if t > position)
        if late:
            raise DataError(
                f"masks are given for frame {late[0]}, but the video has {position + 1} frames "
                f"(0 to {position})"
            )

    def _seen(
        self, frames: Iterable[NDArray[np.uint8]]
    ) -> Iterator[tuple[tuple[int, int], ImageFeatures]]:
        """Height, width and features of each frame; frames are encoded some at a time."""
        side = self.model.config.image_size
        coming = iter(frames)
        while batch := list(islice(coming, self.frames_at_once)):
            squares = [
                np.asarray(Image.fromarray(frame).resize((side, side), Image.Resampling.BICUBIC))
                for frame in batch
            ]
            pixels = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)
            with torch.inference_mode():
                seen = self.model.encode(self.model.normalise(pixels.to(self.model.device)))
            for row, frame in enumerate(batch):
                here = seen._replace(
                    s4=seen.s4[row, None], s8=seen.s8[row, None], s16=seen.s16[row, None]
                )
                yield (frame.shape[0], frame.shape[1]), here

    @torch.inference_mode()
    def _meet(
        self, group: _Group, position: int, features: ImageFeatures, size: tuple[int, int]
    ) -> Tensor:
        """Remember objects as they are shown; their logits [n, H, W] at the size of the video."""
        wrong = [tuple(mask.shape) for mask in group.masks if tuple(mask.shape) != size]
        if wrong:
            raise DataError(
                f"frame {position}: a mask of size {wrong[0]} for a video of size {size} "
                "(height, width)"
            )
        given = torch.stack([torch.as_tensor(mask) for mask in group.masks])
        given = given.to(self.model.device)[:, None].float()
        side = self.model.config.image_size
        resized = F.interpolate(
            given, size=(side, side), mode="bilinear", align_corners=False, antialias=True
        )
        masks = resized >= 0.5
        rows = features.rows(torch.zeros(len(masks), dtype=torch.long))
        answer = self.model.adopt_mask(rows, masks)
        # Seen through the low-resolution answer, as the reference's predictor remembers it.
        full = F.interpolate(answer.low, size=(side, side), mode="bilinear", align_corners=False)
        memory = self.model.remember(rows, full, answer.object_score, from_prompt=False)
        group.bank.keep(position, memory, answer.pointer, conditioning=True)
        return mask_logits(given)[:, 0]

    @torch.inference_mode()
    def _follow(
        self, group: _Group, position: int, features: ImageFeatures, size: tuple[int, int]
    ) -> Tensor:
        """Find the objects again and remember them; their logits [n, H, W] at the size of the
        video."""
        count = len(group.numbers)
        device = self.model.device
        rows = features.rows(torch.zeros(count, dtype=torch.long))
        nothing = Prompts(
            torch.zeros(count, 0, 2, device=device),
            torch.zeros(count, 0, dtype=torch.int32, device=device),
        )
        seen = group.bank.recall(position, rows)
        answer = self.model.decode(seen, rows, nothing, multimask=True)
        low = answer.low.float()
        side = self.model.config.image_size
        full = F.interpolate(low, size=(side, side), mode="bilinear", align_corners=False)
        memory = self.model.remember(rows, full, answer.object_score, from_prompt=False)
        group.bank.keep(position, memory, answer.pointer, conditioning=False)
        group.bank.forget(position + 1)
        return F.interpolate(low, size=size, mode="bilinear", align_corners=False)[:, 0]


def track_video(
    model: SAM2,
    frames: Iterable[NDArray[np.uint8]],
    masks: Mask | ShownMasks,
    *,
    frame_count: int | None = None,
) -> Iterator[Tensor]:
    """`VideoPredictor.track` with its default settings."""
    return VideoPredictor(model).track(frames, masks, frame_count=frame_count)


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

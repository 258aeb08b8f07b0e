"""One frame of a video and what is known of its objects: answer prompts, follow, remember.

Objects whose memory has the same shape are one batch; apart from rounding their answers are those
they would get alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from model.mask_cleanup import fill_holes
from model.memory_choice import MemoryWindow, Reading
from model.position import sine_map
from model.sam2 import SAM2
from model.types import FramePrediction, ImageFeatures, Memory, Prompts
from model.video_masklet import Masklet
from model.video_settings import VideoSettings
from model.video_store import Answer

T = TypeVar("T")
PREVIOUS_LIMIT = 32.0
"""An earlier answer is clamped to this before it is refined."""


class Follower:
    """The steps of video segmentation, without a video: whoever holds one gives frames as features.

    frame_count: length of the video, or None where it is not known (a stream); pointer positions
    depend on it when it is below 16. Every method takes the features of a single frame.
    """

    def __init__(self, model: SAM2, settings: VideoSettings, frame_count: int | None) -> None:
        self.model = model
        self.settings = settings
        self.frame_count = settings.window.pointers if frame_count is None else frame_count

    @property
    def reach(self) -> int:
        """How many frames back anything tracked is read."""
        window = self.settings.window
        return max(window.pointer_reach(self.frame_count), window.memory_reach)

    @torch.inference_mode()
    def refine(self, masklet: Masklet, frame: int, seen: ImageFeatures, prompts: Prompts) -> Answer:
        """Answer points on one object, in the light of its memory where the frame was tracked, and
        of the answer that the user saw last, if any."""
        conditioned = self.model.unconditioned(seen)
        if frame in masklet.passed:
            window = self._window(backwards=masklet.passed[frame])
            reading = masklet.reading(frame, window, self.frame_count)
            if reading.memories:
                conditioned = self._recall([(masklet, reading)], seen)
        before = masklet.latest(frame)
        if before is not None:
            low = before.low.to(self.model.device).float()
            prompts = prompts._replace(mask_logits=low.clamp(-PREVIOUS_LIMIT, PREVIOUS_LIMIT))
        answer = self.model.decode(
            conditioned,
            seen,
            prompts,
            multimask=prompts.labels.shape[1] <= 1,
            stability_fallback=self.settings.stability_fallback,
        )
        return self._answers(answer)[0]

    @torch.inference_mode()
    def adopt(self, seen: ImageFeatures, masks: Tensor) -> list[Answer]:
        """Take masks (bool [N, 1, S, S]) of N objects over as answers."""
        return self._answers(self.model.adopt_mask(_rows(seen, len(masks)), masks))

    @torch.inference_mode()
    def remember(self, seen: ImageFeatures, answers: Sequence[Answer]) -> list[Answer]:
        """The answers to prompts of N objects with the memory that is made of them."""
        remembered: list[Answer] = []
        for some in _chunks(answers, self.settings.objects_at_once):
            low = torch.cat([answer.low for answer in some]).to(self.model.device)
            score = torch.cat([answer.score for answer in some]).to(self.model.device)
            memory = self._memory(seen, low, score, from_prompt=self.settings.binary_prompts)
            remembered += [
                answer._replace(memory=row) for answer, row in zip(some, memory, strict=True)
            ]
        return remembered

    @torch.inference_mode()
    def follow(
        self, masklets: Sequence[Masklet], frame: int, seen: ImageFeatures, *, backwards: bool
    ) -> None:
        """Find objects again on `frame` and remember them there."""
        window = self._window(backwards=backwards)
        alike: dict[tuple[tuple[int, ...], int], list[tuple[Masklet, Reading]]] = {}
        for masklet in masklets:
            reading = masklet.reading(frame, window, self.frame_count)
            alike.setdefault(reading.shape, []).append((masklet, reading))
        for members in alike.values():
            for some in _chunks(members, self.settings.objects_at_once):
                self._follow_batch(some, frame, seen)

    def _follow_batch(
        self, batch: Sequence[tuple[Masklet, Reading]], frame: int, seen: ImageFeatures
    ) -> None:
        rows = _rows(seen, len(batch))
        nothing = Prompts.none(len(batch), self.model.device)
        answer = self.model.decode(self._recall(batch, seen), rows, nothing, multimask=True)
        memory = self._memory(seen, answer.low, answer.object_score, from_prompt=False)
        for (masklet, _), one, row in zip(batch, self._answers(answer), memory, strict=True):
            masklet.tracked[frame] = one._replace(memory=row)

    def _recall(self, batch: Sequence[tuple[Masklet, Reading]], seen: ImageFeatures) -> Tensor:
        """The features of a frame in the light of what is remembered of N objects, whose readings
        have the same shape."""
        device, dtype = self.model.device, seen.s16.dtype
        memories = []
        for nth, (_, slot) in enumerate(batch[0][1].memories):
            stored = [masklet.at(read.memories[nth][0]).memory for masklet, read in batch]
            features = torch.cat([part for part in stored if part is not None]).to(device, dtype)
            position = sine_map(*features.shape[-2:], features.shape[1], device).to(dtype)
            memories.append((Memory(features, position), slot))
        pointers = []
        for nth in range(len(batch[0][1].pointers)):
            given = torch.cat([m.at(read.pointers[nth][0]).pointer for m, read in batch])
            distances = [float(read.pointers[nth][1]) for _, read in batch]
            pointers.append((given.to(device), distances))
        unit = float(batch[0][1].unit)
        return self.model.recall(seen, memories, pointers, max_pointer_distance=unit)

    def _memory(
        self, seen: ImageFeatures, low: Tensor, score: Tensor, *, from_prompt: bool
    ) -> list[Tensor]:
        """What N answers leave in memory, one [1, Cm, h, w] each, rounded as it is stored."""
        side = self.model.config.image_size
        full = F.interpolate(low.float(), size=(side, side), mode="bilinear", align_corners=False)
        memory = self.model.remember(seen, full, score, from_prompt=from_prompt)
        return _split(memory.features.to(torch.bfloat16))

    def _answers(self, answer: FramePrediction) -> list[Answer]:
        """N answers apart, without memory."""
        low = fill_holes(answer.low.float(), self.settings.fill_hole_area)
        parts = zip(_split(low), _split(answer.pointer), _split(answer.object_score), strict=True)
        return [Answer(*part, memory=None) for part in parts]

    def _window(self, *, backwards: bool) -> MemoryWindow:
        return replace(self.settings.window, backwards=backwards)


def squared_masks(masks: Tensor, side: int) -> Tensor:
    """Masks (float 0 or 1, [N, 1, H, W]) at the size of the model's input: bool [N, 1, S, S]."""
    resized = F.interpolate(
        masks, size=(side, side), mode="bilinear", align_corners=False, antialias=True
    )
    return resized >= 0.5


def _rows(seen: ImageFeatures, count: int) -> ImageFeatures:
    """One frame, seen by `count` objects."""
    return seen.rows(torch.zeros(count, dtype=torch.long, device=seen.s16.device))


def _split(batch: Tensor) -> list[Tensor]:
    """The rows of [N, ...] as [1, ...] each, that do not keep one another in memory."""
    return [row.clone() for row in batch.split(1)]


def _chunks(items: Sequence[T], most: int) -> list[Sequence[T]]:
    """At most `most` items each, in order."""
    return [items[start : start + most] for start in range(0, len(items), most)]

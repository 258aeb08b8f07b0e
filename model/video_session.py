"""A user and a video: prompt objects on any frame, follow them, correct, follow again.

A prompt is answered at once. Memory is made of the answer when the next frame is propagated, so a
mask may be refined click by click; prompts given while a propagation runs count from its next frame
on. Objects do not influence one another, in whatever order they are added.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.frames import Frames
from model.image_prompts import Numbers, read_prompts
from model.sam2 import ABSENT_LOGIT, SAM2
from model.types import Prompts
from model.video_features import FeatureWindow
from model.video_follow import Follower, squared_masks
from model.video_masklet import Masklet, Prompt
from model.video_masks import FrameMasks
from model.video_save import save_session
from model.video_settings import VideoSettings
from model.video_store import AnswerStore
from pipeline.errors import DataError


class VideoSession:
    """Made by `VideoPredictor.session`. Object ids are the caller's, any whole numbers.

    As a context manager, or by `close`, it gives its temporary file back.
    """

    def __init__(
        self,
        model: SAM2,
        frames: Frames,
        settings: VideoSettings,
        store: AnswerStore,
        masklets: dict[int, Masklet],
    ) -> None:
        self.model = model
        self.frames = frames
        self.settings = settings
        self.store = store
        self.masklets = masklets
        self._features = FeatureWindow(
            model, frames, settings.frames_at_once, settings.feature_budget
        )
        self._follower = Follower(model, settings, len(frames))

    @property
    def ids(self) -> list[int]:
        """The objects, ascending."""
        return sorted(self.masklets)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the video."""
        return self.frames.size

    def add_points(
        self, frame: int, object_id: int, points: Numbers, labels: Numbers, *, replace: bool = False
    ) -> FrameMasks:
        """Click on an object: points [P, 2] as x and y in pixels of the video, labels [P], 1 inside
        and 0 outside.

        They are added to the points already on that frame; with `replace` they take their place. On
        a tracked frame they correct the mask. Returns all objects on that frame. Raises DataError
        for points that are not finite or outside the picture, and for labels that do not fit.
        """
        places, kinds = np.asarray(points)[None], np.asarray(labels)[None]
        given = self._read(frame, object_id, places, kinds)
        return self.prompt(frame, object_id, given, replace=replace)

    def add_box(
        self,
        frame: int,
        object_id: int,
        box: Numbers,
        points: Numbers | None = None,
        labels: Numbers | None = None,
    ) -> FrameMasks:
        """Draw a box [4] around an object, as x0, y0, x1, y1 in pixels of the video, maybe with
        points; it takes the place of what was prompted on that frame. Otherwise as `add_points`."""
        places = None if points is None else np.asarray(points)[None]
        kinds = None if labels is None else np.asarray(labels)[None]
        given = self._read(frame, object_id, places, kinds, np.asarray(box)[None])
        return self.prompt(frame, object_id, given, replace=True)

    def add_mask(self, frame: int, object_id: int, mask: NDArray[Any] | Tensor) -> FrameMasks:
        """Show where an object is: bool [H, W] at the size of the video. It takes the place of what
        was prompted on that frame. An empty mask says that the object is not there."""
        given = torch.as_tensor(mask)
        if tuple(given.shape) != self.size:
            raise DataError(
                f"{self._where(frame, object_id)}: a mask of size {tuple(given.shape)} for a video "
                f"of size {self.size} (height, width)"
            )
        return self.prompt_mask(frame, object_id, given)

    @torch.inference_mode()
    def prompt(self, frame: int, object_id: int, given: Prompts, *, replace: bool) -> FrameMasks:
        """`add_points` and `add_box` for prompts of one object in pixels of the model's input."""
        self._check(frame)
        seen = self._features.of(frame, alone=True)
        masklet = self._masklet(object_id)
        before = masklet.prompts.get(frame, Prompt())
        points, labels = given.points, given.labels
        if not replace and before.points is not None and before.labels is not None:
            points = torch.cat([before.points, points], 1)
            labels = torch.cat([before.labels, labels], 1)
        answer = self._follower.refine(masklet, frame, seen, Prompts(points, labels))
        masklet.prompts[frame] = Prompt(points, labels)
        masklet.pending[frame] = answer
        return self.masks(frame)

    @torch.inference_mode()
    def prompt_mask(self, frame: int, object_id: int, mask: Tensor) -> FrameMasks:
        """`add_mask` for a mask of any size, [h, w]."""
        self._check(frame)
        if mask.ndim != 2 or not mask.numel():
            raise DataError(
                f"{self._where(frame, object_id)}: a mask of shape {tuple(mask.shape)}; "
                "expected [H, W]"
            )
        whole = (mask.to(self.model.device) > 0)[None, None].float()
        square = squared_masks(whole, self.model.config.image_size)
        seen = self._features.of(frame, alone=True)
        masklet = self._masklet(object_id)
        masklet.prompts[frame] = Prompt(mask=square)
        masklet.pending[frame] = self._follower.adopt(seen, square)[0]
        return self.masks(frame)

    def clear_prompts(self, frame: int, object_id: int) -> FrameMasks:
        """Take back all prompts for one object on one frame. What a propagation has made of them
        stays until it is propagated again."""
        self._check(frame)
        self._known(object_id).clear(frame)
        return self.masks(frame)

    def remove_object(self, object_id: int) -> list[FrameMasks]:
        """Forget an object; the other objects on the frames where it was prompted."""
        frames = sorted(self._known(object_id).prompts)
        self.masklets.pop(object_id).forget_all()
        return [self.masks(frame) for frame in frames] if self.masklets else []

    def reset(self) -> None:
        """Forget all objects."""
        self.masklets.clear()
        self.store.close()

    def masks(self, frame: int) -> FrameMasks:
        """What the session knows of a frame, without computing anything: the latest answers."""
        self._check(frame)
        quarter = self.model.config.image_size // 4
        device = self.model.device
        low = torch.full((len(self.ids), 1, quarter, quarter), ABSENT_LOGIT, device=device)
        for row, object_id in enumerate(self.ids):
            answer = self.masklets[object_id].latest(frame)
            if answer is not None:
                low[row] = answer.low[0]
        return FrameMasks(frame, self.ids, low, self.size, self.settings.exclusive)

    def first_prompted(self) -> int:
        """The earliest frame with a prompt of any object. Raises DataError where there is none."""
        self._settle()
        return min(self._conditioning())

    def propagate(
        self, start: int | None = None, frames: int | None = None, *, backwards: bool = False
    ) -> Iterator[FrameMasks]:
        """Follow all objects from frame `start` on, which by default is the first conditioning
        frame (backwards: the last).

        frames: how many, `start` included; by default all up to the end of the video. Raises
        DataError where there is nothing to follow.
        """
        self._settle()
        start, stop = self._range(start, frames, backwards)
        return self._propagate(range(start, stop, -1 if backwards else 1), backwards)

    def _propagate(self, order: range, backwards: bool) -> Iterator[FrameMasks]:
        for frame in order:
            self._settle()
            for masklet in self.masklets.values():
                if frame in masklet.conditioning:
                    masklet.passed[frame] = backwards
                    self._forget_around(masklet, frame)
            following = [
                self.masklets[object_id]
                for object_id in self.ids
                if self._is_followed(self.masklets[object_id], frame, backwards)
            ]
            if following:
                seen = self._features.of(frame, alone=self._is_prompted(frame))
                self._follower.follow(following, frame, seen, backwards=backwards)
                for masklet in following:
                    masklet.passed[frame] = backwards
            yield self.masks(frame)

    def close(self) -> None:
        """Forget everything and give the temporary file back."""
        self.reset()
        self._features.clear()

    def __enter__(self) -> VideoSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def save(self, path: str | Path) -> None:
        """Write prompts, memories and settings to a file that `VideoPredictor.resume` reads; the
        video and the weights are not in it."""
        save_session(path, self.model, self.frames, self.settings, self.masklets)

    @torch.inference_mode()
    def _settle(self) -> None:
        """Make memories of the prompts given since the last propagation."""
        frames = sorted({t for masklet in self.masklets.values() for t in masklet.pending})
        for frame in frames:
            prompted = [m for _, m in sorted(self.masklets.items()) if frame in m.pending]
            seen = self._features.of(frame, alone=True)
            answers = self._follower.remember(seen, [m.pending[frame] for m in prompted])
            for masklet, answer in zip(prompted, answers, strict=True):
                masklet.settle(frame, answer, lasting=self.settings.lasting_corrections)
                self._forget_around(masklet, frame)

    def _is_followed(self, masklet: Masklet, frame: int, backwards: bool) -> bool:
        """Is the object to be found again on this frame, or is what is known of it the answer?"""
        if not masklet.conditioning or frame in masklet.conditioning:
            return False
        return self.settings.anticipate or masklet.is_known(frame, backwards)

    def _is_prompted(self, frame: int) -> bool:
        return any(frame in masklet.prompts for masklet in self.masklets.values())

    def _forget_around(self, masklet: Masklet, frame: int) -> None:
        if self.settings.forget_around_prompts:
            window = self.settings.window
            masklet.forget_around(frame, window.stride * window.memories)

    def _range(self, start: int | None, frames: int | None, backwards: bool) -> tuple[int, int]:
        """First frame of a propagation, and the one after its last."""
        prompted = self._conditioning()
        if start is None:
            start = max(prompted) if backwards else min(prompted)
        self._check(start)
        if frames is not None and frames < 0:
            raise DataError(f"frames={frames}: expected how many frames to follow, 0 or more")
        most = start + 1 if backwards else len(self.frames) - start
        count = most if frames is None else min(frames, most)
        return start, start - count if backwards else start + count

    def _conditioning(self) -> list[int]:
        """The conditioning frames of all objects, each of which has one at least."""
        if not self.masklets:
            raise DataError("there is no object to follow: add points, a box or a mask first")
        bare = [object_id for object_id in self.ids if not self.masklets[object_id].conditioning]
        if bare:
            raise DataError(
                f"object {bare[0]} has no prompt left on any frame: "
                "prompt it, or remove it with remove_object"
            )
        return [t for masklet in self.masklets.values() for t in masklet.conditioning]

    def _read(
        self,
        frame: int,
        object_id: int,
        points: Numbers | None,
        labels: Numbers | None,
        boxes: Numbers | None = None,
    ) -> Prompts:
        """Prompts of one object, checked, in pixels of the model's input."""
        try:
            return read_prompts(
                points,
                labels,
                boxes,
                None,
                picture=self.size,
                side=self.model.config.image_size,
                device=self.model.device,
            )
        except DataError as error:
            # the reader counts objects, and there is one
            reason = str(error).replace(" of object 0", "")
            raise DataError(f"{self._where(frame, object_id)}: {reason}") from error

    def _masklet(self, object_id: int) -> Masklet:
        if object_id not in self.masklets:
            self.masklets[object_id] = Masklet(self.store)
        return self.masklets[object_id]

    def _known(self, object_id: int) -> Masklet:
        if object_id not in self.masklets:
            raise DataError(f"there is no object {object_id}; the objects are {self.ids}")
        return self.masklets[object_id]

    def _check(self, frame: int) -> None:
        if not 0 <= frame < len(self.frames):
            raise DataError(
                f"frame {frame} is not in the video, which has {len(self.frames)} frames "
                f"(0 to {len(self.frames) - 1})"
            )

    def _where(self, frame: int, object_id: int) -> str:
        return f"frame {frame}, object {object_id}"

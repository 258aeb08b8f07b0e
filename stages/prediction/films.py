"""A video without annotations: objects are said by prompts, on whatever frame, and followed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.frames import Frames, open_frames
from model.sam2 import ABSENT_LOGIT, SAM2
from model.video_predictor import VideoPredictor
from model.video_session import VideoSession
from pipeline.errors import DataError
from pipeline.pictures import read_rgb
from stages.prediction.answer import Answer, answer_of
from stages.prediction.prompts import Asking, arrange, numbers_of
from stages.prediction.sources import Film, pictures_in
from stages.prediction.spec import Prompt

RECENT = 8
"""Frames that stay in memory: those encoded together, and a prompted one."""


class FrameFiles:
    """A folder of pictures as a video: in natural order, upright."""

    def __init__(self, folder: Path) -> None:
        self.name = str(folder)
        self.files = pictures_in(folder)
        height, width = read_rgb(self.files[0], upright=True).shape[:2]
        self.size = (height, width)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> np.ndarray:
        if not 0 <= number < len(self.files):
            raise IndexError(f"frame {number} of {len(self.files)}")
        path = self.files[number]
        picture = read_rgb(path, upright=True)
        if picture.shape[:2] != self.size:
            raise DataError(
                f"{path} (frame {number}) is {picture.shape[1]}x{picture.shape[0]} pixels, the "
                f"first frame {self.size[1]}x{self.size[0]}; if these are pictures rather than "
                "frames of one video, add --images"
            )
        return picture


class _Recent:
    """Frames that are not read again by those who look at them soon after one another."""

    def __init__(self, frames: Frames) -> None:
        self.name, self.size = frames.name, frames.size
        self._length = len(frames)
        self._read = lru_cache(maxsize=RECENT)(frames.__getitem__)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, number: int) -> np.ndarray:
        return self._read(number)


def ask_film(
    model: SAM2, item: Film, prompts: Sequence[Prompt], threshold: float, *, backwards: bool
) -> Iterator[Answer]:
    """An answer for every frame; before an object's first prompt it has no mask.

    backwards: from its first prompt each object is followed to the start of the video as well.
    Raises DataError for prompts that do not fit the video, and for a broken frame.
    """
    files = FrameFiles(item.path) if item.path.is_dir() else None
    frames = _Recent(files or open_frames(item.path))
    asking = arrange(prompts, frames.size, str(item.path))
    if max(asking) >= len(frames):
        raise DataError(
            f"{item.path}: a prompt is on frame {max(asking)}, but there are {len(frames)} frames "
            f"(0 to {len(frames) - 1})"
        )
    numbers = numbers_of(asking)
    follow = _both_ways if backwards else _forwards
    for position, logits in enumerate(follow(VideoPredictor(model), frames, asking)):
        picture = frames[position]
        name = files.files[position].stem if files else f"{position:05d}"
        yield answer_of(name, picture, numbers, logits, threshold, asking.get(position))


def _forwards(predictor: VideoPredictor, frames: Frames, asking: Asking) -> Iterator[Tensor]:
    """For every frame logits [O, H, W]; objects are followed from their first prompts on."""
    with predictor.session(frames) as session:
        _prompt(session, asking)
        start = min(asking)
        absent = torch.full((len(session.ids), *frames.size), ABSENT_LOGIT)
        for _ in range(start):
            yield absent
        for found in session.propagate(start):
            yield found.logits[:, 0]


def _both_ways(predictor: VideoPredictor, frames: Frames, asking: Asking) -> Iterator[Tensor]:
    """As `_forwards`, and then from their first prompts back to the start.

    Objects that are prompted first on different frames have a session each: what was found of one
    on the way forwards shall not be lost when another is followed back over it.
    """
    with ExitStack() as stack:
        sessions: list[VideoSession] = []
        for start, group in _by_first_frame(asking).items():
            session = stack.enter_context(predictor.session(frames))
            _prompt(session, group)
            deque(session.propagate(start), maxlen=0)
            deque(session.propagate(start, backwards=True), maxlen=0)
            sessions.append(session)
        ids = [number for session in sessions for number in session.ids]
        order = sorted(range(len(ids)), key=ids.__getitem__)
        for position in range(len(frames)):
            logits = torch.cat([session.masks(position).logits[:, 0] for session in sessions])
            yield logits[order]


def _prompt(session: VideoSession, asking: Asking) -> None:
    for frame, objects in asking.items():
        for number, asked in objects.items():
            points, labels = (asked.points, asked.labels) if len(asked.points) else (None, None)
            if asked.mask is not None:
                session.add_mask(frame, number, asked.mask)
            elif asked.box is not None:
                session.add_box(frame, number, asked.box, points, labels)
            else:
                session.add_points(frame, number, asked.points, asked.labels)


def _by_first_frame(asking: Asking) -> dict[int, Asking]:
    """The same prompts, apart by the frame on which an object is prompted first."""
    first: dict[int, int] = {}
    for frame, objects in asking.items():
        for number in objects:
            first.setdefault(number, frame)
    return {
        start: {
            frame: {n: asked for n, asked in objects.items() if first[n] == start}
            for frame, objects in asking.items()
        }
        for start in sorted(set(first.values()))
    }

"""One object through a video: how it was prompted and what is remembered of it, frame by frame."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor

from model.memory_choice import MemoryWindow, Reading, select_reading
from model.video_store import Answer, AnswerStore


class Prompt(NamedTuple):
    """What the user has given on one frame: points (a box is two of them) or a mask."""

    points: Tensor | None = None
    """float [1, P, 2], x and y in pixels of the model's input."""
    labels: Tensor | None = None
    """int [1, P], as in `Prompts`."""
    mask: Tensor | None = None
    """Bool [1, 1, S, S]."""


class Masklet:
    """Prompts and answers of one object. Objects know nothing of one another."""

    def __init__(self, store: AnswerStore) -> None:
        self.prompts: dict[int, Prompt] = {}
        self.pending = store.shelf()
        """Answers to prompts that the user may still refine: no memory has been made of them."""
        self.conditioning = store.shelf()
        self.tracked = store.shelf()
        self.passed: dict[int, bool] = {}
        """Frames that a propagation has answered, and whether it went backwards: prompts there are
        corrections."""

    def latest(self, frame: int) -> Answer | None:
        """The answer that the user saw last."""
        for shelf in (self.pending, self.conditioning, self.tracked):
            if frame in shelf:
                return shelf[frame]
        return None

    def at(self, frame: int) -> Answer:
        """The answer on a frame that is remembered."""
        return (self.conditioning if frame in self.conditioning else self.tracked)[frame]

    def reading(self, frame: int, window: MemoryWindow, frame_count: int) -> Reading:
        """What `frame` reads. Conditioning frames come in the order of the video, in whatever order
        they were prompted."""
        prompted = sorted(self.conditioning)
        return select_reading(frame, prompted, self.tracked, window, frame_count)

    def is_known(self, frame: int, backwards: bool) -> bool:
        """Is anything remembered from before `frame`, in the direction of tracking?"""

        def earlier(others: Iterable[int]) -> bool:
            return any(t > frame if backwards else t < frame for t in others)

        return earlier(self.conditioning) or earlier(self.tracked)

    def settle(self, frame: int, answer: Answer, *, lasting: bool) -> None:
        """Remember the answer to a prompt. lasting: corrections condition later frames too."""
        self.pending.discard(frame)
        if lasting or frame in self.conditioning or frame not in self.passed:
            self.conditioning[frame] = answer
            self.tracked.discard(frame)
        else:
            self.tracked[frame] = answer

    def clear(self, frame: int) -> None:
        """Take back what was prompted on `frame`. Where a memory was made of it, that stays as if
        it had been tracked, until the frame is tracked again."""
        self.prompts.pop(frame, None)
        self.pending.discard(frame)
        if frame in self.conditioning:
            self.tracked[frame] = self.conditioning[frame]
            del self.conditioning[frame]
            self.passed.pop(frame, None)

    def forget_around(self, frame: int, reach: int) -> None:
        """Forget what was tracked up to `reach` frames before and after `frame`."""
        for t in range(frame - reach, frame + reach + 1):
            self.tracked.discard(t)

    def forget_before(self, frame: int) -> None:
        """Forget what was tracked before `frame`; prompted frames stay."""
        for t in [t for t in self.tracked if t < frame]:
            del self.tracked[t]

    def forget_all(self) -> None:
        """Give the store its room back."""
        for shelf in (self.pending, self.conditioning, self.tracked):
            shelf.clear()
        self.prompts.clear()
        self.passed.clear()

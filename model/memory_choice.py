"""Which earlier frames does a frame attend to? Pure integers, no tensors.

A clip's memory has two shelves: conditioning frames (prompted by the user) and tracked frames
(everything else that has been processed). Source of the rules: the SAM 2 reference model.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, kw_only=True)
class MemoryWindow:
    """How far memory reaches. The defaults are those of training; inference turns `future_pointers`
    off."""

    memories: int = 7
    """Slots of mask memory: one shared by the conditioning frames, the others for the most recent
    frames."""
    pointers: int = 16
    """Object pointers reach back `pointers - 1` frames; less in a shorter video."""
    stride: int = 1
    """Keep every stride-th frame as recent memory (the nearest one always counts)."""
    max_conditioning: int | None = None
    """At most this many conditioning frames, the nearest ones; None takes all."""
    future_pointers: bool = True
    """Conditioning frames ahead of the frame lend their pointers too."""
    backwards: bool = False
    """The video is tracked from its end to its beginning."""

    def pointer_reach(self, frame_count: int) -> int:
        """The largest distance, in frames, from which a tracked pointer is taken; also the unit of
        pointer positions."""
        return min(self.pointers, frame_count) - 1

    @property
    def memory_reach(self) -> int:
        """The largest distance, in frames, from which the mask memory of a tracked frame is
        taken."""
        return 1 + (self.memories - 1) * self.stride


class Reading(NamedTuple):
    """What one frame reads of the memory bank."""

    memories: tuple[tuple[int, int], ...]
    """Frames whose mask memory is read, each with its row of `maskmem_tpos_enc`."""
    pointers: tuple[tuple[int, int], ...]
    """Frames whose object pointer is read, each with its distance in frames."""
    unit: int
    """The distance that counts as 1 in the positions of pointers."""

    @property
    def shape(self) -> tuple[tuple[int, ...], int]:
        """Objects whose readings have the same shape can be one batch, whatever frames they read:
        the rows of the mask memories, and how many pointers there are."""
        return tuple(row for _, row in self.memories), len(self.pointers)


def select_reading(
    frame: int,
    conditioning: Sequence[int],
    tracked: Collection[int],
    window: MemoryWindow,
    frame_count: int,
) -> Reading:
    """`select_memories` and `select_pointers` of one frame."""
    return Reading(
        memories=tuple(select_memories(frame, conditioning, tracked, window)),
        pointers=tuple(select_pointers(frame, conditioning, tracked, window, frame_count)),
        # A single picture that is corrected reads its own pointer, at distance 0.
        unit=max(1, window.pointer_reach(frame_count)),
    )


def nearest_conditioning(frame: int, conditioning: Sequence[int], limit: int | None) -> list[int]:
    """The conditioning frames `frame` attends to: the nearest before, the nearest at or after, then
    the nearest left.

    >>> nearest_conditioning(9, [0, 4, 12, 19], limit=3)
    [4, 12, 0]
    """
    if limit is None or len(conditioning) <= limit:
        return list(conditioning)
    before = max((t for t in conditioning if t < frame), default=None)
    after = min((t for t in conditioning if t >= frame), default=None)
    chosen = [t for t in (before, after) if t is not None]
    rest = sorted((t for t in conditioning if t not in chosen), key=lambda t: abs(t - frame))
    return (chosen + rest)[:limit]


def select_memories(
    frame: int, conditioning: Sequence[int], tracked: Collection[int], window: MemoryWindow
) -> list[tuple[int, int]]:
    """The frames whose mask memory `frame` attends to, each with its row of `maskmem_tpos_enc`.

    Conditioning frames share the last row; a recent frame at distance d takes row d - 1. Frames
    that were never processed are skipped; a conditioning frame left out by `max_conditioning` may
    still count as recent.

    >>> select_memories(5, [0], {1, 2, 3, 4}, MemoryWindow())
    [(0, 6), (1, 3), (2, 2), (3, 1), (4, 0)]
    """
    chosen = nearest_conditioning(frame, conditioning, window.max_conditioning)
    left_out = set(conditioning) - set(chosen)
    wanted = [
        (_recent_frame(frame, distance, window), distance - 1)
        for distance in range(window.memories - 1, 0, -1)
    ]
    return [(t, window.memories - 1) for t in chosen] + [
        (t, row) for t, row in wanted if t in tracked or t in left_out
    ]


def select_pointers(
    frame: int,
    conditioning: Sequence[int],
    tracked: Collection[int],
    window: MemoryWindow,
    frame_count: int,
) -> list[tuple[int, int]]:
    """The frames whose object pointer `frame` attends to, each with its distance in frames.

    The distance to a conditioning frame is signed (negative when it lies ahead); other frames lie
    behind.

    >>> select_pointers(2, [0, 3], {1}, MemoryWindow(), frame_count=4)
    [(0, 2), (3, -1), (1, 1)]
    """
    sign = -1 if window.backwards else 1
    chosen = nearest_conditioning(frame, conditioning, window.max_conditioning)
    left_out = set(conditioning) - set(chosen)
    prompted = [(t, (frame - t) * sign) for t in chosen]
    if not window.future_pointers:
        prompted = [(t, distance) for t, distance in prompted if distance >= 0]
    behind = [(frame - d * sign, d) for d in range(1, window.pointer_reach(frame_count) + 1)]
    return prompted + [(t, distance) for t, distance in behind if t in tracked or t in left_out]


def frames_read(
    order: Sequence[int], initial: int, conditioning: Collection[int], window: MemoryWindow
) -> set[int]:
    """The frames whose mask memory is read at least once when frames are processed in `order`.

    The first `initial` frames of `order` are prompted and read nothing. Memory of the others need
    not be encoded.

    >>> sorted(frames_read([0, 1, 2], 1, {0}, MemoryWindow()))
    [0, 1]
    """
    read: set[int] = set()
    for position in range(initial, len(order)):
        done = order[:position]
        prompted = [t for t in done if t in conditioning]
        tracked = [t for t in done if t not in conditioning]
        read.update(t for t, _ in select_memories(order[position], prompted, tracked, window))
    return read


def _recent_frame(frame: int, distance: int, window: MemoryWindow) -> int:
    """The frame in recent slot `distance` (1 is the nearest); others lie on the grid of multiples
    of the stride."""
    stride = window.stride
    if window.backwards:
        if distance == 1:
            return frame + 1
        return -(-(frame + 2) // stride) * stride + (distance - 2) * stride
    if distance == 1:
        return frame - 1
    return (frame - 2) // stride * stride - (distance - 2) * stride

"""Which frames a frame attends to, as tables of integers."""

from __future__ import annotations

import pytest

from model.memory_choice import (
    MemoryWindow,
    frames_read,
    nearest_conditioning,
    select_memories,
    select_pointers,
)

TRAINING = MemoryWindow()


@pytest.mark.parametrize(
    ("frame", "limit", "expected"),
    [
        (2, None, [0, 5, 9, 14]),
        (2, 4, [0, 5, 9, 14]),
        (2, 2, [0, 5]),
        (9, 2, [5, 9]),
        (19, 2, [14, 9]),
        (6, 3, [5, 9, 0]),
        (6, 1, [5]),
    ],
)
def test_nearest_prompted_frames(frame: int, limit: int | None, expected: list[int]) -> None:
    assert nearest_conditioning(frame, [0, 5, 9, 14], limit) == expected


@pytest.mark.parametrize(
    ("frame", "prompted", "tracked", "window", "expected"),
    [
        (1, [0], [], TRAINING, [(0, 6)]),
        (2, [0], [1], TRAINING, [(0, 6), (1, 0)]),
        (9, [0], range(1, 9), TRAINING, [(0, 6), *((9 - d, d - 1) for d in range(6, 0, -1))]),
        (3, [0, 4], [1, 2], TRAINING, [(0, 6), (4, 6), (1, 1), (2, 0)]),
        # a prompted frame beyond the limit is still a recent one
        (3, [0, 2, 4], [1], MemoryWindow(max_conditioning=1), [(2, 6), (0, 2), (1, 1)]),
        (10, [0], range(1, 10), MemoryWindow(stride=3), [(0, 6), (3, 2), (6, 1), (9, 0)]),
        (4, [7], [5, 6], MemoryWindow(backwards=True), [(7, 6), (6, 1), (5, 0)]),
    ],
)
def test_memories(
    frame: int,
    prompted: list[int],
    tracked: list[int],
    window: MemoryWindow,
    expected: list[tuple[int, int]],
) -> None:
    chosen = select_memories(frame, prompted, list(tracked), window)
    assert chosen == [(t, row) for t, row in expected if t in prompted or t in tracked]


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (TRAINING, [(0, 3), (5, -2), (2, 1), (1, 2)]),
        (MemoryWindow(future_pointers=False), [(0, 3), (2, 1), (1, 2)]),
        (MemoryWindow(pointers=2), [(0, 3), (5, -2), (2, 1)]),
        (MemoryWindow(backwards=True), [(0, -3), (5, 2)]),
    ],
)
def test_pointers(window: MemoryWindow, expected: list[tuple[int, int]]) -> None:
    assert select_pointers(3, [0, 5], [1, 2], window, frame_count=8) == expected


def test_a_short_video_has_a_short_reach() -> None:
    assert TRAINING.pointer_reach(4) == 3
    assert TRAINING.pointer_reach(400) == 15


@pytest.mark.parametrize(
    ("order", "initial", "prompted", "expected"),
    [
        ([0], 1, {0}, set()),
        ([0, 1], 1, {0}, {0}),
        ([0, 3, 1, 2], 2, {0, 3}, {0, 3, 1}),
        (range(12), 1, {0}, set(range(11))),
        # prompted on the way: frames far behind it are read before, those after it never
        ([0, 2, 1], 2, {0, 2}, {0, 2}),
    ],
)
def test_the_last_memory_is_read_by_nobody(
    order: list[int], initial: int, prompted: set[int], expected: set[int]
) -> None:
    assert frames_read(list(order), initial, prompted, TRAINING) == expected

"""Whose fault it is that a job stands still, told from what its ranks last said."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.heartbeat import Beat

SILENT_SECONDS = 30.0
"""A rank whose heartbeat is this old does not run any more."""


@dataclass(frozen=True)
class Hang:
    """What stands still."""

    rank: int
    """The one to blame; the one that noticed where nobody is."""
    message: str


def find_hang(own: Beat, others: Mapping[int, Beat], size: int) -> Hang | None:
    """Why the rank of `own`, which is overdue, does not get on; None while it may wait.

    others: the last words of the other ranks; one that has not begun has none. A rank outside a
    collective is itself to blame. One inside waits for whoever has not come to it: that is a hang
    when the other is overdue itself or does not run, and patience otherwise.
    """
    if not own.collective:
        return Hang(own.rank, f"hangs: {own.text}")
    present = [
        beat for beat in others.values() if (beat.number, bool(beat.collective)) >= (own.number, 1)
    ]
    if len(present) == size - 1:
        return Hang(own.rank, f"all {size} ranks are in a collective that does not end: {own.text}")
    missing = [rank for rank in range(size) if rank != own.rank and others.get(rank) not in present]
    for rank in missing:
        beat = others.get(rank)
        if beat is None:
            return Hang(rank, f"has not begun; rank {own.rank} waits for it: {own.text}")
        age = time.time() - beat.time
        if age > SILENT_SECONDS:
            return Hang(rank, f"has given no sign of life for {age:.0f} s; it was at {beat.text}")
        if beat.overdue:
            return Hang(rank, f"hangs: {beat.text}")
    return None

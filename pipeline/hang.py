"""Whose fault it is that a job stands still, told from what its ranks last said."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.heartbeat import Beat, read_beat

SILENT_SECONDS = 30.0
"""A rank that has said nothing new for so long does not run any more."""


@dataclass(frozen=True)
class Peer:
    """What another rank said last."""

    beat: Beat
    silent: float = 0.0
    """Seconds since it was first seen to say so, by our own clock: that of another machine may be
    wrong."""


class Peers:
    """The other ranks of this life of the job."""

    def __init__(self, folder: Path, rank: int, size: int) -> None:
        """folder: the stage's. What lies there already is of an earlier life, or said anew soon."""
        self.folder = folder
        self.others = [other for other in range(size) if other != rank]
        self._before = self._read()
        self._first_seen: dict[Beat, float] = {}

    def look(self) -> dict[int, Peer]:
        """What those who have said something in this life said last."""
        now, found = time.monotonic(), self._read()
        said = {rank: beat for rank, beat in found.items() if beat != self._before.get(rank)}
        self._first_seen = {beat: self._first_seen.get(beat, now) for beat in said.values()}
        return {rank: Peer(beat, now - self._first_seen[beat]) for rank, beat in said.items()}

    def _read(self) -> dict[int, Beat]:
        found = {rank: read_beat(self.folder, rank) for rank in self.others}
        return {rank: beat for rank, beat in found.items() if beat is not None}


@dataclass(frozen=True)
class Hang:
    """What stands still."""

    rank: int
    """The one to blame; the one that noticed where nobody is."""
    message: str


def find_hang(own: Beat, others: Mapping[int, Peer], size: int) -> Hang | None:
    """Why the rank of `own`, which is overdue, does not get on; None while it may wait.

    others: the last words of the other ranks; one that has not begun has none. A rank outside a
    collective is itself to blame. One inside waits for whoever has not come to it: that is a hang
    when the other is overdue itself or does not run, and patience otherwise.
    """
    if not own.collective:
        return Hang(own.rank, f"hangs: {own.text}")
    present = {
        rank
        for rank, peer in others.items()
        if (peer.beat.number, bool(peer.beat.collective)) >= (own.number, 1)
    }
    if len(present) == size - 1:
        return Hang(own.rank, f"all {size} ranks are in a collective that does not end: {own.text}")
    for rank in sorted(set(range(size)) - present - {own.rank}):
        peer = others.get(rank)
        if peer is None:
            return Hang(rank, f"has not begun; rank {own.rank} waits for it: {own.text}")
        if peer.silent > SILENT_SECONDS:
            return Hang(
                rank,
                f"has given no sign of life for {peer.silent:.0f} s; it was at {peer.beat.text}",
            )
        if peer.beat.overdue:
            return Hang(rank, f"hangs: {peer.beat.text}")
    return None

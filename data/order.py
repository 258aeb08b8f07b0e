"""The order of samples as arithmetic: which sample stands at a place is computed, never stored.

So a run starts at any step at once, any number of ranks and workers see the same order, and
nothing of it has to be in a checkpoint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

BLOCK = 1000
"""Places in which shares are kept exactly: a weight of 0.152 gives 152 of every 1000."""

ROUNDS = 4
MASK64 = (1 << 64) - 1


class Turn(NamedTuple):
    """Whose turn a place is, and how many turns it has had in the numbering below."""

    member: int
    number: int


class Permutation:
    """A keyed permutation of 0 .. size-1: a four-round Feistel network, walked until it lands
    inside."""

    def __init__(self, size: int, *key: int | str) -> None:
        self.size = size
        bits = max(2, (size - 1).bit_length())
        self._half = (bits + 1) // 2
        self._low = (1 << self._half) - 1
        digest = hashlib.sha256(repr(key).encode()).digest()
        self._keys = [int.from_bytes(digest[8 * k : 8 * k + 8], "big") for k in range(ROUNDS)]

    def __getitem__(self, place: int) -> int:
        """Where `place` goes."""
        if not 0 <= place < self.size:
            raise IndexError(f"{place} is not in 0 .. {self.size - 1}")
        while True:
            left, right = place >> self._half, place & self._low
            for key in self._keys:
                left, right = right, left ^ (_mix(right ^ key) & self._low)
            place = (left << self._half) | right
            if place < self.size:
                return place


class Turns:
    """Members take turns in given shares: in every block of 1000 places the shares are exact, the
    order is shuffled.

    `turn(place).number` counts the turns of a member from 0 without gaps over whole blocks, so
    that it can index an endless sequence of epochs.
    """

    def __init__(self, weights: Sequence[float], *key: int | str) -> None:
        self.quotas = _quotas(weights)
        self._key = key

    def turn(self, place: int) -> Turn:
        """Who is at `place`."""
        if len(self.quotas) == 1:
            return Turn(0, place)
        block, inside = divmod(place, BLOCK)
        rank = Permutation(BLOCK, *self._key, block)[inside]
        for member, quota in enumerate(self.quotas):
            if rank < quota:
                return Turn(member, block * quota + rank)
            rank -= quota
        raise AssertionError("the quotas of a block do not add up")


def sample_at(count: int, size: int, *key: int | str) -> int:
    """The sample that is drawn as number `count`: epoch after epoch, each a permutation of 0 ..
    size-1."""
    epoch, place = divmod(count, size)
    return Permutation(size, *key, epoch)[place]


def _quotas(weights: Sequence[float]) -> list[int]:
    """Places of a block for each member: by largest remainder, at least one each."""
    total = sum(weights)
    exact = [BLOCK * weight / total for weight in weights]
    quotas = [max(1, int(share)) for share in exact]
    by_remainder = sorted(range(len(weights)), key=lambda i: (quotas[i] - exact[i], i))
    for i in by_remainder[: max(0, BLOCK - sum(quotas))]:
        quotas[i] += 1
    while sum(quotas) > BLOCK:
        quotas[quotas.index(max(quotas))] -= 1
    return quotas


def _mix(value: int) -> int:
    """splitmix64's finaliser: every input bit reaches every output bit."""
    value = (value + 0x9E3779B97F4A7C15) & MASK64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK64
    return value ^ (value >> 31)

"""The arithmetic of the order: bijections, exact shares, every sample once an epoch."""

from collections import Counter
from itertools import pairwise

import pytest

from data.order import BLOCK, Permutation, Turns, sample_at
from pipeline.cache import ByteCache


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 17, 100, 1000, 1025])
def test_permutation_is_one(size):
    order = Permutation(size, 3, "x")
    assert sorted(order[k] for k in range(size)) == list(range(size))


def test_permutations_differ_by_key_and_look_shuffled():
    a, b = Permutation(1000, 0), Permutation(1000, 1)
    first, second = [a[k] for k in range(1000)], [b[k] for k in range(1000)]
    assert sum(x == y for x, y in zip(first, second, strict=True)) < 10
    assert 300 < sum(x < y for x, y in pairwise(first)) < 700
    assert len({Permutation(5, key)[0] for key in range(60)}) == 5


def test_eleven_million_places_cost_nothing():
    order = Permutation(11_000_000, 5)
    seen = {order[k] for k in range(5_000_000, 5_000_500)}
    assert len(seen) == 500
    assert max(seen) < 11_000_000


def test_every_epoch_holds_every_sample_once():
    epochs = [[sample_at(e * 12 + k, 12, "key") for k in range(12)] for e in range(3)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_turns_keep_shares_exactly_and_number_without_gaps():
    turns = Turns([0.152, 0.848], 9)
    found = [turns.turn(place) for place in range(2 * BLOCK)]
    counts = Counter(turn.member for turn in found)
    assert counts == {0: 304, 1: 1696}
    for member in (0, 1):
        assert sorted(t.number for t in found if t.member == member) == list(range(counts[member]))
    assert any(turn.member == 0 for turn in found[:60])  # mixed, not in blocks


def test_tiny_weights_still_get_a_turn():
    assert Turns([1e-9, 1.0]).quotas == [1, BLOCK - 1]
    assert sum(Turns([1.0] * 7).quotas) == BLOCK
    assert sum(Turns([1e-9] * 5 + [1.0]).quotas) == BLOCK


def test_cache_keeps_within_its_bytes():
    cache = ByteCache(80)
    made = []

    def get(key):
        return cache.get(key, lambda: made.append(key) or key, lambda _: 10)

    for key in range(8):
        get(key)
    get(0)
    get(8)  # pushes out 1, the one used longest ago
    get(0)
    get(1)
    assert made == [0, 1, 2, 3, 4, 5, 6, 7, 8, 1]
    assert cache.used == 80
    cache.put("large", "x", 11)
    assert cache.peek("large") is None
    cache.clear()
    assert (cache.used, cache.peek(0)) == (0, None)

"""A cache of decoded things, bounded in bytes: what is used least recently goes first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")


class ByteCache:
    """Values by key, up to `limit` bytes in all."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._entries: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], T], size: Callable[[T], int]) -> T:
        """The value of `key`, made on the first call. `size` gives its bytes."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                self._entries.move_to_end(key)
                return entry[0]
        value = make()
        self.put(key, value, size(value))
        return value

    def clear(self) -> None:
        """Forget everything, as when files have changed."""
        with self._lock:
            self._entries.clear()
            self.used = 0

    def peek(self, key: Hashable) -> Any | None:
        """The value of `key`, or None."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            self._entries.move_to_end(key)
            return entry[0]

    def put(self, key: Hashable, value: Any, size: int) -> None:
        """Keep `value`, which takes `size` bytes; one that is larger than an eighth of the cache
        is not kept."""
        if size > self.limit // 8:
            return
        with self._lock:
            if key in self._entries:
                self.used -= self._entries.pop(key)[1]
            self._entries[key] = (value, size)
            self.used += size
            while self.used > self.limit:
                _, (_, freed) = self._entries.popitem(last=False)
                self.used -= freed


SHARED = ByteCache(256 << 20)
"""One per process, for all data sets: 256 MB hold every picture of a small data set, and enough of
a large one for the few looks a sample takes at the same file."""

"""What one thread hands to another without ever waiting for it.

Training puts things in; a thread takes them out and writes them. While the taker is slow or fails, things wait
in a bounded list: when it is full, every second one of those that may be missed is dropped, so that an old curve
becomes coarse rather than short.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

ROOM = 10_000
"""Things that may wait; a row of metrics takes about 2 kB of memory."""
RETRY_SECONDS = 2.0
logger = logging.getLogger(__name__)


class Outbox:
    """Things on their way to `take`, which is called by a thread of its own.

    take: gets the things in order; when it raises, they are offered again two seconds later.
    """

    def __init__(self, name: str, take: Callable[[list[Any]], None], room: int = ROOM) -> None:
        self.name, self.dropped = name, 0
        self._take, self._room = take, room
        self._waiting: list[tuple[Any, bool]] = []
        self._changed = threading.Condition()
        self._closing = self._complained = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, thing: Any, *, keep: bool = False) -> None:
        """Hand `thing` over and return at once. keep: never dropped."""
        with self._changed:
            self._waiting.append((thing, keep))
            self._thin()
            self._changed.notify()

    def close(self, wait_seconds: float) -> bool:
        """Take nothing more; whether all was taken within `wait_seconds`."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(wait_seconds)
        return not self._thread.is_alive() and not self._waiting

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closing:
                    self._changed.wait()
                batch, self._waiting = self._waiting, []
                closing = self._closing
            try:
                if batch:
                    self._take([thing for thing, _ in batch])
            except Exception as error:  # whatever ails a disk or a library: it waits
                self._complain(error)
                with self._changed:
                    self._waiting = batch + self._waiting
                    self._thin()
                    if not closing:
                        self._changed.wait_for(lambda: self._closing, RETRY_SECONDS)
            if closing:
                return

    def _thin(self) -> None:
        if len(self._waiting) <= self._room:
            return
        before, thinned, drop = len(self._waiting), [], False
        for thing, keep in self._waiting:
            drop = not drop and not keep
            if not drop:
                thinned.append((thing, keep))
        self._waiting = thinned
        self.dropped += before - len(thinned)

    def _complain(self, error: BaseException) -> None:
        if not self._complained:
            self._complained = True
            logger.warning("%s: what is recorded waits in memory (%s)", self.name, error)

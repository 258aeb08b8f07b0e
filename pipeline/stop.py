"""Being asked to stop: a signal, a stop file or the time limit sets a flag, and work ends at the
next step boundary.

Nothing happens inside a signal handler but setting the flag (law 3). Long-running code calls
`check_stop` between two pieces of work; the training loop agrees over its ranks first and saves a
checkpoint. SIGUSR2, SLURM's word before a time limit or preemption, and the time limit itself also
say that the job wants to be started again.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

T = TypeVar("T")
MARGIN_FACTOR = 1.5
"""The next step, save and validation may take so much longer than the longest of the last ones."""
EXIT_SECONDS = 5.0
"""For what comes after the save: closing files, telling the scheduler."""
WORKER_SECONDS = 30.0
"""How long a worker process goes on after SIGTERM."""
UNMEASURED_SAVE = 30.0
"""Seconds a save is thought to take before there was one."""


class StopRequested(Exception):  # noqa: N818 - not an error: what was asked for
    """The work ended early because it was asked to; running it again continues it."""

    def __init__(self, reason: str = "", *, requeue: bool = False) -> None:
        """requeue: whether the job wants to be started again by itself."""
        super().__init__(reason)
        self.requeue = requeue


class _Flag:
    def __init__(self) -> None:
        self.reason = ""
        self.signum = 0
        self.requeue = False
        self.deadline = float("inf")


_flag = _Flag()


def request_stop(reason: str, signum: int = 0, *, requeue: bool = False) -> None:
    """Ask this process to stop at its next step boundary. The first reason stays."""
    if not _flag.reason:
        _flag.reason, _flag.signum, _flag.requeue = reason, signum, requeue


def stop_reason() -> str:
    """Why this process should stop; empty while it should not."""
    return _flag.reason


def stop_signal() -> int:
    """The number of the signal that asked for the stop; 0 where none did."""
    return _flag.signum


def stop_requeues() -> bool:
    """Whether what asked for the stop wants the job started again afterwards."""
    return _flag.requeue


def check_stop() -> None:
    """Raise StopRequested when this process has been asked to stop."""
    if _flag.reason:
        raise StopRequested(_flag.reason, requeue=_flag.requeue)


def until_stopped(items: Iterable[T]) -> Iterator[T]:
    """`items`, with `check_stop` before each."""
    for item in items:
        check_stop()
        yield item


def reset_stop() -> None:
    """Forget an earlier request."""
    _flag.reason, _flag.signum, _flag.requeue = "", 0, False


def set_deadline(seconds: float | None) -> None:
    """The scheduler ends this process in so many seconds; None: nobody does."""
    _flag.deadline = float("inf") if seconds is None else time.monotonic() + seconds


class Margin:
    """How long before the time limit work has to stop, measured from what it did lately."""

    def __init__(self) -> None:
        self._seen: dict[str, deque[float]] = {}

    def add(self, what: str, seconds: float) -> None:
        """A step, a save or a validation took so long; the last hundred of each count."""
        self._seen.setdefault(what, deque(maxlen=100)).append(seconds)

    @property
    def needed(self) -> float:
        """What a stop takes, as far as it was measured: one more step, the end of a save that is
        under way, and another save."""
        return MARGIN_FACTOR * (self._longest("step") + 2 * self._longest("save"))

    @property
    def seconds(self) -> float:
        """Enough for that and one more of everything else."""
        hooks = sum(max(seen) for what, seen in self._seen.items() if what not in ("step", "save"))
        save = 0.0 if "save" in self._seen else UNMEASURED_SAVE
        return self.needed + MARGIN_FACTOR * (hooks + save) + EXIT_SECONDS

    def _longest(self, what: str) -> float:
        return max(self._seen.get(what, [0.0]))

    def check(self) -> None:
        """Request the stop when the time limit is nearer than that."""
        left = _flag.deadline - time.monotonic()
        if left < self.seconds:
            request_stop(
                f"the time limit is {max(left, 0):.0f} s away, a step and a save take up to "
                f"{self.seconds:.0f} s",
                requeue=True,
            )


def _on_signal(signum: int, frame: FrameType | None) -> None:
    if _flag.reason and signum == signal.SIGINT:
        raise KeyboardInterrupt  # asked a second time: do not wait for the step boundary
    requeue = signum == signal.SIGUSR2
    request_stop(f"received {signal.Signals(signum).name}", signum, requeue=requeue)


def leave_signals_to_parent() -> None:
    """In a worker process: go on when a signal reaches every process of the job, as the terminal's
    and SLURM's do. The parent still needs us to come to its step boundary, and ends us then.

    SIGTERM ends this process after a while, for a parent that asks this one alone.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_later)


def _end_later(signum: int, frame: FrameType | None) -> None:
    timer = threading.Timer(WORKER_SECONDS, os._exit, (128 + signum,))
    timer.daemon = True
    timer.start()


@contextmanager
def signals_request_stop(*signals: signal.Signals) -> Iterator[None]:
    """Let `signals` (SIGTERM and SIGINT by default) set the flag inside the block.

    Outside the main thread, where Python cannot catch signals, the block runs as it is.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    chosen = signals or (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, _on_signal) for number in chosen}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

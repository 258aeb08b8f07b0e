"""Being asked to stop: a signal or a stop file sets a flag, and work ends at the next step
boundary.

Nothing happens inside a signal handler but setting the flag (law 3). Long-running code calls
`check_stop` between two pieces of work; the training loop agrees over its ranks first and saves a
checkpoint.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequested(Exception):  # noqa: N818 - not an error: what was asked for
    """The work ended early because it was asked to; running it again continues it."""


class _Flag:
    def __init__(self) -> None:
        self.reason = ""
        self.signum = 0


_flag = _Flag()


def request_stop(reason: str, signum: int = 0) -> None:
    """Ask this process to stop at its next step boundary. The first reason stays."""
    if not _flag.reason:
        _flag.reason, _flag.signum = reason, signum


def stop_reason() -> str:
    """Why this process should stop; empty while it should not."""
    return _flag.reason


def stop_signal() -> int:
    """The number of the signal that asked for the stop; 0 where none did."""
    return _flag.signum


def check_stop() -> None:
    """Raise StopRequested when this process has been asked to stop."""
    if _flag.reason:
        raise StopRequested(_flag.reason)


def reset_stop() -> None:
    """Forget an earlier request."""
    _flag.reason, _flag.signum = "", 0


def _on_signal(signum: int, frame: FrameType | None) -> None:
    if _flag.reason and signum == signal.SIGINT:
        raise KeyboardInterrupt  # asked a second time: do not wait for the step boundary
    request_stop(f"received {signal.Signals(signum).name}", signum)


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

"""Many independent calls in processes of their own, a bounded number waiting at a time."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from pipeline.errors import StageError
from pipeline.stop import leave_signals_to_parent

R = TypeVar("R")
WAITING = 4
"""Calls handed to every process in advance; millions need not be in memory."""


def call_each(
    function: Callable[..., R], jobs: Iterable[tuple[Any, ...]], workers: int
) -> Generator[tuple[int, Callable[[], R]], None, None]:
    """`function(*job)` for every job: its position, and a call that gives the answer or raises what
    the function raised. In this process when `workers` is 1, else as they come.

    Raises StageError when a process was killed. Leaving the iterator early kills the processes,
    whatever they are at.
    """
    if workers <= 1:
        for number, job in enumerate(jobs):
            yield number, partial(function, *job)
        return
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, context, _start)
    numbered = enumerate(jobs)
    pending: dict[Future[R], int] = {}
    try:
        while True:
            for number, job in islice(numbered, WAITING * workers - len(pending)):
                pending[pool.submit(function, *job)] = number
            if not pending:
                break
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                if isinstance(future.exception(), BrokenProcessPool):
                    raise StageError(
                        f"one of {workers} worker processes was killed, out of memory? "
                        "Run it again with fewer workers"
                    )
                yield pending.pop(future), future.result
    finally:
        if pending:  # else Python waits at its end until they have done what they hold
            for process in set(multiprocessing.active_children()) - others:
                process.kill()
                process.join()
        pool.shutdown(wait=False, cancel_futures=True)


def _start() -> None:
    """One thread each; signals are left to the parent, and none outlives it."""
    import cv2

    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    leave_signals_to_parent()
    cv2.setNumThreads(1)

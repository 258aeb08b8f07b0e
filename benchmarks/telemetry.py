"""What recording costs training, against stores that are well, hang, fail or refuse.

A step computes for some twenty milliseconds, less than any real one; every tenth, as is the loop's default, hands
twenty metrics to the run and to TensorBoard. Against it stand the same steps that record nothing. Counted is the
processor's work of all threads, which is the most that recording can take from training on one core; and the longest
that a single call held a step up, on the wall.
"""

from __future__ import annotations

import logging
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch

from benchmarks.measure import Row, compare, milliseconds, threads
from pipeline.board import Board
from pipeline.tracking import Run, open_run, prepare_store

STEPS, LOG_EVERY = 30, 10
METRICS = {f"loss/part{number}": 0.1 * number for number in range(20)}


def telemetry_rows() -> list[Row]:
    """One line for each way a store can behave."""
    logging.disable(logging.WARNING)
    try:
        with threads(1):
            return [_row(name, store) for name, store in STORES.items()]
    finally:
        logging.disable(logging.NOTSET)


def _row(name: str, store: Callable[[Path], AbstractContextManager[str]]) -> Row:
    with tempfile.TemporaryDirectory() as place, store(Path(place)) as uri:
        run = open_run(uri, "sam2", "bench", "bench", Path(place) / "stage")
        board = Board(Path(place) / "stage" / "tensorboard")
        run.wait_id(5.0)
        try:
            recorder = _Recorder(run, board)
            row = compare(
                f"{STEPS} steps, MLflow {name}",
                ("recorded", _steps(recorder)),
                ("not recorded", _steps(lambda: None)),
                seconds=30,
                clock=time.process_time,
            )
            return row.noted(f"CPU of all threads; the longest call took {recorder.longest:.2f} ms")
        finally:
            board.close(1.0)
            run.close(wait_seconds=1.0)


class _Recorder:
    """Hands a row of metrics over, and remembers the longest that it took."""

    def __init__(self, run: Run, board: Board) -> None:
        self.run, self.board, self.step, self.longest = run, board, 0, 0.0

    def __call__(self) -> None:
        self.step += 1
        self.longest = max(self.longest, milliseconds(self._record))

    def _record(self) -> None:
        self.board.scalars(self.step, METRICS)
        self.run.log_metrics(self.step, METRICS)


def _steps(record: Callable[[], None]) -> Callable[[], None]:
    first = torch.randn(256, 256)

    def steps() -> None:
        for step in range(STEPS):
            value = first
            for _ in range(40):
                value = torch.tanh(value @ first)
            if step % LOG_EVERY == 0:
                record()

    return steps


@contextmanager
def _well(place: Path) -> Iterator[str]:
    uri = f"sqlite:///{place / 'mlflow.db'}"
    prepare_store(uri, "sam2", place / "artifacts")
    yield uri


@contextmanager
def _hanging(_: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def _failing(_: Path) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(500)

        do_POST = do_PATCH = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@contextmanager
def _refusing(_: Path) -> Iterator[str]:
    yield "http://127.0.0.1:9"


STORES: dict[str, Callable[[Path], AbstractContextManager[str]]] = {
    "in SQLite": _well,
    "hanging": _hanging,
    "answering 500": _failing,
    "refusing": _refusing,
}

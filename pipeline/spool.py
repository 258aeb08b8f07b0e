"""Rows that wait on disk until somebody takes them, so that the one who writes them never waits.

A row is appended to `metrics.jsonl`; a thread sends what lies there and notes in
`metrics.sent.json` how far it came. What was not taken stays for the next writer of the same
folder. A row may be sent twice after a crash, never lost.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.storage import read_json, write_json

BLOCK_BYTES = 1 << 18
logger = logging.getLogger(__name__)


class Spool:
    """The waiting rows of one folder and the thread that sends them."""

    def __init__(
        self, folder: str | Path, send: Callable[[list[dict[str, Any]]], None] | None
    ) -> None:
        """send: takes some rows or raises; None only keeps them."""
        self.path, self.sent = Path(folder) / "metrics.jsonl", Path(folder) / "metrics.sent.json"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._send, self._complained = send, False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="spool", daemon=True)
        if send is not None:
            self._thread.start()

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row; a full disk is worth a warning, not an exception."""
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            self._complain(error)

    def close(self, wait_seconds: float) -> None:
        """Send what is left, for at most `wait_seconds`."""
        self._closing.set()
        if self._send is not None:
            self._thread.join(wait_seconds)

    def _run(self) -> None:
        pause = 2.0
        while True:
            last = self._closing.wait(pause)
            try:
                while self._send_block():
                    pass
                pause = 2.0
            except Exception as error:  # whatever the receiver raises: it waits
                self._complain(error)
                pause = min(pause * 2, 60.0)
            if last:
                return

    def _send_block(self) -> bool:
        """Send the next rows; whether there were any."""
        offset = int((read_json(self.sent) or {}).get("bytes", 0))
        if self._send is None or not self.path.exists():
            return False
        with open(self.path, "rb") as file:
            file.seek(offset)
            block = file.read(BLOCK_BYTES)
        block = block[: block.rfind(b"\n") + 1]
        if not block:
            return False
        self._send([json.loads(line) for line in block.splitlines()])
        write_json(self.sent, {"bytes": offset + len(block)})
        return True

    def _complain(self, error: BaseException) -> None:
        if not self._complained:
            self._complained = True
            logger.warning("metrics wait in %s (%s)", self.path, first_line(error))


def first_line(error: BaseException) -> str:
    """The first line of a message: database and HTTP errors go on for pages."""
    line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line if len(line) <= 200 else f"{line[:199]}…"

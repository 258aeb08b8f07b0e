"""The log of a running stage, line by line, on the page of its flow run.

Every line is shown once: how far a file was read is kept beside it, so a flow that is started again
goes on where the one before it stopped. A file that is rotated, cut off or replaced is noticed by
its number and by the bytes before the place; half a line, or half a character, waits for its other
half. A job that says more than a page can take is skipped ahead, with a line that counts what was
left out: no job waits for its readers.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from pipeline.launch import read_handle
from pipeline.storage import read_json, write_json

MEMORY_FILE = "shown.json"
"""In the stage's folder: file name -> how far it was shown."""
LINES_PER_SECOND, BURST = 40.0, 400
"""Lines a page takes in the long run, and at once."""
BACKLOG_BYTES, KEPT_BYTES = 1 << 18, 1 << 14
"""Of a longer backlog only the end is shown."""
CHUNK_BYTES = 1 << 16
"""Read at a time; a longer line is shown in pieces."""
LINE_LETTERS = 2000
MARK_BYTES = 64
"""Bytes before the place that tell a file from another of the same name."""


@dataclass
class Place:
    """How far a file was read."""

    offset: int = 0
    number: int = 0
    """Of the file in its file system (inode)."""
    mark: str = ""
    """The last bytes before `offset`, in hexadecimal."""


class JobLog:
    """Both outputs of rank 0 of the job of one stage, and of its earlier attempts."""

    def __init__(self, folder: str | Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder, self.clock = Path(folder), clock
        remembered = read_json(self.folder / MEMORY_FILE) or {}
        self.places = {name: Place(**values) for name, values in remembered.items()}
        self.allowed, self.looked = float(BURST), clock()

    @property
    def files(self) -> list[Path]:
        """The files of the job that was submitted last; none before there is one."""
        handle = read_handle(self.folder)
        if handle is None:
            return []
        return [Path(handle.logs) / f"{handle.job_id}_0_log.{end}" for end in ("out", "err")]

    def show(self, say: Callable[[str], None], *, last: bool = False) -> None:
        """Hand each new line to `say`; `last` means that nothing more will come, so half a line
        counts as one and what is over the limit is left out."""
        now = self.clock()
        self.allowed = min(BURST, self.allowed + LINES_PER_SECOND * (now - self.looked))
        self.looked = now
        for path in self._known():
            shown = 0
            for line in self._lines(path, int(self.allowed), last):
                say(line)
                shown += 1
            self.allowed = max(0.0, self.allowed - shown)
            if shown:  # at once: whoever comes after a kill should find what has been said
                values = {name: asdict(place) for name, place in self.places.items()}
                write_json(self.folder / MEMORY_FILE, values)

    def _known(self) -> list[Path]:
        """Files of earlier attempts first: their ends may not have been shown."""
        current = self.files
        earlier = [self.folder / name for name in self.places]
        return [*(path for path in earlier if path not in current), *current]

    def _lines(self, path: Path, most: int, last: bool) -> Iterator[str]:
        name = str(path.relative_to(self.folder)) if path.is_relative_to(self.folder) else str(path)
        place = self.places.get(name, Place())
        rotated = _rotated(path, place)
        for file in (*([rotated] if rotated else []), path):
            try:
                with file.open("rb") as reader:
                    place = _found_again(reader, place)
                    over = last or file is rotated
                    for line in _new_lines(reader, place, most, file, over):
                        most -= 1
                        self.places[name] = place
                        yield line
            except FileNotFoundError:
                continue


def _rotated(path: Path, place: Place) -> Path | None:
    """The file that was at `path` and now has a longer name, such as `log.1`."""
    try:
        if not place.number or path.stat().st_ino == place.number:
            return None
    except FileNotFoundError:
        pass
    for other in path.parent.glob(f"{path.name}?*"):
        if other.stat().st_ino == place.number:
            return other
    return None


def _found_again(reader: BinaryIO, place: Place) -> Place:
    """`place` if it is in this very file, else its beginning."""
    about = os.fstat(reader.fileno())
    mark = bytes.fromhex(place.mark)
    if about.st_ino == place.number and about.st_size >= place.offset:
        reader.seek(place.offset - len(mark))
        if reader.read(len(mark)) == mark:
            return place
    reader.seek(0)
    return Place(number=about.st_ino)


def _new_lines(reader: BinaryIO, place: Place, most: int, file: Path, last: bool) -> Iterator[str]:
    """Complete lines from `place` on, which moves along; at most `most`, unless it is the `last`
    look, when the rest is counted."""
    end = reader.seek(0, 2)
    if end - place.offset > BACKLOG_BYTES:
        yield from _skip(reader, place, max(place.offset, end - KEPT_BYTES), file)
    while most > 0:
        reader.seek(place.offset)
        data = reader.read(CHUNK_BYTES)
        whole = data.rfind(b"\n") + 1
        if not whole and (len(data) == CHUNK_BYTES or last):
            whole = len(data)
        if not whole:
            return
        for line in io.BytesIO(data[:whole]):
            if most <= 0:
                break
            _advance(place, line)
            text = _text(line)
            if text:
                most -= 1
                yield text
    if last:
        yield from _skip(reader, place, end, file)


def _skip(reader: BinaryIO, place: Place, target: int, file: Path) -> Iterator[str]:
    """Go on to the first line that begins at or after `target`, and say how many were left out."""
    count = 0
    reader.seek(place.offset)
    for line in reader:
        if place.offset >= target:
            break
        _advance(place, line)
        count += 1
    if count:
        yield f"… {count:,} lines are not shown here; all of them are in {file}"


def _advance(place: Place, line: bytes) -> None:
    place.offset += len(line)
    place.mark = (bytes.fromhex(place.mark) + line)[-MARK_BYTES:].hex()


def _text(line: bytes) -> str:
    """What a terminal would show of a line: after carriage returns the last part counts."""
    text = line.decode("utf-8", errors="replace").rstrip().rpartition("\r")[2]
    return text if len(text) <= LINE_LETTERS else f"{text[:LINE_LETTERS]} …"

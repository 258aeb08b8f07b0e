"""Writing a manifest: columns grow as items are added, and land in one file that is there whole or not at all."""

from __future__ import annotations

import hashlib
import json
import struct
from array import array
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.spec import DatasetSpec
from data.tree import Entry, Tree
from pipeline.errors import DataError, StorageError
from pipeline.fetch import read_bytes
from pipeline.remote import shown
from pipeline.storage import atomic_file

MAGIC = b"sam2 manifest 2\n"
"""Begins the file; then the length of the header (8 bytes), the header (json), and the columns it names."""
ALIGNMENT = 64
WHOLE = -1
"""In place of a start: the whole file."""
SMALL_FILES, SMALL_BYTES = 2048, 1 << 26
"""A data set of so few pictures and annotations, with so many bytes in these, is looked at whole: the
size and time of every file when it is opened, what the annotations say for its identity."""
READERS = 16
"""Annotations read at a time: in a store it is the answers that take long."""

COLUMNS = {
    "name_ends": "q",
    "frame_ends": "q",
    "part_ends": "q",
    "frame_number": "i",
    "frame_file": "i",
    "frame_start": "q",
    "frame_size": "q",
    "part_frame": "i",
    "part_object": "q",
    "part_file": "i",
    "part_start": "q",
    "part_size": "q",
    "file_name_ends": "q",
    "file_folder": "i",
    "file_size": "q",
    "file_stamp": "q",
}
IDENTITY = (
    *("names", "name_ends", "frame_ends", "part_ends", "frame_number", "frame_size"),
    *("part_frame", "part_object", "part_size"),
)


class Span(NamedTuple):
    """Where bytes are: `size` of the file numbered `file`, from `start` on or WHOLE."""

    file: int
    start: int
    size: int


class ManifestWriter:
    """The growing columns of a manifest."""

    def __init__(self, spec: DatasetSpec) -> None:
        self.spec = spec
        self.tree = Tree()
        """Scans list folders through this, so that it is known later what to look at again."""
        self.contents: dict[str, str] = {}
        """sha256 of the annotation files that were read whole, by a name that does not depend on the place."""
        self.watched: list[tuple[str, int, int]] = []
        """(path, size, stamp) of files whose change makes the manifest stale, however many there are."""
        self._names, self._file_names = bytearray(), bytearray()
        self._folders: dict[str, int] = {}
        self._errors: dict[int, str] = {}
        self._columns = {name: array(code) for name, code in COLUMNS.items()}

    def file(self, folder: str, entry: Entry) -> int:
        """Register a file of `folder` and give its number."""
        columns = self._columns
        self._file_names += _utf8(entry.name, folder)
        columns["file_name_ends"].append(len(self._file_names))
        columns["file_folder"].append(self._folders.setdefault(folder, len(self._folders)))
        columns["file_size"].append(entry.size)
        columns["file_stamp"].append(entry.stamp)
        return len(columns["file_size"]) - 1

    def whole(self, folder: str, entry: Entry) -> Span:
        """Register a file of its own."""
        return Span(self.file(folder, entry), WHOLE, entry.size)

    def watch(self, folder: str, entry: Entry) -> None:
        """Make the manifest stale when this file changes."""
        self.watched.append((f"{folder}/{entry.name}", entry.size, entry.stamp))

    def add(
        self,
        name: str,
        frames: Iterable[tuple[int, Span]],
        parts: Iterable[tuple[int, int, Span]],
        error: str = "",
    ) -> None:
        """The next item.

        frames: (number, picture) of each. parts: (position of the frame, object, place) of each annotation.
        error: what is wrong with the item; whoever asks for it is told.
        """
        columns = self._columns
        self._names += _utf8(name, self.spec.root)
        if error:
            self._errors[len(columns["name_ends"])] = error
        columns["name_ends"].append(len(self._names))
        for number, span in frames:
            columns["frame_number"].append(number)
            self._place("frame", span)
        for position, member, span in parts:
            columns["part_frame"].append(position)
            columns["part_object"].append(member)
            self._place("part", span)
        columns["frame_ends"].append(len(columns["frame_number"]))
        columns["part_ends"].append(len(columns["part_frame"]))

    def save(self, path: Path) -> None:
        """Put the manifest at `path`. Raises StorageError."""
        columns: dict[str, np.ndarray] = {
            name: np.frombuffer(column, dtype=column.typecode)
            for name, column in self._columns.items()
        }
        columns["names"] = np.frombuffer(bytes(self._names), np.uint8)
        columns["file_names"] = np.frombuffer(bytes(self._file_names), np.uint8)
        header = {
            "digest": self._digest(columns),
            "folders": list(self._folders),
            "seen": self.tree.seen,
            "watched": self.watched,
            "contents": self.contents,
            "errors": self._errors,
        }
        write_manifest(path, header, columns)

    def _place(self, table: str, span: Span) -> None:
        for field, value in zip(("file", "start", "size"), span, strict=True):
            self._columns[f"{table}_{field}"].append(value)

    def _digest(self, columns: Mapping[str, np.ndarray]) -> str:
        """sha256 of what the data set is, wherever it lies and however it is packed: names, frame numbers, sizes, and
        the content of annotation files that were read, all of them where they are small."""
        digest = hashlib.sha256(f"{self.spec.format} {self.spec.annotations}".encode())
        for name in IDENTITY:
            digest.update(f"\n{name} {len(columns[name])}\n".encode())
            digest.update(columns[name].tobytes())
        for content in self._annotations(columns):
            digest.update(content)
        rest = [self.contents, sorted(self._errors)]  # not their texts, which hold paths
        digest.update(json.dumps(rest, sort_keys=True).encode())
        return digest.hexdigest()

    def _annotations(self, columns: Mapping[str, np.ndarray]) -> list[bytes]:
        """sha256 of every annotation of a small data set, in order; none of a large one."""
        sizes = columns["part_size"]
        count = len(columns["frame_size"]) + len(sizes)  # not of files: tars hold many
        if count > SMALL_FILES or sizes.sum() > SMALL_BYTES:
            return []
        folders, ends = list(self._folders), [0, *columns["file_name_ends"].tolist()]
        spans = []
        for row, file in enumerate(columns["part_file"].tolist()):
            name = self._file_names[ends[file] : ends[file + 1]].decode() if file >= 0 else ""
            if name and name not in self.contents:
                path = f"{folders[columns['file_folder'][file]]}/{name}"
                start, version = columns["part_start"][row], columns["file_stamp"][file]
                spans.append((path, int(start), int(sizes[row]), int(version)))
        with ThreadPoolExecutor(READERS) as readers:
            return list(readers.map(_sha256, spans))


def _sha256(span: tuple[str, int, int, int]) -> bytes:
    """Of the bytes at (path, start, size, version); nothing where they cannot be read, which is told
    when the item is."""
    path, start, size, version = span
    try:
        whole = start == WHOLE
        content = read_bytes(path, 0 if whole else start, None if whole else size, version)
    except DataError:
        return b""
    return hashlib.sha256(content).digest()


def _utf8(name: str, folder: str) -> bytes:
    """Raises DataError where the name of a file or folder came from some other alphabet."""
    try:
        return name.encode()
    except UnicodeEncodeError as error:
        readable = name.encode(errors="backslashreplace").decode()
        raise DataError(
            f"{shown(folder)}: the name {readable} is not UTF-8, expected one that is; rename it, "
            "for example with convmv"
        ) from error


def write_manifest(
    path: Path, header: Mapping[str, Any], columns: Mapping[str, np.ndarray]
) -> None:
    """Put header and columns at `path`, whole or not at all. Raises StorageError."""
    table, position = {}, 0
    for name, column in columns.items():
        table[name] = [column.dtype.str, len(column), position]
        position += -(-column.nbytes // ALIGNMENT) * ALIGNMENT
    text = json.dumps({**header, "columns": table}).encode()
    text += b" " * (-(len(MAGIC) + 8 + len(text)) % ALIGNMENT)
    try:
        with atomic_file(path) as file:
            file.write(MAGIC + struct.pack("<q", len(text)) + text)
            for column in columns.values():
                file.write(np.ascontiguousarray(column).data)
                file.write(b"\0" * (-column.nbytes % ALIGNMENT))
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written ({error.strerror}); free some space, or set SAM2_CACHE to a "
            "folder that can be written"
        ) from error

"""The list of a data set as one memory-mapped file: what each item is called, and where its bytes
are.

It is made once per data set and choice of items, kept in the cache folder, and shared by all
processes through the page cache: opening takes no longer for millions of items than for ten, and
an item costs no Python object until it is asked for. When the folders or files behind it have
changed it is made again.

Items are pictures or videos. Each has frames (number, place of the picture) and parts: places of
annotations, with the frame and the object they belong to.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
from typing_extensions import override

from data.manifest_writer import MAGIC, SMALL_FILES, WHOLE, ManifestWriter
from data.names import list_digests
from data.spec import DatasetSpec
from data.tree import unchanged
from pipeline.diskcache import cache_folder
from pipeline.errors import DataError, StorageError
from pipeline.fetch import read_bytes
from pipeline.remote import is_remote, shown

log = logging.getLogger(__name__)

SCANNED = ("format", "root", "frames", "annotations", "split", "names", "exclude", "exclude_list")
"""Fields of a spec that decide which items there are and where; `fraction` does, too."""

Scan = Callable[[DatasetSpec, ManifestWriter], None]
"""Lists the items of a data set into the writer."""


class Place(NamedTuple):
    """Where bytes are: `size` of the file at `path`, from `start` on, or all of it (start WHOLE).
    version: see `read_bytes`."""

    path: str
    start: int
    size: int
    version: int

    def read(self) -> bytes:
        """The bytes. Raises DataError naming the file."""
        if self.start == WHOLE:
            return read_bytes(self.path, version=self.version)
        return read_bytes(self.path, self.start, self.size, self.version)


class Part(NamedTuple):
    """An annotation of one object on one frame; `frame` counts the frames of its item."""

    frame: int
    member: int
    place: Place


def open_manifest(spec: DatasetSpec, scan: Scan) -> Manifest:
    """The manifest of a data set, made by `scan` where there is none or it is stale.

    Several processes may ask at once; one makes it. Raises DataError for what `scan` finds wrong,
    StorageError when the cache folder cannot be written.
    """
    identity = [MAGIC.decode(), *(str(getattr(spec, name)) for name in SCANNED)]
    identity += [str(spec.fraction), *list_digests(spec)]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
    path = cache_folder() / "manifests" / f"{spec.format}-{key}"
    found = _fresh(path)
    if found is None:
        with _one_at_a_time(path):
            found = _fresh(path)
            if found is None:
                log.info("listing %s as %s; this is done once", shown(spec.root), spec.format)
                writer = ManifestWriter(spec)
                scan(spec, writer)
                writer.save(path)
                found = Manifest(path)
    return found


class Manifest:
    """A manifest file, mapped into memory. Travels to other processes as its path and digest."""

    def __init__(self, path: Path, digest: str | None = None) -> None:
        self.path = path
        self.header, self._columns = _map(path)
        self.digest = str(self.header["digest"])
        """sha256 of the data: names, frame numbers, sizes, and the content of the annotation files
        of a small data set and of those that hold more than one item. Not of places, times, or how
        files are packed."""
        if digest not in (None, self.digest):
            raise DataError(f"{path} was made anew: the data set changed while in use; start again")
        self.names = Texts(self._columns["names"], self._columns["name_ends"])
        self._files = Texts(self._columns["file_names"], self._columns["file_name_ends"])

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        return Manifest, (self.path, self.digest)

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def errors(self) -> dict[int, str]:
        """What is wrong with the items that cannot be read, by their number."""
        return {int(item): text for item, text in self.header["errors"].items()}

    def frame_count(self, item: int) -> int:
        """How many frames an item has."""
        return len(self._rows("frame", item))

    def frame_numbers(self, item: int) -> list[int]:
        """The numbers of an item's frames, ascending."""
        rows = self._rows("frame", item)
        return self._columns["frame_number"][rows.start : rows.stop].tolist()

    def picture(self, item: int, position: int) -> Place:
        """Where one frame's picture is."""
        return self._place("frame", self._rows("frame", item)[position])

    def parts(self, item: int, position: int | None = None) -> list[Part]:
        """The annotations of an item, or of one of its frames; they are in the order of the
        frames."""
        rows = self._rows("part", item)
        frames = self._columns["part_frame"][rows.start : rows.stop]
        if position is not None:
            first, last = np.searchsorted(frames, [position, position + 1]).tolist()
            rows = rows[first:last]
        members = self._columns["part_object"]
        frame = self._columns["part_frame"]
        return [Part(int(frame[r]), int(members[r]), self._place("part", r)) for r in rows]

    def _rows(self, table: str, item: int) -> range:
        ends = self._columns[f"{table}_ends"]
        return range(int(ends[item - 1]) if item > 0 else 0, int(ends[item]))

    def _place(self, table: str, row: int) -> Place:
        file = int(self._columns[f"{table}_file"][row])
        start = int(self._columns[f"{table}_start"][row])
        size = int(self._columns[f"{table}_size"][row])
        return Place(self.file(file), start, size, int(self._columns["file_stamp"][file]))

    def file(self, number: int) -> str:
        """The path or URL of a file."""
        folder = self.header["folders"][int(self._columns["file_folder"][number])]
        return f"{folder}/{self._files[number]}"

    def is_fresh(self) -> bool:
        """Whether folders, watched files and all local files of a small data set, evenly spread ones
        of a larger, are as they were."""
        watched = [tuple(row) for row in self.header["watched"]]
        count = len(self._files)
        for number in np.unique(np.linspace(0, count - 1, min(count, SMALL_FILES)).astype(int)):
            size, stamp = (int(self._columns[f"file_{what}"][number]) for what in ("size", "stamp"))
            watched.append((self.file(number), size, stamp))
        return unchanged(self.header["seen"]) and all(_same_file(*row) for row in watched)


class Texts(Sequence[str]):
    """Strings laid end to end: one is decoded when it is asked for."""

    def __init__(self, pool: np.ndarray, ends: np.ndarray) -> None:
        self._pool, self._ends = pool, ends

    @override
    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    @override
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        index = range(len(self))[index]
        start = int(self._ends[index - 1]) if index else 0
        return self._pool[start : int(self._ends[index])].tobytes().decode()

    @override
    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(other) != len(self):
            return False
        return all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    @override
    def __repr__(self) -> str:
        more = ", ..." if len(self) > 3 else ""
        return f"<{len(self)} names: {', '.join(self[:3])}{more}>"


def _map(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header and columns of a manifest. Raises FileNotFoundError, ValueError, StorageError."""
    try:
        data = np.memmap(path, np.uint8, mode="r").view(np.ndarray)  # whose items are quick to get
    except FileNotFoundError:
        raise StorageError(
            f"{path} is gone; start again, and let caches be while they are used"
        ) from None
    begin = len(MAGIC) + 8
    if data[: len(MAGIC)].tobytes() != MAGIC:
        raise ValueError("not a manifest")
    (length,) = struct.unpack("<q", data[len(MAGIC) : begin].tobytes())
    header = json.loads(data[begin : begin + length].tobytes())
    columns = {}
    for name, (kind, count, start) in header["columns"].items():
        start += begin + length
        columns[name] = data[start : start + count * np.dtype(kind).itemsize].view(kind)
        if len(columns[name]) != count:
            raise ValueError("cut off")
    return header, columns


def _fresh(path: Path) -> Manifest | None:
    """The manifest at `path` if there is one that can be read and still holds."""
    try:
        found = Manifest(path) if path.exists() else None
    except (ValueError, KeyError, TypeError, struct.error):
        return None
    return found if found is not None and found.is_fresh() else None


def _same_file(path: str, size: int, stamp: int) -> bool:
    if is_remote(path):
        return True  # seen in the listing of its folder
    try:
        found = os.stat(path)
    except OSError:
        return size == 0 and stamp == 0  # it was missing then, too
    return (found.st_size, found.st_mtime_ns) == (size, stamp)


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Wait until no other process makes this manifest; a lock ends with the process that holds
    it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path.with_name(path.name + ".lock"), "wb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise StorageError(
            f"{path.parent} cannot be written ({error.strerror}); set SAM2_CACHE to a folder that can"
        ) from error
    with file:
        with suppress(OSError):  # without locks it may be made twice, and lands whole either way
            fcntl.flock(file, fcntl.LOCK_EX)
        yield

"""SA-1B: pictures with many masks, as folders of jpg and json or as the tar shards of the release.

Tars are not unpacked: the headers are read once, then each member from its place in the file, also
in an object store.
"""

from __future__ import annotations

import io
import json
import logging
import tarfile
import threading
import time
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from typing import Any

from typing_extensions import Buffer, override

from data.manifest_writer import ManifestWriter, Span
from data.names import choose_names, excluded
from data.sources.base import stem
from data.sources.segments import SegmentedPictures, checked
from data.spec import DatasetSpec
from data.tree import Entry
from pipeline.cache import SHARED
from pipeline.errors import DataError
from pipeline.fetch import read_range
from pipeline.remote import is_remote, shown

EXPECTED = "a folder of sa_N.jpg with sa_N.json beside, or of sa_NNNNNN.tar shards holding them"
ENDINGS = {".jpg": 0, ".jpeg": 0, ".json": 1}
HEADERS_AHEAD = 16384
"""Bytes asked for at each header of a tar: a json is mostly skipped, a small one read along."""
TARS_AT_ONCE = 32
"""In a store. All headers of SA-1B take 11 million answers; one after the other that is days."""
TELL_SECONDS = 10.0
"""Between two words on how far the listing is."""

log = logging.getLogger(__name__)


class Sa1b(SegmentedPictures):
    """One item is one picture; its objects are the annotations of non-zero area, by their `id`."""

    @override
    def annotations(self, index: int) -> Mapping[int, Mapping[str, Any]]:
        self.check(index)
        (part,) = self.manifest.parts(index)
        return SHARED.get(
            ("json", part.place), lambda: self._parse(index), lambda _: 2 * part.place.size
        )

    @override
    def source(self, index: int) -> str:
        return self.where(index, self.manifest.parts(index)[0].place, ".json")

    def _parse(self, index: int) -> Mapping[int, Mapping[str, Any]]:
        (part,) = self.manifest.parts(index)
        where = self.source(index)
        try:
            found = json.loads(part.place.read())["annotations"]
            kept = [checked(annotation, where) for annotation in found]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{where} is not an SA-1B annotation ({type(error).__name__}: {error}), "
                "expected {image, annotations: [{id, area, segmentation}]}; "
                "fetch it again, or leave it out with `exclude`"
            ) from error
        for i, count in Counter(annotation["id"] for annotation in kept).items():
            if count > 1:
                raise DataError(
                    f"{where}, annotation {i}: the id is there {count} times, expected once; mend "
                    "the file, or leave it out with `exclude`"
                )
        kept = sorted((a for a in kept if a["area"] > 0), key=lambda a: a["id"])
        return {int(annotation["id"]): annotation for annotation in kept}


class _Members:
    """Places of the jpg and json of every name; a row of numbers each, for there are millions."""

    def __init__(self) -> None:
        self.rows: tuple[dict[str, int], dict[str, int]] = ({}, {})
        self.errors: dict[str, str] = {}
        self._spans = array("q")

    def add(self, file: str, span: Span, where: str) -> None:
        """where: the folder or tar that holds `file`. The same picture may lie in a tar and unpacked
        beside it; two that differ are an error of it."""
        name, kind = stem(file), _kind(file)
        if kind is None:
            return
        if name in self.rows[kind] and self.span(name, kind).size != span.size:
            self.errors[name] = (
                f"{shown(where)}/{file} has {span.size} bytes, and {self.span(name, kind).size} in "
                "another folder or tar, expected one file of each name; rename or remove one of them"
            )
        self.rows[kind][name] = len(self._spans)
        self._spans.extend(span)

    def span(self, name: str, kind: int) -> Span:
        row = self.rows[kind][name]
        return Span(*self._spans[row : row + 3])


def _kind(file: str) -> int | None:
    """0 for a picture, 1 for a json, None for what is no part of the data set."""
    return None if file.startswith(".") else ENDINGS.get(file[len(stem(file)) :].lower())


def scan(spec: DatasetSpec, writer: ManifestWriter) -> None:
    """List pictures below `spec.root`, one level deep, and inside its tars."""
    tree, root = writer.tree, spec.root
    tree.need(root, EXPECTED)
    tree.deepen(root)
    members = _Members()
    tars: list[tuple[str, Entry]] = []
    for folder in [root, *(f"{root}/{name}" for name in tree.folders(root))]:
        for entry in tree.files(folder):
            if entry.name.endswith(".tar"):
                tars.append((folder, entry))
            elif _kind(entry.name) is not None:
                members.add(entry.name, writer.whole(folder, entry), folder)
    for (folder, entry), inside in zip(tars, _listed(tars), strict=True):
        number = writer.file(folder, entry)
        for name, start, size in inside:
            members.add(name, Span(number, start, size), f"{folder}/{entry.name}")
    pictures, texts = members.rows
    complete = pictures.keys() & texts.keys()
    if not complete:
        raise DataError(f"{shown(root)} holds no pair of jpg and json; expected {EXPECTED}")
    for name in sorted((pictures.keys() ^ texts.keys()) - excluded(spec)):
        if name.startswith("sa_"):
            missing = ".jpg" if name in texts else ".json"
            raise DataError(
                f"{shown(root)} has {name} without its {missing}, expected both; the copy is "
                "incomplete: fetch it, or leave it out with `exclude`"
            )
    for name in choose_names(spec, complete, EXPECTED):
        picture, text = (members.span(name, kind) for kind in (0, 1))
        writer.add(name, [(0, picture)], [(0, 0, text)], members.errors.get(name, ""))


def _listed(tars: Sequence[tuple[str, Entry]]) -> Iterator[list[tuple[str, int, int]]]:
    """The members of each tar, in order. In a store a header is a request, and waiting for answers
    is nearly all there is to it: several tars are listed at a time."""
    paths = [f"{folder}/{entry.name}" for folder, entry in tars]
    left, told = threading.Event(), time.monotonic()

    def members(path: str, size: int) -> list[tuple[str, int, int]]:
        return list(takewhile(lambda _: not left.is_set(), tar_members(path, size)))

    threads = ThreadPoolExecutor(TARS_AT_ONCE if any(map(is_remote, paths)) else 1)
    try:
        for done, inside in enumerate(threads.map(members, paths, [e.size for _, e in tars])):
            if time.monotonic() - told > TELL_SECONDS:
                told = time.monotonic()
                log.info("%d of %d tars are listed", done, len(tars))
            yield inside
    finally:
        left.set()  # an error, or Ctrl-C, does not wait for all that was begun
        threads.shutdown(cancel_futures=True)


def tar_members(path: str, size: int) -> Iterator[tuple[str, int, int]]:
    """(file name, start, bytes) of every file in a tar; only headers are read.

    Raises DataError where the tar is cut off or a header is broken, naming the member before it.
    """
    last = "its beginning"
    try:
        with _RangeFile(path, size) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.offset_data + member.size > size:
                    raise DataError(
                        f"{shown(path)} is cut off inside {member.name}: found {size} bytes, "
                        f"expected at least {member.offset_data + member.size}; fetch it again"
                    )
                if member.isfile():
                    last = member.name
                    yield last.rsplit("/", 1)[-1], member.offset_data, member.size
            file.seek(tar.offset)
            block = file.read(tarfile.BLOCKSIZE)
            if not block:
                raise DataError(
                    f"{shown(path)} ends after {last}, expected the two empty blocks every tar ends "
                    "with; fetch it again, it is cut off"
                )
            if block.strip(b"\0"):
                # tarfile takes a broken header for the end
                raise DataError(
                    f"{shown(path)} has a broken header at byte {tar.offset}, after {last}; "
                    "fetch it again"
                )
    except (tarfile.TarError, EOFError) as error:
        raise DataError(
            f"{shown(path)} is not a whole tar file ({error}, after {last}), expected one; "
            "fetch it again"
        ) from error


class _RangeFile(io.RawIOBase):
    """A file, local or remote, of which little is read at a time."""

    def __init__(self, path: str, size: int) -> None:
        self._path, self._size = path, size
        self._position = self._start = 0
        self._held = b""

    @override
    def readable(self) -> bool:
        return True

    @override
    def seekable(self) -> bool:
        return True

    @override
    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    @override
    def tell(self) -> int:
        return self._position

    @override
    def readinto(self, buffer: Buffer) -> int:
        target = memoryview(buffer)
        wanted = min(len(target), max(0, self._size - self._position))
        begin = self._position - self._start
        if not 0 <= begin <= len(self._held) - wanted:
            length = min(max(wanted, HEADERS_AHEAD), self._size - self._position)
            self._held = read_range(self._path, self._position, length) if wanted else b""
            self._start, begin = self._position, 0
        target[:wanted] = self._held[begin : begin + wanted]
        self._position += wanted
        return wanted

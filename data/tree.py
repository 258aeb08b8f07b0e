"""What lies in folders, local or remote, and a cheap way to tell later whether anything there has changed.

What begins with a dot is passed over: what macOS, notebooks and half-finished extractions leave is no data.

A local folder changes its modification time when a file is added, removed or renamed. Object stores have no folders:
there the listing itself is repeated (one request per thousand objects) and compared.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from pipeline.errors import DataError
from pipeline.remote import ask, filesystem, is_remote, shown

DEEP = "/**"
"""Ends the name of a folder that was listed with all that lies below it."""


class Entry(NamedTuple):
    """A file: its name, its bytes, and a number that changes when its content does."""

    name: str
    size: int
    stamp: int


@dataclass
class _Content:
    files: list[Entry]
    folders: list[str]

    @cached_property
    def names(self) -> dict[str, Entry]:
        return {entry.name: entry for entry in self.files}


class Tree:
    """Folders by their full path or URL; each is listed once. `seen` has the stamp of every one looked at."""

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}
        self._found: dict[str, _Content] = {}

    def files(self, folder: str) -> list[Entry]:
        """The files directly in a folder, by name."""
        return self._content(folder).files

    def named(self, folder: str) -> dict[str, Entry]:
        """The same, as a dictionary."""
        return self._content(folder).names

    def folders(self, folder: str) -> list[str]:
        """The names of the folders directly in a folder, sorted."""
        return self._content(folder).folders

    def has(self, folder: str) -> bool:
        """Whether there is such a folder."""
        try:
            self._content(folder)
        except FileNotFoundError:
            return False
        return True

    def need(self, folder: str, expected: str) -> str:
        """`folder` when it is one; else a DataError that says what was expected there."""
        if self.has(folder):
            return folder
        found = (
            "is a file" if not is_remote(folder) and os.path.exists(folder) else "does not exist"
        )
        raise DataError(f"{shown(folder)} {found}; expected {expected}")

    def deepen(self, folder: str) -> None:
        """List a remote folder with all that lies below it, which takes fewer requests than one by one."""
        if is_remote(folder) and self.has(folder):
            self.seen[folder + DEEP], found = _find(folder)
            self._found.update(found)

    def _content(self, folder: str) -> _Content:
        found = self._found.get(folder)
        if found is None:
            self.seen[folder], found = _list(folder) if is_remote(folder) else _scan(folder)
            self._found[folder] = found
        return found


def unchanged(seen: Mapping[str, int]) -> bool:
    """Whether all folders of `Tree.seen` are as they were."""
    return all(stamp_of(folder) == stamp for folder, stamp in seen.items())


def stamp_of(folder: str) -> int:
    """A number that changes when the files of a folder do; -1 where there is none."""
    try:
        if folder.endswith(DEEP):
            return _find(folder.removesuffix(DEEP))[0]
        return _list(folder)[0] if is_remote(folder) else os.stat(folder).st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        return -1


def _scan(folder: str) -> tuple[int, _Content]:
    """A local folder. Raises FileNotFoundError."""
    try:
        stamp = os.stat(folder).st_mtime_ns  # before listing: what comes later changes it again
        with os.scandir(folder) as entries:
            files, folders = [], []
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                try:
                    if entry.is_dir():
                        folders.append(entry.name)
                    elif entry.is_file():
                        stat = entry.stat()
                        files.append(Entry(entry.name, stat.st_size, stat.st_mtime_ns))
                except OSError:
                    continue  # a link that leads in circles is no file, as one that leads nowhere
    except NotADirectoryError as error:
        raise FileNotFoundError(folder) from error
    except PermissionError as error:
        raise DataError(f"{folder} cannot be listed ({error.strerror})") from error
    return stamp, _Content(sorted(files), sorted(folders))


def _list(folder: str) -> tuple[int, _Content]:
    """A remote folder. Raises FileNotFoundError."""
    store, inner = filesystem(folder)

    def call() -> list[dict[str, Any]]:
        store.invalidate_cache()
        return list(store.ls(inner, detail=True))

    inner = inner.rstrip("/")
    found = [entry for entry in ask(folder, call) if entry["name"].rstrip("/") != inner]
    if not found and not ask(folder, lambda: store.isdir(inner)):
        raise FileNotFoundError(folder)
    found = [entry for entry in found if not _base(entry["name"]).startswith(".")]
    files = sorted(_entry(entry) for entry in found if entry["type"] == "file")
    folders = sorted(_base(entry["name"]) for entry in found if entry["type"] == "directory")
    return _stamp([*files, *folders]), _Content(files, folders)


def _find(folder: str) -> tuple[int, dict[str, _Content]]:
    """Every folder below and including a remote one, by its URL."""
    store, inner = filesystem(folder)

    def call() -> dict[str, dict[str, Any]]:
        store.invalidate_cache()
        return dict(store.find(inner, detail=True))

    inner = inner.rstrip("/")
    content: dict[str, _Content] = {folder: _Content([], [])}
    rows = []
    for path, entry in sorted(ask(folder, call).items()):
        parts = path.removeprefix(inner).strip("/").split("/")
        if any(part.startswith(".") for part in parts):
            continue
        place = folder
        for name in parts[:-1]:
            if f"{place}/{name}" not in content:
                content[place].folders.append(name)
                content[f"{place}/{name}"] = _Content([], [])
            place = f"{place}/{name}"
        content[place].files.append(_entry(entry))
        rows.append((place, content[place].files[-1]))
    return _stamp(rows), content


def _entry(entry: Mapping[str, Any]) -> Entry:
    marks = [
        str(entry[key])
        for key in ("ETag", "etag", "LastModified", "mtime", "created")
        if key in entry
    ]
    return Entry(_base(entry["name"]), int(entry["size"] or 0), _stamp(marks[:1]))


def _base(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1]


def _stamp(values: Iterable[object]) -> int:
    """A 62-bit digest of `values`, which fits every integer column."""
    digest = hashlib.sha256()
    for value in values:
        digest.update(f"{value!r}\n".encode())
    return int.from_bytes(digest.digest()[:8], "big") >> 2

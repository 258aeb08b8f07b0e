"""Which of the items that are there a data set keeps: list files, exclusions, single names, a
fixed share."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from data.spec import DatasetSpec
from pipeline.errors import DataError
from pipeline.fetch import read_current
from pipeline.remote import is_remote, shown


def choose_names(
    spec: DatasetSpec, available: Iterable[str], expected: str, split: str | None = None
) -> list[str]:
    """The names the spec keeps, in natural order.

    expected: what should lie at the root, for a message. split: the list file, where it is not the
    spec's. Raises DataError for names of the spec or its
    list file that are not there, or when nothing is left.
    """
    present = set(available)
    where = shown(spec.root)
    wanted = present
    split = split or (spec.split if spec.format != "coco" else None)
    if split is not None:
        wanted = listed(spec, split, "split")
        _all_present(wanted, present, where, f"the list {split}")
    if spec.names:
        _all_present(set(spec.names), wanted, where, "`names`")
        wanted = set(spec.names)
    wanted = wanted - excluded(spec)
    if spec.fraction < 1:
        wanted = {name for name in wanted if _share_of(name) < spec.fraction}
    if not wanted:
        raise DataError(
            f"{where} has nothing to read as {spec.format}"
            + (f" (of {len(present)} found, the spec keeps none)" if present else "")
            + f"; expected {expected}"
        )
    return sorted(wanted, key=natural)


def natural(name: str) -> tuple[object, ...]:
    """Sort key that puts sa_2 before sa_10."""
    return tuple(
        (0, int(part), part) if part.isdecimal() else (1, 0, part)
        for part in re.split(r"(\d+)", name)
    )


def excluded(spec: DatasetSpec) -> set[str]:
    """The names the spec leaves out, whether they are there or not."""
    names = set(spec.exclude)
    if spec.exclude_list is not None:
        names |= listed(spec, spec.exclude_list, "exclude_list")
    return names


def listed(spec: DatasetSpec, file: str, field: str) -> set[str]:
    """The names in a text file, absolute or below the root, that `field` of the spec gives."""
    return {line.strip() for line in _text(spec, file, field).split("\n") if line.strip()}


def list_digests(spec: DatasetSpec) -> list[str]:
    """sha256 of the list files of the spec: they are short, and read whenever a data set is
    opened."""
    files = [("split", spec.split if spec.format != "coco" else None)]
    files += [("exclude_list", spec.exclude_list)]
    return [
        hashlib.sha256(_text(spec, file, field).encode()).hexdigest()
        for field, file in files
        if file is not None
    ]


def _text(spec: DatasetSpec, file: str, field: str) -> str:
    path = file if is_remote(file) or file.startswith("/") else f"{spec.root}/{file}"
    try:
        return read_current(path).decode("utf-8-sig")
    except (DataError, UnicodeDecodeError) as error:
        raise DataError(
            f"{shown(path)} cannot be read; expected a text file with one name per line (`{field}`)"
        ) from error


def _all_present(wanted: set[str], present: set[str], where: str, origin: str) -> None:
    missing = sorted(wanted - present, key=natural)
    if missing:
        raise DataError(
            f"{where}: {origin} names {len(missing)} that are not there, first {missing[0]!r}, "
            f"expected only names of the {len(present)} that are; fetch them, or mend the list"
        )


def _share_of(name: str) -> float:
    digest = hashlib.sha256(name.encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64

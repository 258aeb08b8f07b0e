"""COCO instances: one json for all pictures; masks as polygons or run lengths. Crowds are left
out.

The json is walked through once, when the manifest is made: it keeps the place of every annotation,
and a sample reads only its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from typing_extensions import override

from data.jsonscan import elements
from data.manifest_writer import ManifestWriter, Span
from data.names import choose_names
from data.sources.base import stem
from data.sources.segments import SegmentedPictures, checked
from data.spec import DatasetSpec
from data.tree import Entry
from pipeline.cache import SHARED
from pipeline.errors import DataError
from pipeline.fetch import local_copy, read_bytes
from pipeline.remote import shown

EXPECTED = "annotations/instances_<split>.json and the pictures in <split>/ or images/"


class CocoInstances(SegmentedPictures):
    """One item is one picture with at least one object."""

    @override
    def annotations(self, index: int) -> Mapping[int, Mapping[str, Any]]:
        self.check(index)
        parts = self.manifest.parts(index)
        size = sum(part.place.size for part in parts)
        return SHARED.get(("json", parts[0].place), lambda: self._parse(index), lambda _: 2 * size)

    @override
    def source(self, index: int) -> str:
        return self.manifest.parts(index)[0].place.path

    def _parse(self, index: int) -> Mapping[int, Mapping[str, Any]]:
        found = {}
        for part in self.manifest.parts(index):
            path, start, size, version = part.place
            try:
                annotation = json.loads(read_bytes(local_copy(path, version), start, size))
                if int(annotation["id"]) != part.member:
                    raise ValueError(f"found annotation {annotation['id']}")
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"{path}: annotation {part.member} is not where it was ({error}); the file was "
                    "changed while in use: start again"
                ) from error
            found[part.member] = checked(annotation, path)
        return found


def scan(spec: DatasetSpec, writer: ManifestWriter) -> None:
    """Index the json of `spec.split`, or the only one there is."""
    tree, root = writer.tree, spec.root
    tree.need(root, EXPECTED)
    folder = tree.need(f"{root}/annotations", EXPECTED)
    entry = _annotation_file(writer, folder, spec.split)
    writer.watch(folder, entry)
    source, number = f"{folder}/{entry.name}", writer.file(folder, entry)
    files, objects, errors = _index(source, entry, number, writer)
    names: dict[str, int] = {}
    for picture in objects:
        name = stem(files[picture].rsplit("/", 1)[-1])
        if name in names:
            raise DataError(
                f"{source}: pictures {names[name]} and {picture} are both called {name}; "
                "rename one of them"
            )
        names[name] = picture
    kept = choose_names(spec, names, EXPECTED)
    pictures = _pictures(spec, writer, source, files[names[kept[0]]])
    for name in kept:
        picture = names[name]
        place, error = _picture(writer, pictures, files[picture], source)
        parts = [(0, i, span) for i, span in sorted(objects[picture].items())]
        writer.add(name, [(0, place)] if place else [], parts, errors.get(picture, error))


def _annotation_file(writer: ManifestWriter, folder: str, split: str | None) -> Entry:
    found = {
        stem(entry.name).removeprefix("instances_"): entry
        for entry in writer.tree.files(folder)
        if entry.name.startswith("instances_") and entry.name.endswith(".json")
    }
    if split is not None and split not in found:
        raise DataError(
            f"{shown(folder)}/instances_{split}.json does not exist; expected {EXPECTED}"
        )
    if split is None and len(found) != 1:
        raise DataError(
            f"{shown(folder)} holds {len(found)} instances_*.json ({', '.join(found) or 'none'}); "
            "name one with `split`"
        )
    return found[split] if split is not None else next(iter(found.values()))


def _index(
    source: str, entry: Entry, number: int, writer: ManifestWriter
) -> tuple[dict[int, str], dict[int, dict[int, Span]], dict[int, str]]:
    """By picture: its file name, the places of its annotations, and what is wrong with it."""
    content = read_bytes(local_copy(source, entry.stamp))
    writer.contents[entry.name] = hashlib.sha256(content).hexdigest()
    files: dict[int, str] = {}
    objects: dict[int, dict[int, Span]] = {}
    errors: dict[int, str] = {}
    seen: set[int] = set()
    plain = content.isascii()
    try:
        for field, _, start, end, value in elements(content, ("images", "annotations")):
            if field == "images":
                about = value if plain else json.loads(content[start:end])
                files[int(about["id"])] = str(about["file_name"])
            elif field == "annotations" and not value.get("iscrowd") and value.get("area") != 0:
                i, picture = int(value["id"]), int(value["image_id"])
                if i in seen:
                    errors[picture] = (
                        f"{source}, annotation {i}: the id is there twice, expected once; mend the "
                        "file, or leave the picture out with `exclude`"
                    )
                seen.add(i)
                objects.setdefault(picture, {})[i] = Span(number, start, end - start)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{source} is not a COCO instances file ({type(error).__name__}: {error}), expected "
            "{images: [...], annotations: [...]}; export it again"
        ) from error
    unknown = objects.keys() - files.keys()
    if unknown or not objects:
        what = (
            f"annotations of picture {min(unknown)}, which is not listed"
            if unknown
            else "no object"
        )
        raise DataError(
            f"{source}: found {what}, expected {{images: [...], annotations: [...]}}; export it again"
        )
    return files, objects, errors


def _pictures(spec: DatasetSpec, writer: ManifestWriter, source: str, first: str) -> str:
    """The folder that the file names of the json start from."""
    root, tree = spec.root, writer.tree
    split = stem(source.rsplit("/", 1)[-1]).removeprefix("instances_")
    places = [f"{root}/{split}", f"{root}/images/{split}", f"{root}/images", root]
    for place in places:
        if _find(writer, place, first) is not None:
            tree.deepen(place)
            return place
    raise DataError(
        f"{source} names {first}, which is in none of {', '.join(shown(place) for place in places)}"
    )


def _find(writer: ManifestWriter, place: str, file: str) -> tuple[str, Entry] | None:
    inner, _, name = file.rpartition("/")
    folder = f"{place}/{inner}" if inner else place
    if _escapes(file) or not writer.tree.has(folder):
        return None
    found = writer.tree.named(folder).get(name)
    return (folder, found) if found is not None else None


def _picture(
    writer: ManifestWriter, folder: str, file: str, source: str
) -> tuple[Span | None, str]:
    """The place of a picture, or what is wrong with it."""
    if _escapes(file):
        return None, (
            f"{source}: file_name {file!r} leads out of {shown(folder)}, expected a path below it; "
            "mend the file, or leave the picture out with `exclude`"
        )
    found = _find(writer, folder, file)
    if found is None:
        return (
            None,
            f"{source}: file_name {file} is not in {shown(folder)}, expected there; fetch it",
        )
    return writer.whole(*found), ""


def _escapes(file: str) -> bool:
    return file.startswith("/") or ".." in file.split("/") or "\\" in file

"""Somebody's own pictures: `images/NAME.jpg` with label maps `masks/NAME.png` (palette index =
object, or 0/255)."""

from __future__ import annotations

from data.manifest_writer import ManifestWriter
from data.names import choose_names
from data.sources.base import stem
from data.spec import DatasetSpec
from data.tree import Entry
from pipeline.pictures import PICTURE_SUFFIXES
from pipeline.remote import shown

EXPECTED = "images/NAME.jpg (or .png) and masks/NAME.png"


def scan(spec: DatasetSpec, writer: ManifestWriter) -> None:
    """List the pictures that have a mask."""
    images, masks = f"{spec.root}/images", f"{spec.root}/masks"
    writer.tree.need(spec.root, EXPECTED)
    errors: dict[str, str] = {}
    pictures = _by_name(writer, images, PICTURE_SUFFIXES, errors)
    labels = _by_name(writer, masks, (".png",), errors)
    for name in choose_names(spec, pictures.keys() & labels.keys(), EXPECTED):
        picture, mask = writer.whole(images, pictures[name]), writer.whole(masks, labels[name])
        writer.add(name, [(0, picture)], [(0, 0, mask)], errors.get(name, ""))


def _by_name(
    writer: ManifestWriter, folder: str, suffixes: tuple[str, ...], errors: dict[str, str]
) -> dict[str, Entry]:
    """The files of a folder by their name without ending; `errors` gets those that come twice."""
    found: dict[str, Entry] = {}
    for entry in writer.tree.files(writer.tree.need(folder, EXPECTED)):
        if entry.name.lower().endswith(suffixes):
            first = found.setdefault(stem(entry.name), entry)
            if first is not entry:
                errors[stem(entry.name)] = (
                    f"{shown(folder)}/{entry.name}: {first.name} has the same name, expected one file "
                    "of each; rename or remove one of them"
                )
    return found

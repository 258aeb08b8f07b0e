"""Somebody's own pictures: `images/NAME.jpg` with label maps `masks/NAME.png` (palette index =
object, or 0/255)."""

from __future__ import annotations

from data.manifest_writer import ManifestWriter
from data.names import choose_names
from data.sources.base import stem
from data.spec import DatasetSpec
from data.tree import Entry
from pipeline.pictures import PICTURE_SUFFIXES

EXPECTED = "images/NAME.jpg (or .png) and masks/NAME.png"


def scan(spec: DatasetSpec, writer: ManifestWriter) -> None:
    """List the pictures that have a mask."""
    images, masks = f"{spec.root}/images", f"{spec.root}/masks"
    writer.tree.need(spec.root, EXPECTED)
    pictures = _by_name(writer, images, PICTURE_SUFFIXES)
    labels = _by_name(writer, masks, (".png",))
    for name in choose_names(spec, pictures.keys() & labels.keys()):
        picture = writer.whole(images, pictures[name])
        writer.add(name, [(0, picture)], [(0, 0, writer.whole(masks, labels[name]))])


def _by_name(writer: ManifestWriter, folder: str, suffixes: tuple[str, ...]) -> dict[str, Entry]:
    files = writer.tree.files(writer.tree.need(folder, EXPECTED))
    return {stem(entry.name): entry for entry in files if entry.name.lower().endswith(suffixes)}

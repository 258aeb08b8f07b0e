"""COCO instances: a json with polygons or run-length masks, and the pictures it names."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from data.convert.items import Found, Frame, Item, Shape, below
from pipeline.errors import DataError
from pipeline.fetch import read_bytes

EXPECTED = "annotations/instances_*.json, or one *.json beside the pictures"


def read_coco(root: Path, split: str | None = None) -> Found:
    """Pictures with at least one object, in the order of the json; crowds are left out.

    root: the json, or a folder that holds it (`split` chooses among several).
    """
    source = _annotation_file(root, split)
    content = _parsed(source)
    names = {_id(c): str(c.get("name", _id(c))) for c in content.get("categories", [])}
    rows: dict[Any, list[dict[str, Any]]] = {}
    for row in content["annotations"]:
        rows.setdefault(row.get("image_id"), []).append(row)
    folders = _folders(source)
    taken: set[Any] = set()
    for number, image in enumerate(content["images"]):
        try:
            identity = _id(image)
            if identity in taken:
                raise ValueError(f"found image id {identity} twice, expected it once")
            taken.add(identity)
            mine = [row for row in rows.pop(identity, []) if not row.get("iscrowd")]
            if mine:
                yield _item(source, folders, image, mine, names)
        except (ValueError, KeyError, TypeError) as error:
            reason = f"found no {error}, expected it" if isinstance(error, KeyError) else error
            yield DataError(f"{source}, images[{number}]: {reason}; export the labels again")
        except DataError as error:
            yield error
    for stray in sorted(rows, key=str):
        yield DataError(
            f"{source}, annotation {rows[stray][0].get('id')}: found image_id {stray}, expected one "
            "of `images`; export the labels again"
        )


def _item(
    source: Path,
    folders: list[Path],
    image: dict[str, Any],
    rows: list[dict[str, Any]],
    names: dict[Any, str],
) -> Item:
    file = str(image["file_name"])
    places = [below(folder, file) for folder in folders]
    picture = next((place for place in places if place.is_file()), None)
    if picture is None:
        raise DataError(
            f"{source}, file_name {file}: found no such picture, expected it in "
            f"{', '.join(map(str, folders))}; fetch it, or move the json beside the pictures"
        )
    size = (int(image["height"]), int(image["width"])) if "height" in image else None
    shapes = tuple(_shape(source, number, row, names) for number, row in enumerate(rows, 1))
    return Item(picture.stem, (Frame(0, picture, shapes, size),), f"{source}, file_name {file}")


def _shape(source: Path, number: int, row: dict[str, Any], names: dict[Any, str]) -> Shape:
    where = f"{source}, annotation {row.get('id')}"
    segments = row.get("segmentation")
    label = names.get(row.get("category_id"), str(row.get("category_id")))
    if isinstance(segments, dict):
        return Shape(number, label, where, run=segments)
    if not isinstance(segments, list) or not segments:
        raise DataError(
            f"{where}, segmentation: found {str(segments)[:60]}, expected polygons or a run-length "
            "mask; a box alone is no mask: segment it first"
        )
    polygons = []
    for part, polygon in enumerate(segments):
        numbers = isinstance(polygon, list) and all(
            isinstance(x, int | float) and math.isfinite(x) for x in polygon
        )
        if not numbers or len(polygon) < 6 or len(polygon) % 2:
            raise DataError(
                f"{where}, segmentation[{part}]: found {str(polygon)[:60]}, expected at least three "
                "x, y pairs of finite numbers; export the labels again"
            )
        polygons.append(tuple(map(float, polygon)))
    return Shape(number, label, where, polygons=tuple(polygons))


def _annotation_file(root: Path, split: str | None) -> Path:
    if root.is_file():
        return root
    pattern = f"*{split}*.json" if split else "*.json"
    found = sorted((root / "annotations").glob(pattern)) or sorted(root.glob(pattern))
    if len(found) != 1:
        names = ", ".join(path.name for path in found[:5]) or "none"
        raise DataError(
            f"{root} holds {len(found)} such json files ({names}), expected one ({EXPECTED}); name "
            "the file itself, or a part of its name with --split"
        )
    return found[0]


def _folders(source: Path) -> list[Path]:
    """Where the pictures of an annotation file may be."""
    above = source.parent.parent if source.parent.name == "annotations" else source.parent
    split = source.stem.removeprefix("instances_")
    return [above / split, above / "images" / split, above / "images", above, source.parent]


def _parsed(source: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_bytes(source))
        lists = all(isinstance(content[key], list) for key in ("images", "annotations"))
        if not lists or not all(isinstance(r, dict) for r in content["annotations"]):
            raise TypeError("images and annotations are lists of objects")
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{source}: found no COCO instances ({type(error).__name__}: {error}), expected "
            "{images: [...], annotations: [...]}; export it as COCO segmentation"
        ) from error
    return dict(content)


def _id(row: dict[str, Any]) -> Any:
    identity = row["id"]
    if not isinstance(identity, int | str):
        raise ValueError(f"found id {identity!r}, expected a number")
    return identity

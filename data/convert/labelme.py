"""Labelme: a json beside each picture, with polygons, rectangles, circles and masks.

Shapes of the same label and group_id are one object. With `videos` every folder is a video, its
frames in the order of their names, and an object keeps its number where label and group_id return.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.convert.items import Found, Frame, Item, Shape, below
from data.names import natural
from pipeline.errors import DataError
from pipeline.fetch import read_bytes

KINDS = ("polygon", "rectangle", "circle", "mask")
CORNERS = 64
"""Of the polygon a circle becomes."""
Objects = dict[tuple[str, str, Any], int]
"""Numbers of objects by label and what tells those of one label apart."""


def read_labelme(root: Path, *, videos: bool = False) -> Found:
    """Pictures, or with `videos` folders of frames, with at least one object."""
    files = sorted(root.rglob("*.json"), key=lambda path: (path.parent, natural(path.name)))
    if not files:
        raise DataError(
            f"{root} holds no json, expected Labelme's beside the pictures; check the path"
        )
    if not videos:
        for file in files:
            try:
                frame = _frame(file, 0, {}, root)
                if frame.shapes:
                    yield Item(frame.picture.stem, (frame,), str(file))
            except DataError as error:
                yield error
        return
    for folder in sorted({file.parent for file in files}):
        yield _video(folder, [file for file in files if file.parent == folder], root)


def _video(folder: Path, files: Sequence[Path], root: Path) -> Item | DataError:
    objects: Objects = {}
    frames = []
    try:
        for number, file in enumerate(files):
            digits = re.findall(r"\d+", file.stem)
            frames.append(_frame(file, int(digits[-1]) if digits else number, objects, root))
    except DataError as error:
        return error
    numbers = [frame.number for frame in frames]
    if len(set(numbers)) < len(numbers):
        frames = [replace(frame, number=n) for n, frame in enumerate(frames)]
    return Item(folder.name, tuple(sorted(frames, key=lambda f: f.number)), str(folder))


def _frame(file: Path, number: int, objects: Objects, root: Path) -> Frame:
    content = _parsed(file)
    try:
        picture = below(root, str(file.parent.relative_to(root)), str(content["imagePath"]))
    except ValueError as error:
        raise DataError(
            f"{file}, imagePath: found {error}, expected a picture below it; "
            "convert the folder above, or mend the path"
        ) from error
    if not picture.is_file():
        beside = file.parent / picture.name
        picture = beside if beside.is_file() else picture
    if not picture.is_file():
        raise DataError(
            f"{file}, imagePath: found no picture {content['imagePath']}, expected it at {picture}; "
            "fetch it"
        )
    size: tuple[Any, Any] = (content.get("imageHeight"), content.get("imageWidth"))
    known = all(isinstance(side, int) and side > 0 for side in size)
    shapes = []
    alone: Counter[str] = Counter()
    for row, shape in enumerate(content["shapes"]):
        label, group = str(shape["label"]), shape.get("group_id")
        # Without a group every shape is an object, in a video the nth of its label on each frame.
        key = (label, "group", group) if group is not None else (label, "nth", alone[label])
        alone[label] += group is None
        shapes.append(_shape(file, row, shape, objects.setdefault(key, len(objects) + 1)))
    drawn_on = (int(size[0]), int(size[1])) if known else None
    return Frame(number, picture, tuple(shapes), drawn_on, shown=True)


def _shape(file: Path, row: int, shape: Mapping[str, Any], number: int) -> Shape:
    where = f"{file}, shapes[{row}]"
    label, kind = str(shape["label"]), shape.get("shape_type") or "polygon"
    if kind == "mask":
        points = _points(shape, where, 2)
        origin = (round(points[0][0]), round(points[0][1]))
        return Shape(number, label, where, file=_embedded(shape, where), origin=origin)
    if kind not in KINDS:
        raise DataError(
            f"{where}, shape_type: found {kind!r}, expected one of {', '.join(KINDS)}; draw the "
            "object as a polygon, or delete the shape"
        )
    points = _points(shape, where, 3 if kind == "polygon" else 2)
    if kind == "rectangle":
        points = _rectangle(points)
    if kind == "circle":
        points = _circle(points)
    return Shape(number, label, where, polygons=(tuple(x for point in points for x in point),))


def _points(shape: Mapping[str, Any], where: str, least: int) -> list[tuple[float, float]]:
    points = shape.get("points")
    try:
        found = [(float(x), float(y)) for x, y in points or ()]
        if not all(map(math.isfinite, (x for point in found for x in point))):
            raise ValueError("a number that is not finite")
        if len(found) < least:
            raise ValueError(f"{len(found)} points")
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{where}, points: found {error}, expected at least {least} points [x, y]; "
            "draw the shape again, or delete it"
        ) from error
    return found


def _rectangle(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    (x0, y0), (x1, y1) = points[:2]
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def _circle(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Labelme gives the centre and a point on the edge."""
    (x, y), edge = points[:2]
    radius = math.dist((x, y), edge)
    turns = [2 * math.pi * corner / CORNERS for corner in range(CORNERS)]
    return [(x + radius * math.cos(turn), y + radius * math.sin(turn)) for turn in turns]


def _embedded(shape: Mapping[str, Any], where: str) -> bytes:
    """The PNG inside a shape of kind mask."""
    try:
        return base64.b64decode(shape["mask"], validate=True)
    except (KeyError, TypeError, binascii.Error) as error:
        raise DataError(
            f"{where}, mask: found no picture ({type(error).__name__}: {error}), expected a PNG in "
            "base64; draw the shape again, or delete it"
        ) from error


def _parsed(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_bytes(file))
        shapes = content["shapes"]
        if not all(isinstance(shape, dict) and "label" in shape for shape in shapes):
            raise TypeError("`shapes` is a list of objects with a label")
        if not content.get("imagePath"):
            raise KeyError("imagePath")
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{file}: found no Labelme annotation ({type(error).__name__}: {error}), expected "
            "{imagePath, shapes: [{label, points, shape_type}]}; save it again in Labelme"
        ) from error
    return dict(content)

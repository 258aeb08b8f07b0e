"""YOLO segmentation: a txt beside (or in labels/ for images/) each picture, a polygon a line:
class x1 y1 x2 y2 ... as shares of width and height; class names in data.yaml."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.convert.items import Found, Frame, Item, Shape, below, posture
from pipeline.errors import DataError
from pipeline.pictures import PICTURE_SUFFIXES

SLACK = 0.01
"""How far beyond the edge a coordinate may lie; it is cut off there."""


def read_yolo(root: Path, split: str | None = None) -> Found:
    """Pictures with at least one object, of one split or of all that data.yaml names.

    root: the yaml, or the folder that holds it.
    """
    source, names, folders = _yaml(root, split)
    for folder in folders:
        for picture in _pictures(folder, source.parent):
            try:
                shapes = tuple(_shapes(picture, names, source))
                if shapes:
                    yield Item(picture.stem, (Frame(0, picture, shapes, shown=True),), str(picture))
            except DataError as error:
                yield error


def _shapes(picture: Path, names: Mapping[int, str], source: Path) -> Iterator[Shape]:
    file = _label_file(picture)
    if not file.is_file():  # YOLO's way of saying that nothing is in the picture
        return
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{file} cannot be read ({error}), expected text; export it again"
        ) from error
    filled = [(number, line.split()) for number, line in enumerate(lines, 1) if line.strip()]
    if not filled:
        return
    height, width = posture(Frame(0, picture, (), shown=True)).size
    for number, words in filled:
        where = f"{file}, line {number}"
        kind, points = _numbers(words, where)
        if kind not in names:
            raise DataError(
                f"{where}: found class {kind}, expected one of {_range(names)} (`names` of {source});"
                " export labels and data.yaml together"
            )
        polygon = tuple(x * (width, height)[i % 2] for i, x in enumerate(points))
        yield Shape(number, names[kind], where, polygons=(polygon,))


def _numbers(words: Sequence[str], where: str) -> tuple[int, list[float]]:
    """The class and the coordinates of a line, these between 0 and 1."""
    try:
        kind, points = int(float(words[0])), [float(word) for word in words[1:]]
    except ValueError as error:
        raise DataError(
            f"{where}: found {' '.join(words)[:60]!r}, expected numbers: class x1 y1 x2 y2 ...; "
            "export the labels again"
        ) from error
    if len(points) == 4:
        raise DataError(
            f"{where}: found a box (class x y width height), expected a polygon of at least three "
            "points; export the labels for segmentation"
        )
    if len(points) < 6 or len(points) % 2:
        raise DataError(
            f"{where}: found {len(points)} coordinates, expected x, y pairs of at least three points;"
            " export the labels again"
        )
    beyond = [x for x in points if not -SLACK <= x <= 1 + SLACK]
    if beyond:
        raise DataError(
            f"{where}: found the coordinate {beyond[0]:g}, expected shares of the picture from 0 to "
            "1; divide pixels by width and height"
        )
    return kind, [min(max(x, 0.0), 1.0) for x in points]


def _yaml(root: Path, split: str | None) -> tuple[Path, dict[int, str], list[Path]]:
    """The yaml, its class names by number, and the folders (or lists) of pictures it names."""
    import yaml

    source = root if root.is_file() else next(iter(sorted(root.glob("*.y*ml"))), root / "data.yaml")
    try:
        content = yaml.safe_load(source.read_text(encoding="utf-8"))
        named = content["names"]
        pairs = named.items() if isinstance(named, dict) else enumerate(named)
        names = {int(number): str(name) for number, name in pairs}
    except OSError as error:
        raise DataError(
            f"{source} cannot be read ({error.strerror}), expected YOLO's data.yaml with `names` and "
            "the folders of each split; give the folder that holds it"
        ) from error
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(
            f"{source}, `names`: found no class names ({type(error).__name__}: {reason}), expected a "
            "list or {0: name, ...}; export it again"
        ) from error
    splits = {key: content.get(key) for key in ("train", "val", "test") if content.get(key)}
    if split is not None and split not in splits:
        raise DataError(
            f"{source}: found no split {split!r}, expected one of {', '.join(splits) or 'none'}; "
            "choose another --split"
        )
    wanted = [splits[split]] if split is not None else list(splits.values())
    flat = [place for value in wanted for place in (value if isinstance(value, list) else [value])]
    return source, names, [_place(source, content, str(place)) for place in flat]


def _place(source: Path, content: dict[str, Any], place: str) -> Path:
    """A folder of data.yaml: below its `path`, below the yaml, or, as exports of some tools write
    it, one folder too high (`../train/images`)."""
    base = source.parent / str(content.get("path") or "")
    tries = [base / place, source.parent / place, source.parent / place.removeprefix("../")]
    for path in tries:
        if path.exists():
            return path
    raise DataError(
        f"{source}: found no folder {place}, expected {tries[0]} or {tries[-1]}; mend the path, or "
        "choose a split that is there with --split"
    )


def _pictures(place: Path, root: Path) -> list[Path]:
    if place.is_dir():
        return sorted(p for p in place.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES)
    lines = [line.strip() for line in place.read_text(encoding="utf-8").splitlines()]
    try:
        return [below(root, line) for line in lines if line]
    except ValueError as error:
        raise DataError(
            f"{place}: {error}, expected pictures below it; copy them there, or mend the list"
        ) from error


def _label_file(picture: Path) -> Path:
    """labels/x.txt for images/x.jpg, the last `images` of the path; else beside the picture."""
    parts = list(picture.parts)
    for position in range(len(parts) - 2, -1, -1):
        if parts[position] == "images":
            parts[position] = "labels"
            return Path(*parts).with_suffix(".txt")
    return picture.with_suffix(".txt")


def _range(names: Mapping[int, str]) -> str:
    return f"0 to {max(names)}" if sorted(names) == list(range(len(names))) else str(sorted(names))

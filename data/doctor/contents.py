"""What only the files themselves tell, as no reader needs it: boxes and polygons outside of their
pictures, ids that come twice, objects that are never seen, pictures nobody labelled.

Local folders only; json files inside tars are left to their reader.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from data.doctor.finding import Finding, Severity
from data.spec import DatasetSpec, Format
from pipeline import rle
from pipeline.errors import DataError
from pipeline.pictures import PICTURE_SUFFIXES
from pipeline.remote import is_remote
from pipeline.video import frame_total

SLACK = 1.0
"""Pixels that a box or polygon may reach over the edge: tools round differently."""


def check_contents(spec: DatasetSpec, name: str) -> Iterator[Finding]:
    """Findings about the files of a data set, in the order of their names."""
    check = CHECKS.get(spec.format)
    if check is not None and not is_remote(spec.root) and Path(spec.root).is_dir():
        yield from check(spec, name)


class _File:
    """Findings about one file, and its json."""

    def __init__(self, dataset: str, path: Path, item: str = "") -> None:
        self.dataset, self.path, self.item = dataset, path, item or path.stem

    def say(
        self, severity: Severity, check: str, field: str, found: str, expected: str, fix: str
    ) -> Finding:
        where = (self.dataset, self.item, check, severity, str(self.path), field)
        return Finding(*where, found=found, expected=expected, fix=fix)

    def json(self) -> dict[str, Any] | None:
        """The object in the file; None where its reader will say what is wrong with it."""
        try:
            content = json.loads(self.path.read_bytes())
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) else None


def _coco(spec: DatasetSpec, name: str) -> Iterator[Finding]:
    pattern = f"instances_{spec.split}.json" if spec.split else "instances_*.json"
    for path in sorted((Path(spec.root) / "annotations").glob(pattern)):
        file = _File(name, path)
        content = file.json()
        if content is None:
            continue
        images, annotations = _rows(content, "images"), _rows(content, "annotations")
        yield from _twice(file, "images, id", [image.get("id") for image in images])
        sizes = {str(i.get("id")): (i.get("height"), i.get("width")) for i in images}
        for row in annotations:
            size = sizes.get(str(row.get("image_id")), (None, None))
            yield from _region(file, row, size)


def _sa1b(spec: DatasetSpec, name: str) -> Iterator[Finding]:
    root = Path(spec.root)
    for path in sorted([*root.glob("sa_*.json"), *root.glob("*/sa_*.json")]):
        file = _File(name, path)
        content = file.json()
        if content is None:
            continue
        image, annotations = content.get("image"), _rows(content, "annotations")
        image = image if isinstance(image, dict) else {}
        for row in annotations:
            yield from _region(file, row, (image.get("height"), image.get("width")))


def _sav(spec: DatasetSpec, name: str) -> Iterator[Finding]:
    root = Path(spec.root)
    kinds = ("manual", "auto") if spec.annotations == "both" else (spec.annotations,)
    for kind in kinds:
        for path in sorted(
            [*root.glob(f"[!.]*_{kind}.json"), *root.glob(f"[!.]*/[!.]*_{kind}.json")]
        ):
            file = _File(name, path, path.name.removesuffix(f"_{kind}.json"))
            content = file.json()
            if content is not None and isinstance(content.get("masklet"), list):
                yield from _masklets(file, content, spec.annotated_every)
                yield from _longer(file, content)


def _masklets(file: _File, content: dict[str, Any], every: int | None) -> Iterator[Finding]:
    rows = [row for row in content["masklet"] if isinstance(row, list)]
    ids, columns = content.get("masklet_id"), len(rows[0]) if rows else 0
    if isinstance(ids, list):
        yield from _twice(file, "masklet_id", ids)
        if len(ids) != columns:
            found, expected = f"{len(ids)} ids", f"{columns}, one for every object of `masklet`"
            fix = "fetch the annotation again"
            yield file.say("error", "ids", "masklet_id", found, expected, fix)
    frames: Any = content.get("video_frame_count")
    if every and _finite(frames) and not (len(rows) - 1) * every < frames:
        yield file.say(
            "error",
            "frame counts",
            "video_frame_count",
            f"{int(frames)} frames",
            f"more than {(len(rows) - 1) * every}, as {len(rows)} annotated ones come every {every}th",
            "set annotated_every to the data's own, or fetch the annotation again",
        )
    for column in range(columns):
        if not any(column < len(row) and _has_pixels(row[column]) for row in rows):
            yield file.say(
                "note",
                "never-visible objects",
                f"object {column}",
                f"no pixel on any of {len(rows)} annotated frames",
                "one that is seen at least once",
                "it is never drawn as a sample; delete it to be rid of this line",
            )


def _longer(file: _File, content: dict[str, Any]) -> Iterator[Finding]:
    """Of a shorter video its reader speaks."""
    video = file.path.with_name(f"{file.item}.mp4")
    frames: Any = content.get("video_frame_count")
    if not _finite(frames) or not video.is_file():
        return
    try:
        total = frame_total(video)
    except DataError:
        return
    if total > int(frames):
        yield file.say(
            "note",
            "frame counts",
            "video_frame_count",
            f"{int(frames)} frames",
            f"{total} as {video.name} has",
            "look whether the masks fit; if not, fetch both again: they belong to different copies",
        )


def _folder(spec: DatasetSpec, name: str) -> Iterator[Finding]:
    root = Path(spec.root)
    parts = {}
    for part, suffixes in (("images", PICTURE_SUFFIXES), ("masks", (".png",))):
        found = (path for path in root.glob(f"{part}/[!.]*") if path.suffix.lower() in suffixes)
        parts[part] = {path.stem: path for path in found}
    for part, other, what in (("images", "masks", "mask"), ("masks", "images", "picture")):
        for stem in sorted(parts[part].keys() - parts[other].keys()):
            yield _unpaired(_File(name, parts[part][stem]), what, f"{root / other}/{stem}.*")


def _davis(spec: DatasetSpec, name: str) -> Iterator[Finding]:
    root = Path(spec.root)
    for inner in ("480p", "Full-Resolution", ""):
        if (root / "Annotations" / inner).is_dir():
            break
    frames, labels = root / "JPEGImages" / inner, root / "Annotations" / inner
    names = {
        folder: {path.name for path in folder.glob("[!.]*") if path.is_dir()}
        for folder in (frames, labels)
        if folder.is_dir()
    }
    if len(names) == 2:
        for video in sorted(names[frames] - names[labels]):
            yield _unpaired(_File(name, frames / video), "masks", str(labels / video))
        for video in sorted(names[labels] - names[frames]):
            yield _unpaired(_File(name, labels / video), "pictures", str(frames / video))


def _unpaired(file: _File, missing: str, place: str) -> Finding:
    return file.say(
        "note",
        "unpaired files",
        "",
        f"no {missing} of the same name",
        place,
        "fetch it; until then this one is left alone",
    )


def _region(file: _File, row: dict[str, Any], size: tuple[Any, Any]) -> Iterator[Finding]:
    """The box and the polygons of one annotation."""
    where = f"annotation {row.get('id')}"
    box = row.get("bbox")
    if isinstance(box, list) and len(box) == 4 and all(map(_finite, box)):  # else its reader speaks
        if min(box[2:]) < 0:
            yield file.say(
                "error",
                "boxes",
                f"{where}, bbox",
                str(box)[:80],
                "[x, y, width, height], the last two not negative",
                "export the annotations again: corners may have been written in place of sizes",
            )
        elif _outside([(box[0], box[1]), (box[0] + box[2], box[1] + box[3])], size):
            yield _beyond(file, f"{where}, bbox", str(box)[:80], size)
    polygons = row.get("segmentation")
    for number, polygon in enumerate(polygons if isinstance(polygons, list) else ()):
        if isinstance(polygon, list) and polygon and all(map(_finite, polygon)):
            points = list(zip(polygon[::2], polygon[1::2], strict=False))
            if _outside(points, size):
                found = f"x to {max(polygon[::2]):g}, y to {max(polygon[1::2]):g}"
                yield _beyond(file, f"{where}, segmentation[{number}]", found, size)


def _beyond(file: _File, field: str, found: str, size: tuple[Any, Any]) -> Finding:
    return file.say(
        "note",
        "outside the picture",
        field,
        found,
        f"points inside {size[1]}x{size[0]} (width x height)",
        "what lies outside is cut off; was the picture resized after it was labelled?",
    )


def _outside(points: Sequence[tuple[float, float]], size: tuple[Any, Any]) -> bool:
    if not all(map(_finite, size)):
        return False
    return any(
        not (-SLACK <= x <= size[1] + SLACK and -SLACK <= y <= size[0] + SLACK) for x, y in points
    )


def _twice(file: _File, field: str, values: Sequence[Any]) -> Iterator[Finding]:
    for value, count in Counter(str(value) for value in values if value is not None).items():
        if count > 1:
            yield file.say(
                "error",
                "duplicate ids",
                f"{field} {value}",
                f"it {count} times",
                "each once",
                "number them anew: one would hide the other",
            )


def _rows(content: dict[str, Any], key: str) -> list[dict[str, Any]]:
    rows = content.get(key)
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _has_pixels(mask: Any) -> bool:
    """Whether a run-length mask has a second run; a broken one counts, its reader speaks of it."""
    if not isinstance(mask, dict):
        return mask is not None
    try:
        return rle.area(mask) > 0
    except DataError:
        return True


CHECKS: dict[Format, Callable[[DatasetSpec, str], Iterator[Finding]]] = {
    "coco": _coco,
    "sa1b": _sa1b,
    "sav": _sav,
    "folder": _folder,
    "davis": _davis,
}

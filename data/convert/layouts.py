"""Items written in the layouts that training reads.

folder: pictures with a palette PNG each. davis: videos with a palette PNG a frame; a picture
becomes a video of one frame. sa1b: pictures with a json of run-length masks. sav: videos as a folder of
frames and a json of masklets. A palette gives every pixel to one object; the other two hold masks
that overlap.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from data.convert.items import Frame, Item, draw, posture
from data.labels import label_png
from data.masklets import masklet_facts
from pipeline import rle
from pipeline.errors import DataError
from pipeline.pictures import read_rgb

Layout = Literal["davis", "folder", "sav", "sa1b"]
PALETTE = ("davis", "folder")
MOST = 254
"""Objects in a palette: 0 is the background, 255 counts as void."""
QUALITY = 95


@dataclass(frozen=True)
class Written:
    """objects: labels by their number in the new files. empty: frames on which nothing is drawn."""

    name: str
    frames: int
    objects: Mapping[int, str]
    empty: int


def write_item(item: Item, out: Path, layout: Layout, flatten: bool) -> Written:
    """Write one item below `out`. flatten: in a palette, give pixels of several objects to the
    smallest of them.

    Raises DataError for what is malformed, and for objects that overlap where a palette cannot hold
    them.
    """
    if layout in ("folder", "sa1b") and len(item.frames) > 1:
        raise DataError(
            f"{item.found_in}: found a video of {len(item.frames)} frames, expected a picture for "
            f"the layout {layout}; use --to davis or --to sav"
        )
    return {"davis": _davis, "folder": _folder, "sav": _sav, "sa1b": _sa1b}[layout](
        item, out, flatten
    )


def _davis(item: Item, out: Path, flatten: bool) -> Written:
    empty = 0
    for frame in item.frames:
        masks, size, turned = _drawn(frame)
        empty += not masks
        label = out / "Annotations" / item.name / f"{frame.number:05d}.png"
        _picture(frame, out / "JPEGImages" / item.name / f"{frame.number:05d}", turned)
        _write(label, label_png(_palette(item, frame, masks, size, flatten)))
    return Written(item.name, len(item.frames), item.labels, empty)


def _folder(item: Item, out: Path, flatten: bool) -> Written:
    (frame,) = item.frames
    masks, size, turned = _drawn(frame)
    _picture(frame, out / "images" / item.name, turned)
    labels = _palette(item, frame, masks, size, flatten)
    _write(out / "masks" / f"{item.name}.png", label_png(labels))
    return Written(item.name, 1, item.labels, int(not masks))


def _sa1b(item: Item, out: Path, flatten: bool) -> Written:
    (frame,) = item.frames
    masks, (height, width), turned = _drawn(frame)
    _picture(frame, out / item.name, turned, jpeg=True)
    annotations = [
        {
            "id": number,
            "segmentation": (run := rle.encode(mask)),
            "bbox": list(rle.bbox(run)),
            "area": int(mask.sum()),
            "predicted_iou": 1.0,
            "stability_score": 1.0,
            "crop_box": [0.0, 0.0, float(width), float(height)],
            "point_coords": [_inside(mask)],
            "label": item.labels[number],
        }
        for number, mask in masks.items()
    ]
    image = {"image_id": item.name, "width": width, "height": height}
    image["file_name"] = f"{item.name}.jpg"
    _write_json(out / f"{item.name}.json", {"image": image, "annotations": annotations})
    return Written(item.name, 1, item.labels, int(not masks))


def _sav(item: Item, out: Path, flatten: bool) -> Written:
    """Every frame counts as annotated: they are numbered anew, 0, 1, 2, ..."""
    objects = sorted(item.labels)
    rows, areas, empty, size = [], [], 0, (0, 0)
    for position, frame in enumerate(item.frames):
        masks, here, turned = _drawn(frame)
        if position and here != size:
            raise DataError(
                f"{frame.picture}: found a frame of {here[1]}x{here[0]} (width x height), expected "
                f"{size[1]}x{size[0]} as the first of the video; split the video where it changes"
            )
        size, empty = here, empty + (not masks)
        _picture(frame, out / "frames" / item.name / f"{position:05d}", turned)
        blank = np.zeros(here, bool)
        rows.append([rle.encode(masks.get(number, blank)) for number in objects])
        areas.append([int(masks[number].sum()) if number in masks else 0 for number in objects])
    frames = len(rows)
    content = {
        "video_id": item.name,
        "video_frame_count": frames,
        "video_height": size[0],
        "video_width": size[1],
        "fps": 24,  # of 24 frames a second all are annotated
        "masklet_num": len(objects),
        "masklet_id": list(range(len(objects))),
        "masklet_label": [item.labels[number] for number in objects],
        **masklet_facts(np.array(areas).reshape(frames, len(objects)), size[0] * size[1]),
        "masklet": rows,
    }
    _write_json(out / f"{item.name}_manual.json", content)
    labels = {column: item.labels[number] for column, number in enumerate(objects)}
    return Written(item.name, frames, labels, empty)


def _drawn(frame: Frame) -> tuple[dict[int, np.ndarray], tuple[int, int], bool]:
    """The masks by object, the size they have, and whether the picture has to be turned."""
    lies = posture(frame)
    return draw(frame, lies.size), lies.size, lies.turned


def _palette(
    item: Item,
    frame: Frame,
    masks: Mapping[int, np.ndarray],
    size: tuple[int, int],
    flatten: bool,
) -> np.ndarray:
    """Object numbers, uint8 [H, W]."""
    if max(masks, default=0) > MOST:
        raise DataError(
            f"{item.found_in}: found object {max(masks)}, expected at most {MOST} in a palette; "
            f"use --to {_other(item)}"
        )
    labels = np.zeros(size, np.uint8)
    for number, mask in sorted(masks.items(), key=lambda pair: -int(pair[1].sum())):
        taken = labels[mask]
        if not flatten and taken.any():
            other = int(taken[taken > 0][0])
            raise DataError(
                f"{item.found_in}, frame {frame.number}: found objects {other} and {number} on "
                f"{int((taken == other).sum())} pixels both, expected one object a pixel, as a "
                f"palette holds no more; use --to {_other(item)}, or --flatten for the smaller on top"
            )
        labels[mask] = number
    return labels


def _other(item: Item) -> str:
    """The layout that holds overlaps."""
    return "sav" if len(item.frames) > 1 else "sa1b"


def _picture(frame: Frame, target: Path, turned: bool, jpeg: bool = False) -> None:
    """The picture as it is where that will do; `target` gets its suffix."""
    suffix = frame.picture.suffix.lower()
    target.parent.mkdir(parents=True, exist_ok=True)
    if not turned and (not jpeg or suffix in (".jpg", ".jpeg")):
        shutil.copyfile(frame.picture, target.with_name(target.name + (".jpg" if jpeg else suffix)))
        return
    pixels = read_rgb(frame.picture, upright=turned)
    if suffix == ".png" and not jpeg:
        content = cv2.imencode(".png", pixels[..., ::-1])[1]
    else:
        suffix = ".jpg"
        content = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    target.with_name(target.name + suffix).write_bytes(content.tobytes())


def _inside(mask: np.ndarray) -> list[float]:
    """x, y of the pixel deepest inside the mask."""
    depth = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return [float(x), float(y)]


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    _write(path, json.dumps(content, separators=(",", ":")).encode())

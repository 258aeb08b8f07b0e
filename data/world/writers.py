"""Scenes as files: pictures in the SA-1B form, clips in those of SA-V and DAVIS.

All bytes are made in memory and written with `write`, so that a full disk is an OSError and
nothing else.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from data.labels import label_png
from data.world.direct import present
from data.world.masklets import masklet_file
from data.world.scene import Scene, View
from data.world.spec import ANNOTATED_EVERY, FRAME_RATE
from pipeline import rle


def write(path: Path, content: bytes) -> None:
    """Write a file, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def write_json(path: Path, content: object) -> None:
    """Write a json file without spaces, as the releases do."""
    write(path, json.dumps(content, separators=(",", ":")).encode())


def jpeg(picture: np.ndarray, quality: int = 95) -> bytes:
    """A uint8 RGB picture as JPEG."""
    _, content = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return content.tobytes()


def write_sa1b(scene: Scene, number: int, folder: Path, rng: np.random.Generator) -> None:
    """`sa_N.jpg` and `sa_N.json`: every object, and named parts of some, which overlap them."""
    view = scene.view(0)
    masks = list(present(view.masks))
    masks += [part for part in present(view.parts) if rng.random() < 0.5]
    masks = [mask for mask in masks if mask.any()]
    height, width = view.picture.shape[:2]
    name = f"sa_{number}"
    write(folder / f"{name}.jpg", jpeg(view.picture))
    annotations = [
        {
            "id": number * 1000 + row,
            **_region(mask),
            "predicted_iou": round(float(rng.uniform(0.88, 1.0)), 6),
            "stability_score": round(float(rng.uniform(0.92, 1.0)), 6),
            "crop_box": [0.0, 0.0, float(width), float(height)],
            "point_coords": [_point_in(mask, rng)],
        }
        for row, mask in enumerate(masks)
    ]
    image = {"image_id": number, "width": width, "height": height, "file_name": f"{name}.jpg"}
    write_json(folder / f"{name}.json", {"image": image, "annotations": annotations})


def write_coco(scene: Scene, number: int, folder: Path) -> dict[str, Any]:
    """The JPEG of a validation picture; returns its rows of the instances file."""
    view = scene.view(0)
    height, width = view.picture.shape[:2]
    file_name = f"{number:012d}.jpg"
    write(folder / file_name, jpeg(view.picture))
    families = [scene.actors[i].sprite.family for i in scene.objects]
    found = [(f, m) for f, m in zip(families, present(view.masks), strict=True) if m.any()]
    return {
        "image": {"id": number, "width": width, "height": height, "file_name": file_name},
        "annotations": [
            {
                "id": number * 100 + row,
                "image_id": number,
                **_region(mask),
                "iscrowd": 0,
                "family": family,
            }
            for row, (family, mask) in enumerate(found)
        ],
    }


def write_sav(scene: Scene, video: str, folder: Path, rng: np.random.Generator) -> None:
    """`<video>.mp4` and the masklets at every fourth frame.

    The manual file has the objects, and in some videos a part of one as a masklet of its own,
    overlapping it. The auto file, which not every video has, has all parts too.
    """
    views = [scene.view(t) for t in range(scene.stage.frames)]
    write(folder / f"{video}.mp4", mp4([view.picture for view in views]))
    masks, parts = _annotated(views)
    named = parts[:, parts.sum((0, 2, 3)) > 80 * len(parts)]
    extra = named[:, : int(rng.random() < 0.15)]
    shown = np.concatenate([masks, extra], 1)
    frames = len(views)
    write_json(folder / f"{video}_manual.json", masklet_file(video, frames, shown, "manual", rng))
    if rng.random() < 0.8:
        every = np.concatenate([masks, named], 1)
        write_json(folder / f"{video}_auto.json", masklet_file(video, frames, every, "auto", rng))


def write_val(scene: Scene, video: str, davis_name: str, sav: Path, davis: Path) -> None:
    """One validation clip in both forms: SA-V (masks at every fourth frame) and DAVIS (on all)."""
    views = [scene.view(t) for t in range(scene.stage.frames)]
    masks, _ = _annotated(views)
    for t, view in enumerate(views):
        write(sav / "JPEGImages_24fps" / video / f"{t:05d}.jpg", jpeg(view.picture))
    for row, t in enumerate(range(0, len(views), ANNOTATED_EVERY)):
        for number, mask in enumerate(masks[row]):
            path = sav / "Annotations_6fps" / video / f"{number:03d}" / f"{t:05d}.png"
            write(path, label_png(mask.astype(np.uint8)))
    _write_davis_frames(views, davis_name, davis)


def write_davis(scene: Scene, name: str, folder: Path) -> None:
    """One clip as DAVIS keeps it: JPEGs, palette pictures whose index is the object."""
    _write_davis_frames([scene.view(t) for t in range(scene.stage.frames)], name, folder)


def mp4(pictures: Sequence[np.ndarray]) -> bytes:
    """uint8 RGB pictures as an h264 video of 24 frames a second; the same bytes on every call."""
    buffer = io.BytesIO()
    height, width = pictures[0].shape[:2]
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FRAME_RATE)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.gop_size = FRAME_RATE
        stream.codec_context.thread_count = 1  # threads would cost more than they save here
        stream.options = {"preset": "ultrafast", "crf": "16"}
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def _annotated(views: Sequence[View]) -> tuple[np.ndarray, np.ndarray]:
    """Masks and named parts on every fourth frame, bool [A, O, H, W] each.

    An object that is never seen on them is left out, as no annotator could know of it.
    """
    kept = views[::ANNOTATED_EVERY]
    masks = np.stack([present(view.masks) for view in kept])
    parts = np.stack([present(view.parts) for view in kept])
    seen = masks.any((0, 2, 3))
    return masks[:, seen], parts[:, seen]


def _write_davis_frames(views: Sequence[View], name: str, folder: Path) -> None:
    for t, view in enumerate(views):
        write(folder / "JPEGImages" / name / f"{t:05d}.jpg", jpeg(view.picture))
        masks = present(view.masks)
        numbers = np.arange(1, len(masks) + 1, dtype=np.uint8)
        labels = (masks * numbers[:, None, None]).sum(0, dtype=np.uint8)
        write(folder / "Annotations" / name / f"{t:05d}.png", label_png(labels))


def _region(mask: np.ndarray) -> dict[str, Any]:
    """The fields SA-1B and COCO share: the mask, its box x, y, width, height, and its pixels."""
    encoded = rle.encode(mask)
    return {"segmentation": encoded, "bbox": list(rle.bbox(encoded)), "area": int(mask.sum())}


def _point_in(mask: np.ndarray, rng: np.random.Generator) -> list[float]:
    """A random pixel of the mask, x, y."""
    inside = np.flatnonzero(mask)
    y, x = divmod(int(inside[rng.integers(len(inside))]), mask.shape[1])
    return [float(x), float(y)]

"""A contact sheet: one picture of a whole world, drawn from its files, for people to look at."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import av
import cv2
import numpy as np
from PIL import Image

from data.world.folder import open_world
from data.world.spec import ANNOTATED_EVERY
from data.world.writers import jpeg, write
from pipeline import rle
from pipeline.errors import DataError

_COLOURS = np.array(
    [[255, 70, 60], [70, 235, 90], [80, 130, 255], [255, 220, 40], [240, 90, 240], [60, 230, 230]]
)
_ACROSS = 10


def contact_sheet(world_dir: Path, out_png: Path) -> Path:
    """Draw pictures and clips of both splits with the outlines of their masks; returns `out_png`.

    Two rows of training pictures, one of validation pictures, five training and five validation
    clips, each a row of its annotated frames. Raises DataError naming a file that is damaged.
    """
    world = open_world(world_dir)
    rows = _picture_rows(world.path("sa1b"), rows=2) + _coco_rows(world.path("coco"), rows=1)
    rows += [_sav_row(path) for path in sorted(world.path("sav").rglob("*.mp4"))[:5]]
    davis = world.path("davis")
    names = (davis / "ImageSets" / "2017" / "val.txt").read_text().split()
    rows += [_davis_row(davis, name) for name in names[:5]]
    blank = np.full((world.spec.height, world.spec.width, 3), 255, np.uint8)
    lines = [np.concatenate((row + [blank] * _ACROSS)[:_ACROSS], 1) for row in rows]
    sheet = np.concatenate(lines or [blank])
    if out_png.suffix.lower() in (".jpg", ".jpeg"):
        write(out_png, jpeg(sheet, 92))
    else:
        write(out_png, cv2.imencode(".png", sheet[..., ::-1])[1].tobytes())
    return out_png


def outlined(picture: np.ndarray, masks: Sequence[np.ndarray]) -> np.ndarray:
    """A copy of the uint8 RGB picture with a line around each bool [H, W] mask."""
    drawn = picture.copy()
    for number, mask in enumerate(masks):
        inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
        drawn[mask & ~inner] = _COLOURS[number % len(_COLOURS)]
    return drawn


def _picture_rows(folder: Path, rows: int) -> list[list[np.ndarray]]:
    """SA-1B pictures with their masks."""
    pictures = []
    files = sorted(folder.glob("sa_*.json"), key=lambda p: int(p.stem.removeprefix("sa_")))
    for path in files[: rows * _ACROSS]:
        with _whole(path):
            annotations = json.loads(path.read_text())["annotations"]
            masks = [rle.decode(a["segmentation"], where=path.name) for a in annotations]
        pictures.append(outlined(_read(path.with_suffix(".jpg")), masks))
    return _folded(pictures)


def _coco_rows(folder: Path, rows: int) -> list[list[np.ndarray]]:
    path = folder / "annotations" / "instances_val.json"
    drawn = []
    with _whole(path):
        table = json.loads(path.read_text())
        for image in table["images"][: rows * _ACROSS]:
            mine = [a for a in table["annotations"] if a["image_id"] == image["id"]]
            masks = [rle.decode(a["segmentation"], where=image["file_name"]) for a in mine]
            drawn.append((folder / "val" / image["file_name"], masks))
    return _folded([outlined(_read(picture), masks) for picture, masks in drawn])


def _sav_row(video: Path) -> list[np.ndarray]:
    """The annotated frames of a video."""
    path = video.with_name(f"{video.stem}_manual.json")
    with _whole(path):
        masklets = json.loads(path.read_text())["masklet"]
    with _whole(video), av.open(str(video)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        if len(frames[::ANNOTATED_EVERY]) != len(masklets):
            raise ValueError(f"{len(frames)} frames, masks of {len(masklets)}")
    return [
        outlined(frame, [rle.decode(mask, where=path.name) for mask in masks])
        for frame, masks in zip(frames[::ANNOTATED_EVERY], masklets, strict=True)
    ]


def _davis_row(folder: Path, name: str) -> list[np.ndarray]:
    """Every fourth frame of a clip."""
    row = []
    for path in sorted((folder / "JPEGImages" / name).glob("*.jpg"))[::ANNOTATED_EVERY]:
        answer = folder / "Annotations" / name / f"{path.stem}.png"
        with _whole(answer):
            labels = np.asarray(Image.open(answer))
        row.append(outlined(_read(path), [labels == n for n in range(1, labels.max() + 1)]))
    return row


def _folded(pictures: list[np.ndarray]) -> list[list[np.ndarray]]:
    return [pictures[i : i + _ACROSS] for i in range(0, len(pictures), _ACROSS)]


def _read(path: Path) -> np.ndarray:
    with _whole(path):
        return np.asarray(Image.open(path).convert("RGB"))


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Around the reading of a file of the world; whatever it lacks is told with its name."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, av.error.FFmpegError) as error:
        raise DataError(
            f"{path}: this file of the synthetic world is damaged ({error}); remove the world's "
            "folder and run again, it will be drawn anew"
        ) from error

"""Answers into files: palette pictures, a picture per object, run lengths as json, overlays.

All of one picture's or video's files are made in a folder of their own, in the same places they
will have in the end:

    masks/NAME.png  or  masks/NAME/FRAME.png                    palette
    masks/NAME/OBJECT.png  or  masks/NAME/OBJECT/FRAME.png      objects
    rle/NAME.json                                               rle
    overlays/NAME.jpg  or  overlays/NAME.mp4
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from data.labels import label_png
from pipeline import rle
from pipeline.errors import ConfigError, DataError
from pipeline.storage import write_json
from stages.evaluation.media import write_video
from stages.prediction.answer import Answer
from stages.prediction.overlay import draw
from stages.prediction.spec import MOST_COLOURS, Layout

JPEG_QUALITY = 92


class MaskWriter(Protocol):
    """Takes answers in order."""

    def add(self, answer: Answer) -> None:
        """Write, or keep, the masks of one frame."""

    def close(self) -> None:
        """Write what was kept."""


class PaletteMasks:
    """One picture a frame whose pixels are the numbers of the objects, in DAVIS's colours."""

    def __init__(self, folder: Path, name: str, film: bool) -> None:
        self._folder = folder / "masks" / name if film else folder / "masks"

    def add(self, answer: Answer) -> None:
        """Write one picture."""
        numbers = np.array([0, *answer.numbers])
        if len(numbers) > 1 and not (numbers[1] > 0 and numbers[-1] <= MOST_COLOURS):
            raise ConfigError(
                f"{answer.frame}: object {numbers[1 if numbers[1] <= 0 else -1]} has no place in "
                f"a palette picture, which knows 1 to {MOST_COLOURS} (0 is background); "
                "write --format objects or --format rle"
            )
        _write(
            self._folder / f"{answer.frame}.png",
            label_png(numbers.astype(np.uint8)[answer.rows]),
        )

    def close(self) -> None:
        """Nothing is kept."""


class ObjectMasks:
    """A folder for each object, in it one picture of 0 and 1 a frame, as SA-V has them."""

    def __init__(self, folder: Path, name: str, film: bool) -> None:
        self._folder, self._film = folder / "masks" / name, film

    def add(self, answer: Answer) -> None:
        """Write one picture for each object."""
        for number, mask in zip(answer.numbers, answer.masks, strict=True):
            path = self._folder / f"{number:03d}"
            path = path / f"{answer.frame}.png" if self._film else path.with_suffix(".png")
            _write(path, label_png(mask.astype(np.uint8)))

    def close(self) -> None:
        """Nothing is kept."""


class RunLengths:
    """Run lengths in COCO's compressed form: of a picture as SA-1B has them, of a video as SA-V."""

    def __init__(self, folder: Path, name: str, film: bool, file_name: str) -> None:
        self._path = folder / "rle" / f"{name}.json"
        self._name, self._film, self._file_name = name, film, file_name
        self._size = (0, 0)
        self._frames: list[str] = []
        self._numbers: tuple[int, ...] = ()
        self._masks: list[list[dict[str, Any]]] = []
        self._details: Sequence[Any] = ()

    def add(self, answer: Answer) -> None:
        """Encode the masks of one frame."""
        self._size = answer.picture.shape[0], answer.picture.shape[1]
        self._frames.append(answer.frame)
        self._numbers, self._details = answer.numbers, answer.details
        self._masks.append([rle.encode(np.asarray(mask)) for mask in answer.masks])

    def close(self) -> None:
        """Write the json."""
        write_json(self._path, self._video() if self._film else self._picture())

    def _video(self) -> dict[str, Any]:
        height, width = self._size
        return {
            "video_id": self._name,
            "video_height": height,
            "video_width": width,
            "video_frame_count": len(self._frames),
            "frame_names": self._frames,
            "masklet_num": len(self._numbers),
            "masklet_id": list(self._numbers),
            "masklet": self._masks,
        }

    def _picture(self) -> dict[str, Any]:
        height, width = self._size
        details = self._details or [{} for _ in self._numbers]
        annotations = [
            {
                "id": number,
                "segmentation": mask,
                "area": rle.area(mask),
                "bbox": list(rle.bbox(mask)),
                **more,
            }
            for number, mask, more in zip(self._numbers, self._masks[0], details, strict=True)
        ]
        image = {"file_name": self._file_name, "height": height, "width": width}
        return {"image": image, "annotations": annotations}


def open_writers(
    layouts: Sequence[Layout], folder: Path, name: str, *, film: bool, file_name: str
) -> list[MaskWriter]:
    """A writer for each layout, below `folder`."""
    made: dict[Layout, MaskWriter] = {}
    for layout in layouts:
        if layout == "palette":
            made[layout] = PaletteMasks(folder, name, film)
        elif layout == "objects":
            made[layout] = ObjectMasks(folder, name, film)
        else:
            made[layout] = RunLengths(folder, name, film, file_name)
    return list(made.values())


def write_answers(
    answers: Iterator[Answer], writers: Sequence[MaskWriter], overlay: Path | None, fps: float
) -> None:
    """Write the answers of one item as they come.

    overlay: an .mp4 or .jpg file to draw them into, or None. Raises DataError when there are none.
    """
    kept = _written(answers, writers)
    if overlay is None:
        deque(kept, maxlen=0)
    elif overlay.suffix == ".mp4":
        write_video((draw(answer, film=True) for answer in kept), overlay, fps=fps)
    else:
        for answer in kept:
            _write(overlay, _jpeg(draw(answer)))
    for writer in writers:
        writer.close()


def _written(answers: Iterator[Answer], writers: Sequence[MaskWriter]) -> Iterator[Answer]:
    size: tuple[int, ...] | None = None
    for answer in answers:
        if answer.picture.shape != (size or answer.picture.shape):
            raise DataError(f"frame {answer.frame} has another size than the frames before it")
        size = answer.picture.shape
        for writer in writers:
            writer.add(answer)
        yield answer


def _jpeg(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)

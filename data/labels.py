"""Label maps: PNG files whose numbers are the objects."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.errors import DataError
from pipeline.fetch import read_bytes
from pipeline.pictures import open_picture
from pipeline.remote import shown

# The colours of DAVIS and PASCAL VOC label pictures: bit i of the index sets bit 7 - i // 3 of
# channel i % 3.
PALETTE = bytes(
    sum(((index >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(3))
    for index in range(256)
    for channel in range(3)
)


def read_labels(path: str | Path) -> np.ndarray:
    """The mask PNG at `path`; see `decode_labels`."""
    return decode_labels(read_bytes(path), shown(path))


def decode_labels(content: bytes, where: str) -> np.ndarray:
    """A mask PNG's bytes as integers [H, W]: 0 is background, any other number an object.

    Palette pictures give their indices, never their colours; index 255 is "void" and counts as
    background. Grey pictures give their values, except that those of only 0 and 255 (DAVIS 2016)
    hold one object, 1. Colour pictures are taken when all channels are equal.
    Raises DataError naming `where` for anything else.
    """
    picture = open_picture(content, where)
    if picture.mode == "P":
        labels = np.array(picture)
        labels[labels == 255] = 0
        return labels
    if picture.mode in ("RGB", "RGBA"):
        colours = np.asarray(picture)[..., :3]
        if (colours != colours[..., :1]).any():
            raise DataError(
                f"{where} is a colour picture, expected a palette or grey PNG whose numbers are the "
                "objects; it was converted through RGB: take the original"
            )
        labels = colours[..., 0]
    elif picture.mode in ("1", "L", "I", "I;16"):
        labels = np.asarray(picture)
    else:
        raise DataError(f"{where} has mode {picture.mode}; expected a palette or grey PNG")
    if labels.dtype == bool:
        return labels.astype(np.uint8)
    if labels.dtype == np.uint8 and not ((labels != 0) & (labels != 255)).any():
        return (labels != 0).astype(np.uint8)
    return labels


def label_ids(labels: np.ndarray) -> tuple[int, ...]:
    """The objects of a label map, ascending, without the background."""
    return tuple(label_areas(labels))


def label_areas(labels: np.ndarray) -> dict[int, int]:
    """The pixels of each object of a label map, by its number, ascending, without the
    background."""
    if labels.dtype == np.uint8:
        histogram = Image.fromarray(labels).histogram()  # a fifth of bincount's time
        return {i: count for i, count in enumerate(histogram) if i and count}
    numbers, counts = np.unique(labels, return_counts=True)
    return {int(i): int(n) for i, n in zip(numbers, counts, strict=True) if i}


def label_png(labels: np.ndarray) -> bytes:
    """Object numbers, uint8 [H, W], as the bytes of a palette PNG in DAVIS's colours."""
    picture = Image.fromarray(labels, "P")
    picture.putpalette(PALETTE)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()

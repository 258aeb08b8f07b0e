"""Pictures from files, with errors that name the file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.errors import DataError

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")


def read_bytes(path: str | Path) -> bytes:
    """The content of a file. Raises DataError when it is missing, unreadable or empty."""
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}); the data set is incomplete or was moved"
        ) from error
    if not content:
        raise DataError(f"{path} is empty (0 bytes); fetch or extract it again")
    return content


def decode_rgb(content: bytes, where: str, *, upright: bool = False) -> np.ndarray:
    """A picture file's bytes as uint8 [H, W, 3]; see `read_rgb`. Raises DataError naming `where`."""
    picture = open_picture(content, where)
    if upright:
        picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I;16"):  # Pillow would clip what is above 255 to white
        return np.repeat((np.asarray(picture) >> 8).astype(np.uint8)[..., None], 3, axis=2)
    return np.asarray(picture.convert("RGB"))


def read_rgb(path: str | Path, *, upright: bool = False) -> np.ndarray:
    """A picture file as uint8 [H, W, 3], RGB. Transparency is dropped; of 16-bit grey the upper
    eight bits count.

    upright: turned as its orientation tag (EXIF) says, as viewers show it; otherwise the tag is
    left alone, as the masks of data sets ignore it.
    """
    return decode_rgb(read_bytes(path), str(path), upright=upright)


def open_picture(content: bytes, where: str) -> Image.Image:
    """A picture file's bytes, decoded but not converted. Raises DataError naming `where`."""
    try:
        picture = Image.open(io.BytesIO(content))
        picture.load()
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        reason = str(error).split("<")[0].strip()
        raise DataError(
            f"{where} is not a whole picture ({reason}); fetch or extract it again"
        ) from error
    return picture

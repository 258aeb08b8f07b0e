"""Pictures from files, with errors that name the file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.errors import DataError
from pipeline.fetch import read_bytes
from pipeline.remote import shown

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")
WIDE_MODES = ("I", "I;16", "I;16B", "I;16L", "F")
"""Modes of one channel with more than 8 bits."""


def read_rgb(path: str | Path, upright: bool = False) -> np.ndarray:
    """A picture file as uint8 [H, W, 3], RGB; see `decode_rgb`."""
    return decode_rgb(read_bytes(path), shown(path), upright)


def decode_rgb(content: bytes, where: str, upright: bool = False) -> np.ndarray:
    """A picture file's bytes as uint8 [H, W, 3], RGB.

    Grey, palette and CMYK pictures are converted; transparency is dropped, the colours below it stay; of 16 bits
    the upper 8 are taken. upright: turn the picture as its EXIF orientation says. Data sets leave that tag alone,
    because masks are drawn on the pixels as they are stored.
    Raises DataError naming `where`.
    """
    picture = open_picture(content, where)
    if upright:
        picture = ImageOps.exif_transpose(picture)
    if picture.mode in WIDE_MODES:
        grey = _eight_bits(np.asarray(picture), where)
        return np.repeat(grey[..., None], 3, axis=-1)
    return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))  # it would copy


def open_picture(content: bytes, where: str) -> Image.Image:
    """A picture file's bytes, decoded but not converted. Raises DataError naming `where`."""
    try:
        picture = Image.open(io.BytesIO(content))
        picture.load()
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{where} claims more pixels than a picture should have ({error}); "
            "replace it, or leave it out with `exclude`"
        ) from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        reason = str(error).split("<")[0].strip()
        raise DataError(
            f"{where} is not a whole picture ({reason}), expected a JPEG or PNG; "
            "fetch or extract it again"
        ) from error
    return picture


def _eight_bits(grey: np.ndarray, where: str) -> np.ndarray:
    """One channel [H, W] of 16 bits as uint8, 65535 becoming 255."""
    if grey.size and not (grey.min() >= 0 and grey.max() <= 65535):
        raise DataError(
            f"{where} has values from {grey.min()} to {grey.max()}; expected 8 or 16 bits a channel: "
            "convert it to a picture"
        )
    return (grey.astype(np.uint32) >> 8).astype(np.uint8)

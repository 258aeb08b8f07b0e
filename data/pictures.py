"""Pictures and label maps from files, with errors that name the file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

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


def decode_rgb(content: bytes, where: str) -> np.ndarray:
    """A picture file's bytes as uint8 [H, W, 3]. Raises DataError naming `where`."""
    return np.asarray(_open(content, where).convert("RGB"))


def read_rgb(path: str | Path) -> np.ndarray:
    """A picture file as uint8 [H, W, 3], RGB; any orientation tag is left alone, as masks ignore
    it."""
    return decode_rgb(read_bytes(path), str(path))


def read_labels(path: str | Path) -> np.ndarray:
    """A mask PNG as integers [H, W]: 0 is background, any other number an object.

    Palette pictures give their indices, never their colours; index 255 is "void" and counts as
    background. Grey pictures give their values, except that those of only 0 and 255 (DAVIS 2016)
    hold one object, 1. Colour pictures are taken when all channels are equal.
    Raises DataError for anything else.
    """
    picture = _open(read_bytes(path), str(path))
    if picture.mode == "P":
        labels = np.array(picture)
        labels[labels == 255] = 0
        return labels
    if picture.mode in ("RGB", "RGBA"):
        colours = np.asarray(picture)[..., :3]
        if (colours != colours[..., :1]).any():
            raise DataError(
                f"{path} is a colour picture; expected a palette or grey PNG whose numbers are the "
                "objects (was it converted through RGB?)"
            )
        labels = colours[..., 0]
    elif picture.mode in ("1", "L", "I", "I;16"):
        labels = np.asarray(picture)
    else:
        raise DataError(f"{path} has mode {picture.mode}; expected a palette or grey PNG")
    if labels.dtype == bool:
        return labels.astype(np.uint8)
    if labels.dtype == np.uint8 and not ((labels != 0) & (labels != 255)).any():
        return (labels != 0).astype(np.uint8)
    return labels


def label_ids(labels: np.ndarray) -> tuple[int, ...]:
    """The objects of a label map, ascending, without the background."""
    if labels.dtype == np.uint8:
        return tuple(int(i) for i in np.flatnonzero(np.bincount(labels.ravel())) if i)
    return tuple(int(i) for i in np.unique(labels) if i)


def _open(content: bytes, where: str) -> Image.Image:
    try:
        picture = Image.open(io.BytesIO(content))
        picture.load()
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        reason = str(error).split("<")[0].strip()
        raise DataError(
            f"{where} is not a whole picture ({reason}); fetch or extract it again"
        ) from error
    return picture

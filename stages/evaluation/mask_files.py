"""Mask files as evaluation reads them: strictly, naming whatever does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from pipeline.errors import DataError
from stages.evaluation.jf import listing


def mask_names(folder: Path) -> list[str]:
    """The PNG files of a folder, in order. Raises DataError where there are none."""
    names = sorted(path.name for path in folder.iterdir() if path.suffix.lower() == ".png")
    if not names:
        raise DataError(f"{folder}: no PNG in it; expected one mask per annotated frame")
    return names


def read_labels(path: Path) -> np.ndarray:
    """uint8 [H, W] of object numbers. A grey file of only 0 and 255 is a single mask, object 1."""
    image = _read(path)
    labels = np.asarray(image, np.uint8)
    if image.mode == "L" and labels.max() == 255 and values_of(labels) == [255]:
        return (labels > 0).astype(np.uint8)
    return labels


def read_binary(path: Path) -> np.ndarray:
    """bool [H, W]; any non-zero value is the object, but only one such value may occur."""
    labels = np.asarray(_read(path), np.uint8)
    if labels.max() > 1 and len(values := values_of(labels)) > 1:
        raise DataError(
            f"{path}: values {listing(values)} besides 0; expected the mask of a single object"
        )
    return labels > 0


def values_of(labels: np.ndarray) -> list[int]:
    """The values of a uint8 picture other than 0, ascending; a histogram is much quicker than
    sorting."""
    counts = cv2.calcHist([labels], [0], None, [256], [0, 256]).ravel()
    return [int(value) for value in np.flatnonzero(counts) if value]


def new_values(labels: np.ndarray, known: Sequence[int | str]) -> list[int]:
    """The objects of a label map that are not among the `known`, ascending.

    Objects are mostly numbered without gaps: then the largest value, which costs little, tells that
    there is none.
    """
    if labels.max() <= len(known) and set(known) == set(range(1, len(known) + 1)):
        return []
    return [value for value in values_of(labels) if value not in known]


def planes(labels: np.ndarray, ids: Sequence[int | str]) -> np.ndarray:
    """bool [O, H, W], one plane per object number."""
    found = np.empty((len(ids), *labels.shape), bool)
    for plane, object_id in zip(found, ids, strict=True):
        np.equal(labels, int(object_id), out=plane)
    return found


def require_same_size(truth: np.ndarray, guess: np.ndarray, path: Path) -> None:
    """Raise DataError where a prediction, of the file `path`, has not the size of the truth."""
    if truth.shape != guess.shape:
        raise DataError(
            f"{path}: {guess.shape[1]}x{guess.shape[0]} pixels, the truth has "
            f"{truth.shape[1]}x{truth.shape[0]}; write predictions at the size of the annotation"
        )


def _read(path: Path) -> Image.Image:
    try:
        image = Image.open(path)
        image.load()
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: no such mask, though the truth has this frame; predict every annotated frame"
        ) from error
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise DataError(f"{path}: not a readable PNG ({error}); write it again") from error
    if image.mode not in ("P", "L", "1"):
        kind = "16 bits a pixel" if image.mode.startswith("I") else "a colour picture"
        raise DataError(
            f"{path}: {kind} (mode {image.mode}); expected one number per pixel, "
            f"a palette or grey PNG. Save the object numbers, not their colours"
        )
    return image

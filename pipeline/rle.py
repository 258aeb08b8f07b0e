"""COCO run-length masks: the form in which SA-1B, SA-V and COCO store them.

A compressed mask is `{"size": [H, W], "counts": str}`: column-major, runs of zeros and ones in
turn. Files come from anywhere, so every mask is checked for its size, its alphabet and the sum of
its runs; the C code of pycocotools, which writes the masks here, would trust what it is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco

from pipeline.errors import DataError

REMEDY = "export or fetch the annotation again, or leave the item out with `exclude`"
MOST_PIXELS = 1 << 28
"""Of a mask: a few bytes can claim any number, and decoding would take the memory for it."""


def encode(mask: np.ndarray) -> dict[str, Any]:
    """One bool [H, W] mask as `{"size": [H, W], "counts": str}`, ready for json."""
    return encode_many(mask[None])[0]


def encode_many(masks: np.ndarray) -> list[dict[str, Any]]:
    """Bool [O, H, W] masks as O run-length masks ready for json."""
    if masks.ndim != 3:
        raise DataError(f"masks to encode have shape {masks.shape}; expected [objects, H, W]")
    if len(masks) == 0:
        return []
    height, width = masks.shape[1:]
    columns = np.empty((len(masks), width, height), np.uint8)
    for mask, turned in zip(np.ascontiguousarray(masks, np.uint8), columns, strict=True):
        cv2.transpose(mask, turned)
    return [
        {"size": [int(height), int(width)], "counts": rle["counts"].decode("ascii")}
        for rle in coco.encode(columns.transpose(2, 1, 0))
    ]


def decode(
    rle: Mapping[str, Any] | None,
    size: tuple[int, int] | None = None,
    where: str = "mask",
    out: np.ndarray | None = None,
) -> np.ndarray:
    """A run-length mask as bool [H, W]; `None` is an absent object and needs `size`.

    size: the (H, W) that is expected, or None to believe the mask.
    where: file and field, for the message. out: bool zeros of `size` to draw into, of which only the
    part where the mask lies is touched.
    Raises DataError for a wrong size, broken counts, or runs that do not add up to H*W.
    """
    if rle is None:
        if size is None:
            raise DataError(f"{where}: the mask is null and no picture size is known")
        return np.zeros(size, dtype=bool) if out is None else out
    (height, width), runs = _checked(rle, size, where)
    mask = np.zeros((height, width), dtype=bool) if out is None else out
    ends = np.cumsum(runs)
    shown = np.flatnonzero(runs[1::2])
    if len(shown):  # only its own columns and rows: turning columns into rows takes the time
        left = int(ends[2 * shown[0]]) // height
        right = -(-int(ends[2 * shown[-1] + 1]) // height)
        inside = np.diff(ends.clip(left * height, right * height), prepend=left * height)
        values = np.arange(len(runs)) % 2 == 1
        columns = np.repeat(values, inside).reshape(right - left, height)
        rows = np.flatnonzero(columns.any(axis=0))
        top, bottom = int(rows[0]), int(rows[-1]) + 1
        mask[top:bottom, left:right] = columns[:, top:bottom].T
    return mask


def decode_polygons(
    polygons: Sequence[Sequence[float]],
    size: tuple[int, int],
    where: str = "polygons",
    out: np.ndarray | None = None,
) -> np.ndarray:
    """COCO polygons (each x0, y0, x1, y1, ... in pixels) as one bool mask of `size` (H, W); out: see
    `decode`."""
    bad = [p for p in polygons if not isinstance(p, Sequence) or len(p) < 6 or len(p) % 2]
    if bad or not polygons:
        raise DataError(
            f"{where}: found {len(bad) or 'no'} polygon(s) of another form, expected at least three "
            f"x, y pairs; {REMEDY}"
        )
    height, width = size
    for polygon in polygons:
        far = [x for x in polygon if not (isinstance(x, int | float) and abs(x) <= 2 * max(size))]
        if far:  # the C code takes memory for every pixel along an edge
            raise DataError(
                f"{where}: a polygon has the coordinate {far[0]!r}, expected numbers within the "
                f"picture of {width}x{height} (width x height); {REMEDY}"
            )
    parts = coco.frPyObjects([list(map(float, p)) for p in polygons], height, width)
    return decode(coco.merge(parts), size, where, out)


def area(rle: Mapping[str, Any], where: str = "mask") -> int:
    """Number of pixels of the mask."""
    return int(_checked(rle, None, where)[1][1::2].sum())


def bbox(rle: Mapping[str, Any], where: str = "mask") -> tuple[float, float, float, float]:
    """The box around the mask: x, y, width, height in pixels; zeros for an empty mask."""
    mask = decode(rle, where=where)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return 0.0, 0.0, 0.0, 0.0
    x, y = float(columns[0]), float(rows[0])
    return x, y, float(columns[-1]) + 1 - x, float(rows[-1]) + 1 - y


def run_lengths(counts: str | bytes) -> np.ndarray:
    """The runs behind a compressed string, int64, zeros first.

    Each number is a little-endian chain of 5-bit groups (character - 48; bit 5: another group
    follows; bit 4 of the last: negative), and from the fourth on is the difference to the one two
    places before.
    Raises ValueError where the string is not of that form.
    """
    raw = counts.encode("ascii") if isinstance(counts, str) else counts
    codes = np.frombuffer(raw, np.uint8).astype(np.int64) - 48
    if codes.size == 0:
        return codes
    if codes.min() < 0 or codes.max() > 63:
        raise ValueError("a character outside the alphabet")
    last = (codes & 32) == 0
    if not last[-1]:
        raise ValueError("the string is cut off")
    ends = np.flatnonzero(last)
    starts = np.concatenate(([0], ends[:-1] + 1))
    if (ends - starts).max() > 7:
        raise ValueError("a number too long")
    place = np.arange(codes.size) - np.repeat(starts, ends - starts + 1)
    runs = np.add.reduceat((codes & 31) << (5 * place), starts)
    runs -= np.where(codes[ends] & 16, 1 << (5 * (ends - starts + 1)), 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def _checked(
    rle: Mapping[str, Any], size: tuple[int, int] | None, where: str
) -> tuple[tuple[int, int], np.ndarray]:
    """The size (H, W) and the runs of a mask, or a DataError that says what is wrong with it."""
    try:
        height, width = (int(side) for side in rle["size"])
        counts = rle["counts"]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f'{where}: found {str(rle)[:80]!r}, expected {{"size": [H, W], "counts": ...}}; {REMEDY}'
        ) from error
    if size is not None and (height, width) != tuple(size):
        raise DataError(
            f"{where}: the mask is {height}x{width} (height x width), expected "
            f"{size[0]}x{size[1]} as its picture; fetch both again, they belong to different copies"
        )
    if height < 1 or width < 1 or height * width > MOST_PIXELS:
        raise DataError(
            f"{where}: the mask has size {height}x{width} (height x width), expected at least 1x1 "
            f"and at most {MOST_PIXELS} pixels; {REMEDY}"
        )
    try:
        runs = (
            run_lengths(counts) if isinstance(counts, str | bytes) else np.asarray(counts, np.int64)
        )
        total = int(runs.sum()) if runs.size else 0
        if runs.ndim != 1 or (runs.size and runs.min() < 0):
            raise ValueError("a negative run")
    except (ValueError, UnicodeEncodeError, TypeError) as error:
        raise DataError(
            f"{where}: the run lengths of the mask are broken ({error}), expected those of COCO; "
            f"{REMEDY}"
        ) from error
    if total != height * width:
        raise DataError(
            f"{where}: the runs of the mask cover {total} pixels, expected {height * width} as its "
            f"size {height}x{width} has; {REMEDY}"
        )
    return (height, width), runs

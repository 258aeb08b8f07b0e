"""The json beside an SA-V video: where the masks of each annotated frame are, how large they are,
and what follows from that.

A file is read through once; what is found is kept in the disk cache, so that later a sample reads
only the rows of its own frames.
"""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import numpy as np

from data.jsonscan import elements
from data.manifest import Place
from pipeline import rle
from pipeline.diskcache import disk_cache
from pipeline.errors import DataError
from pipeline.fetch import local_copy, read_bytes

USUAL_STEP = 4
"""Video frames from one annotated frame to the next in SA-V: 24 a second, annotated at 6."""


class Masklets(NamedTuple):
    """T annotated frames, O objects.

    rows: int64 [T, 2], first byte and end of the masks of each frame. areas: int64 [T, O], pixels;
    0 where an object is absent. scores: float [T, O], stability; NaN where there is none; no rows
    where the file has no such field, or one of another shape. pixels: of a frame. step: video frames from one annotated
    frame to the next.
    """

    rows: np.ndarray
    areas: np.ndarray
    scores: np.ndarray
    pixels: int
    step: int


def read_masklets(place: Place) -> Masklets:
    """The index of the annotation file at `place`. Raises DataError naming file and field."""
    key = f"masklets 1 {place.path} {place.size} {place.version}"
    content = disk_cache().read(key, lambda: _pack(index_masklets(place)))
    try:
        with np.load(io.BytesIO(content)) as found:
            pixels, step = found["scalars"].tolist()
            return Masklets(found["rows"], found["areas"], found["scores"], pixels, step)
    except (ValueError, OSError, KeyError):  # not whole after a power cut
        disk_cache().drop(key)
        return index_masklets(place)


def read_row(place: Place, masklets: Masklets, position: int) -> list[Any]:
    """The masks of all objects on one annotated frame, as in the file."""
    start, end = masklets.rows[position].tolist()
    content = read_bytes(local_copy(place.path, place.version), start, end - start)
    try:
        (element,) = elements(b'{"row": [' + content + b"]}", ("row",))
    except ValueError as error:
        raise DataError(
            f"{place.path}: masklet[{position}] is not where it was ({error}); the file was changed "
            "while in use: start again"
        ) from error
    return list(element.value)


def index_masklets(place: Place) -> Masklets:
    """Read an annotation file through."""
    where = place.path
    rows: list[tuple[int, int]] = []
    areas: list[list[int]] = []
    facts: dict[str, Any] = {}
    size: Any = None
    try:
        content = read_bytes(local_copy(place.path, place.version))
        for field, number, start, end, value in elements(content, ("masklet", "masks")):
            if number < 0:
                facts[field] = value
                continue
            if not isinstance(value, list):
                raise TypeError(f"masklet[{number}] is {str(value)[:60]}")
            rows.append((start, end))
            masks = [(mask, f"{where}, masklet[{number}][{i}]") for i, mask in enumerate(value)]
            areas.append([rle.area(mask, which) if mask else 0 for mask, which in masks])
            size = size or next((mask["size"] for mask, _ in masks if mask), None)
        if not rows:
            raise KeyError("masklet")
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{where} is not an SA-V annotation ({type(error).__name__}: {error}), expected "
            "{masklet: [annotated frame][object] run-length masks}; "
            "fetch it again, or leave it out with `exclude`"
        ) from error
    widths = {len(row) for row in areas}
    if len(widths) != 1:
        raise DataError(
            f"{where}: `masklet` has rows of {sorted(widths)} objects, expected one length; "
            "fetch it again, or leave it out with `exclude`"
        )
    shape = (len(rows), widths.pop())
    return Masklets(
        np.array(rows, np.int64),
        np.array(areas, np.int64).reshape(shape),
        _scores(facts.get("masklet_stability_score"), shape),
        int(size[0] * size[1]) if size else 0,
        step_of(facts, shape[0]),
    )


def step_of(facts: dict[str, Any], annotated: int) -> int:
    """Video frames from one annotated frame to the next: `fps` says how many of 24 are annotated,
    or it follows from the numbers of frames. 0 where no step fits them."""
    try:
        if facts.get("fps"):
            rate = int(facts["fps"])
            return 24 // rate if rate > 0 else 0
        frames = int(facts.get("video_frame_count") or 0)
    except (ValueError, TypeError, OverflowError):
        return 0
    if frames <= 0 or annotated < 2 or (frames - 1) // USUAL_STEP + 1 == annotated:
        return USUAL_STEP
    step = (frames - 1) // (annotated - 1)
    return step if step and (frames - 1) // step + 1 == annotated else 0


def masklet_facts(areas: np.ndarray, pixels: int) -> dict[str, list[Any]]:
    """What the release says about each masklet, from its pixels on the annotated frames.

    areas: int [T, O]. pixels: of a frame. Sizes are means over the frames where the object is seen;
    its visibility changes when it vanishes or returns after it first appeared.
    """
    seen = areas > 0
    first = seen.argmax(0).tolist()
    sizes = [float(a[s].mean()) if s.any() else 0.0 for a, s in zip(areas.T, seen.T, strict=True)]
    changes = [int((s[f + 1 :] != s[f:-1]).sum()) for s, f in zip(seen.T, first, strict=True)]
    return {
        "masklet_size_rel": [size / pixels for size in sizes],
        "masklet_size_abs": sizes,
        "masklet_size_bucket": [_bucket(size) for size in sizes],
        "masklet_visibility_changes": changes,
        "masklet_first_appeared_frame": first,
        "masklet_frame_count": [len(areas)] * len(sizes),
    }


def _bucket(size: float) -> str:
    """The release's three sizes, by mean visible pixels (COCO's bounds reproduce its example)."""
    if size < 32**2:
        return "small"
    return "medium" if size < 96**2 else "large"


def _scores(found: Any, shape: tuple[int, int]) -> np.ndarray:
    """The field as [T, O], or no rows where it is missing or something else; the manual files have
    one null for each object."""
    try:
        scores = np.array(found, np.float32)  # null becomes NaN
        return np.broadcast_to(scores if found else np.empty(0), shape)
    except (ValueError, TypeError):
        return np.empty((0, shape[1]), np.float32)


def _pack(masklets: Masklets) -> bytes:
    file = io.BytesIO()
    rows, areas, scores, pixels, step = masklets
    np.savez(file, rows=rows, areas=areas, scores=scores, scalars=np.array([pixels, step]))
    return file.getvalue()

"""Masks drawn on pictures: single panels, strips of one clip, and a film of several clips side by
side.

Everything is drawn at the size it will be seen at, not enlarged afterwards, so that small frames
stay crisp. Inputs are never written to. Colours follow the order of the objects and are the same in
every panel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw

from pipeline.drawing import (
    INK,
    PALETTE,
    PAPER,
    colour,
    enlarged,
    filled,
    font,
    outline,
    text_width,
)

__all__ = ["INK", "PALETTE", "PAPER", "Shown", "colour", "film", "panel", "strip"]

GAP = 6
"""Pixels between panels."""


@dataclass(frozen=True)
class Shown:
    """A clip and what several trackers made of it.

    frames: uint8 [T, H, W, 3]. truth: bool [T, O, H, W]. answers: by label, bool [T, O, H, W].
    """

    name: str
    frames: np.ndarray
    truth: np.ndarray
    answers: Mapping[str, np.ndarray]


def panel(
    frame: np.ndarray,
    masks: np.ndarray | None = None,
    truth: np.ndarray | None = None,
    *,
    height: int,
) -> np.ndarray:
    """One frame, enlarged or reduced to `height` pixels.

    masks (bool [O, H, W]) are filled in the objects' colours on a dimmed picture; truth (bool [O,
    H, W]) is drawn as a thin white outline. Returns uint8 [height, width, 3].
    """
    size = (round(frame.shape[1] * height / frame.shape[0]), height)
    grows = height > frame.shape[0]
    picture = cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC if grows else cv2.INTER_AREA)
    if masks is not None:
        planes = [enlarged(mask, size) for mask in masks]
        picture = filled(picture, planes)
        for row, plane in enumerate(planes):
            outline(picture, plane, colour(row), max(1, round(height / 110)))
    for mask in truth if truth is not None else ():
        outline(picture, enlarged(mask, size), (255, 255, 255), 1)
    return picture


def strip(shown: Shown, *, columns: int = 6, height: int = 110) -> np.ndarray:
    """One clip as a table of panels: time from left to right; below the picture with its true
    outlines, one row for each answer. Returns uint8 [.., .., 3]."""
    times = np.unique(np.linspace(0, len(shown.frames) - 1, columns).round().astype(int))
    width = round(shown.frames.shape[2] * height / shown.frames.shape[1])
    rows = [_row([panel(shown.frames[t], None, shown.truth[t], height=height) for t in times])]
    rows += [
        _row([panel(shown.frames[t], masks[t], height=height) for t in times])
        for masks in shown.answers.values()
    ]
    labels = ["truth", *shown.answers]
    margin = max(text_width(label, 15) for label in labels) + 2 * GAP
    sheet = Image.new("RGB", (margin + rows[0].shape[1] + GAP, _stacked(rows) + GAP + 20), PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, t in enumerate(times):
        place = (margin + column * (width + GAP) + width // 2, 4)
        draw.text(place, f"frame {t}", INK, font=font(13), anchor="ma")
    top = 20 + GAP // 2
    for label, row in zip(labels, rows, strict=True):
        sheet.paste(Image.fromarray(row), (margin, top))
        draw.text((margin - GAP, top + height // 2), label, INK, font=font(15), anchor="rm")
        top += height + GAP
    return np.asarray(sheet)


def film(clips: Sequence[Shown], *, height: int = 180, title: str = "") -> Iterator[np.ndarray]:
    """Several clips at once: a row for each, and a column for the truth and for each label of the
    first clip.

    A clip that ends earlier stays on its last frame. Yields uint8 [height, width, 3] of even size,
    as videos need.
    """
    labels = list(clips[0].answers)
    widths = max(round(clip.frames.shape[2] * height / clip.frames.shape[1]) for clip in clips)
    heading = _heading(["truth", *labels], widths, title)
    for t in range(max(len(clip.frames) for clip in clips)):
        rows = [heading]
        for clip in clips:
            now = min(t, len(clip.frames) - 1)
            panels = [panel(clip.frames[now], None, clip.truth[now], height=height)]
            panels += [
                panel(clip.frames[now], clip.answers[label][now], clip.truth[now], height=height)
                for label in labels
            ]
            rows.append(_row([_centred(part, widths) for part in panels]))
        yield _even(_column(rows))


def _heading(labels: Sequence[str], width: int, title: str) -> np.ndarray:
    top = 30 if title else 0
    sheet = Image.new("RGB", (len(labels) * (width + GAP) - GAP, top + 28), PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((4, 4), title, INK, font=font(18))
    for column, label in enumerate(labels):
        middle = column * (width + GAP) + width // 2
        size = 17 if text_width(label, 17) <= width else 12
        draw.text((middle, top + 15), label, INK, font=font(size), anchor="mm")
    return np.asarray(sheet)


def _row(panels: Sequence[np.ndarray]) -> np.ndarray:
    gap = np.full((panels[0].shape[0], GAP, 3), PAPER, np.uint8)
    parts = [part for one in panels for part in (one, gap)]
    return np.concatenate(parts[:-1], 1)


def _column(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Rows of equal width, one below the other, with a border around."""
    gap = np.full((GAP, rows[0].shape[1], 3), PAPER, np.uint8)
    sheet = np.concatenate([part for row in rows for part in (row, gap)][:-1])
    border = dict.fromkeys(("top", "bottom", "left", "right"), 2 * GAP)
    return cv2.copyMakeBorder(sheet, **border, borderType=cv2.BORDER_CONSTANT, value=PAPER)


def _centred(part: np.ndarray, width: int) -> np.ndarray:
    missing = width - part.shape[1]
    return cv2.copyMakeBorder(
        part, 0, 0, missing // 2, missing - missing // 2, cv2.BORDER_CONSTANT, value=PAPER
    )


def _even(picture: np.ndarray) -> np.ndarray:
    down, right = picture.shape[0] % 2, picture.shape[1] % 2
    return cv2.copyMakeBorder(picture, 0, down, 0, right, cv2.BORDER_CONSTANT, value=PAPER)


def _stacked(rows: Sequence[np.ndarray]) -> int:
    return sum(row.shape[0] + GAP for row in rows)

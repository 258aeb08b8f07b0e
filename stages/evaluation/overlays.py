"""Masks drawn on pictures: single panels, strips of one clip, and a film of several clips side by
side.

Everything is drawn at the size it will be seen at, not enlarged afterwards, so that small frames
stay crisp. Inputs are never written to. Colours follow the order of the objects and are the same in
every panel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

PALETTE = (
    (255, 92, 92),
    (64, 186, 255),
    (255, 203, 61),
    (108, 222, 140),
    (190, 140, 255),
    (255, 150, 66),
    (72, 226, 208),
    (255, 122, 200),
)
INK, PAPER = (232, 234, 240), (19, 22, 30)
"""Lettering and ground of strips and films, which are dark in any theme."""
FILL = 0.5
"""Opacity of a mask."""
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


def colour(index: int) -> tuple[int, int, int]:
    """The colour of object number `index`, RGB; colours repeat after the palette's eight."""
    return PALETTE[index % len(PALETTE)]


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
        planes = [_enlarged(mask, size) for mask in masks]
        picture = _filled(picture, planes)
        for row, plane in enumerate(planes):
            _outline(picture, plane, colour(row), max(1, round(height / 110)))
    for mask in truth if truth is not None else ():
        _outline(picture, _enlarged(mask, size), (255, 255, 255), 1)
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
    margin = max(_text_width(label, 15) for label in labels) + 2 * GAP
    sheet = Image.new("RGB", (margin + rows[0].shape[1] + GAP, _stacked(rows) + GAP + 20), PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, t in enumerate(times):
        place = (margin + column * (width + GAP) + width // 2, 4)
        draw.text(place, f"frame {t}", INK, font=_font(13), anchor="ma")
    top = 20 + GAP // 2
    for label, row in zip(labels, rows, strict=True):
        sheet.paste(Image.fromarray(row), (margin, top))
        draw.text((margin - GAP, top + height // 2), label, INK, font=_font(15), anchor="rm")
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


def _filled(picture: np.ndarray, planes: Sequence[np.ndarray]) -> np.ndarray:
    """The picture, darker and paler where nothing is, tinted where an object is. Overlaps mix."""
    grey = picture.mean(2, keepdims=True)
    dimmed = (0.6 * (0.5 * picture + 0.5 * grey)).astype(np.float32)
    weight = np.zeros((*picture.shape[:2], 1), np.float32)
    tint = np.zeros(picture.shape, np.float32)
    for row, plane in enumerate(planes):
        weight += plane[..., None]
        tint += plane[..., None] * np.array(colour(row), np.float32)
    inside = np.minimum(weight, 1)
    tinted = (1 - FILL) * picture + FILL * tint / np.maximum(weight, 1)
    return (inside * tinted + (1 - inside) * dimmed).round().astype(np.uint8)


def _enlarged(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask at another size with a smooth edge instead of stairs: float32 [height, width], 0 to
    1."""
    scale = max(size[1] / mask.shape[0], 1.0)
    soft = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    soft = cv2.GaussianBlur(soft, (0, 0), 0.35 * scale) if scale > 1 else soft
    return np.clip((soft - 0.5) * 2.5 * scale + 0.5, 0, 1)


def _outline(
    picture: np.ndarray, plane: np.ndarray, ink: tuple[int, int, int], thickness: int
) -> None:
    """Draw the edge of a mask into `picture`, with a dark line under it that keeps it visible on
    any ground."""
    contours, _ = cv2.findContours(
        (plane > 0.5).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
    )
    cv2.drawContours(picture, contours, -1, (10, 10, 14), thickness + 2, cv2.LINE_AA)
    cv2.drawContours(picture, contours, -1, ink, thickness, cv2.LINE_AA)


def _heading(labels: Sequence[str], width: int, title: str) -> np.ndarray:
    top = 30 if title else 0
    sheet = Image.new("RGB", (len(labels) * (width + GAP) - GAP, top + 28), PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((4, 4), title, INK, font=_font(18))
    for column, label in enumerate(labels):
        middle = column * (width + GAP) + width // 2
        size = 17 if _text_width(label, 17) <= width else 12
        draw.text((middle, top + 15), label, INK, font=_font(size), anchor="mm")
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


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _text_width(text: str, size: int) -> int:
    return int(_font(size).getlength(text)) + 1

"""Training clips drawn as rows of frames with the outlines of their objects, for people to look
at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw

from data.settings import PLAIN, Augment
from data.types import Clip
from pipeline.drawing import INK, PAPER, colour, font, outline, text_width

GAP, LETTERS = 4, 13
"""Pixels between frames, and height of the lettering."""
MOST_FRAMES = 8
"""Of a row; longer clips show so many, evenly spread."""


def ways(augment: Augment) -> dict[str, Augment]:
    """Each change that `augment` makes, alone and certain; then all together, as in training."""
    plain = replace(PLAIN, each_frame=augment.each_frame, exact=augment.exact)
    found = {"as it is": PLAIN}
    for item in fields(Augment):
        value = getattr(augment, item.name)
        if item.name in ("each_frame", "exact") or value == getattr(PLAIN, item.name):
            continue
        certain: Any = 1.0 if item.name in CHANCES else value
        found[f"{item.name} {_words(value)}"] = replace(plain, **{item.name: certain})
    return found | {"all together": augment}


CHANCES = ("flip", "gray", "blur", "mosaic")


def clip_sheet(rows: Sequence[tuple[str, Clip]], tile: int) -> np.ndarray:
    """Each clip a row of frames `tile` pixels high, its text before it. Returns uint8 [height,
    width, 3]."""
    before = max(text_width(line, LETTERS) for text, _ in rows for line in text.split("\n"))
    lines = [_row(text, clip, tile, before + 2 * GAP) for text, clip in rows]
    width = max(line.shape[1] for line in lines)
    sheet = np.full((GAP + sum(len(line) + GAP for line in lines), width + GAP, 3), PAPER, np.uint8)
    top = GAP
    for line in lines:
        sheet[top : top + len(line), : line.shape[1]] = line
        top += len(line) + GAP
    return sheet


def _row(text: str, clip: Clip, tile: int, before: int) -> np.ndarray:
    shown = np.linspace(0, len(clip.frames) - 1, min(MOST_FRAMES, len(clip.frames))).round()
    cells = [_cell(clip, int(t), tile) for t in shown]
    row = np.full((tile, before + sum(cell.shape[1] + GAP for cell in cells), 3), PAPER, np.uint8)
    left = before
    for cell in cells:
        row[:, left : left + cell.shape[1]] = cell
        left += cell.shape[1] + GAP
    picture = Image.fromarray(row)
    ImageDraw.Draw(picture).multiline_text((GAP, GAP), text, fill=INK, font=font(LETTERS))
    return np.asarray(picture)


def _cell(clip: Clip, t: int, tile: int) -> np.ndarray:
    height, width = clip.frames.shape[1:3]
    size = (round(width * tile / height), tile)
    method = cv2.INTER_AREA if tile < height else cv2.INTER_CUBIC
    cell = cv2.resize(clip.frames[t], size, interpolation=method)
    for o, mask in enumerate(clip.masks[t]):
        plane = cv2.resize(mask.astype(np.float32), size, interpolation=method)
        outline(cell, plane, colour(o), 1)
    return cell


def _words(value: Any) -> str:
    """A setting as in a recipe, without what is off."""
    if isinstance(value, tuple):
        return " to ".join(f"{part:g}" for part in value)
    if isinstance(value, float | int):
        return f"{value:g}"
    parts = {item.name: getattr(value, item.name) for item in fields(value)}
    return "".join(f"\n {name} {part:g}" for name, part in parts.items() if part)

"""A sheet of overlays: a few items of every data set with their masks, for people to look at.

Pictures stand in rows of equal height; a video is one row of its frames. Every object has a
colour, an outline and a tag with its number, the same on all frames of its video.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image, ImageDraw

from data.doctor.survey import Survey, counted
from data.sources import Dataset
from pipeline.drawing import INK, PAPER, colour, enlarged, font, outline, text_width
from pipeline.errors import PipelineError

WIDTH, MARGIN, GAP = 1600, 28, 8
HEIGHT = 190
"""Of a row, before it is fitted to the width."""
PICTURE_ROWS, VIDEO_ROWS, VIDEO_FRAMES = 3, 4, 6
TAGS = 12
"""Objects of a picture that get a tag, the largest first; all have an outline."""
DIM = (150, 156, 170)
FILL = 0.3


@dataclass(frozen=True)
class _Tile:
    """One frame. numbers: what the tags say. rows: which colour each object has."""

    pixels: np.ndarray
    masks: np.ndarray
    numbers: Sequence[int]
    rows: Sequence[int]
    caption: str

    @property
    def aspect(self) -> float:
        return self.pixels.shape[1] / self.pixels.shape[0]


def draw_sheet(datasets: Sequence[tuple[Dataset, Survey]]) -> np.ndarray:
    """One picture of all data sets, uint8 [H, 1600, 3], RGB. Items that cannot be read are left
    out: they have their lines elsewhere."""
    parts = [_blank(MARGIN)]
    for dataset, survey in datasets:
        parts.append(_heading(dataset, survey))
        rows = _video_rows(dataset) if dataset.kind == "video" else _picture_rows(dataset)
        for row in rows:
            parts += [_drawn_row(row), _blank(GAP)]
        parts.append(_blank(MARGIN))
    return np.concatenate(parts)


def _picture_rows(dataset: Dataset) -> Iterator[list[_Tile]]:
    """Rows as wide as the sheet, of pictures from all over the data set."""
    row: list[_Tile] = []
    made = 0
    for index in _spread(len(dataset), 6 * PICTURE_ROWS * 2):
        tile = _tile(dataset, index, 0)
        if tile is None:
            continue
        row.append(tile)
        if HEIGHT * sum(one.aspect for one in row) >= WIDTH - 2 * MARGIN:
            yield row
            row, made = [], made + 1
            if made == PICTURE_ROWS:
                return
    if row:
        yield row


def _video_rows(dataset: Dataset) -> Iterator[list[_Tile]]:
    """A row for each of a few videos."""
    made = 0
    for index in _spread(len(dataset), 3 * VIDEO_ROWS):
        try:
            positions = _spread(dataset.frame_count(index), VIDEO_FRAMES)
            seen = {i for position in positions for i in dataset.visible(index, position)}
        except PipelineError:
            continue
        tiles = [_tile(dataset, index, position, sorted(seen)) for position in positions]
        row = [tile for tile in tiles if tile is not None]
        if row and seen:
            yield row
            made += 1
        if made == VIDEO_ROWS:
            return


def _tile(
    dataset: Dataset, index: int, position: int, objects: Sequence[int] | None = None
) -> _Tile | None:
    """One frame; None when it cannot be read, or is a picture without an object."""
    try:
        number = dataset.frame_numbers(index)[position]
        visible = dataset.visible(index, position)
        pixels = dataset.pictures(index, [position])[0]
        masks = dataset.masks(index, position, visible, pixels.shape[:2])
    except PipelineError:
        return None
    if dataset.kind == "image" and not visible:
        return None
    order = list(objects if objects is not None else visible)
    rows = [order.index(i) for i in visible]
    size = f"{pixels.shape[1]}x{pixels.shape[0]}"
    many = counted(len(visible), "object")
    name = dataset.names[index]
    said = f"{name}  {many}  {size}"
    if dataset.kind == "video":
        said = f"{name}  {size}  frame {number}" if position == 0 else f"frame {number}"
    short = all(i < 1000 for i in order)
    return _Tile(pixels, masks, visible if short else [row + 1 for row in rows], rows, said)


def _drawn_row(tiles: Sequence[_Tile]) -> np.ndarray:
    """Tiles side by side, as high as makes them fill the width."""
    room = WIDTH - 2 * MARGIN - GAP * (len(tiles) - 1)
    height = min(round(room / sum(tile.aspect for tile in tiles)), round(1.6 * HEIGHT))
    row = Image.new("RGB", (WIDTH, height + 22), PAPER)
    left = MARGIN
    for tile in tiles:
        picture = Image.fromarray(_drawn(tile, height))
        row.paste(picture, (left, 0), _rounded(picture.size))
        text = _shortened(tile.caption, picture.width)
        ImageDraw.Draw(row).text((left + 2, height + 4), text, DIM, font=font(13))
        left += picture.width + GAP
    return np.asarray(row)


def _drawn(tile: _Tile, height: int) -> np.ndarray:
    """The frame at its size on the sheet, with masks, outlines and tags."""
    size = (round(tile.aspect * height), height)
    grows = height > tile.pixels.shape[0]
    how = cv2.INTER_CUBIC if grows else cv2.INTER_AREA
    picture = cv2.resize(tile.pixels, size, interpolation=how)
    areas = tile.masks.sum((1, 2))
    order = np.argsort(-areas)  # small ones last, on top
    planes = {int(n): enlarged(tile.masks[n], size) for n in order if areas[n]}
    for n, plane in planes.items():
        picture = _tinted(picture, plane, colour(tile.rows[n]))
    for n, plane in planes.items():
        outline(picture, plane, colour(tile.rows[n]), max(2, round(height / 100)))
    canvas = Image.fromarray(picture)
    for n in list(planes)[:TAGS]:
        _tag(canvas, planes[n], str(tile.numbers[n]), colour(tile.rows[n]))
    return np.asarray(canvas)


def _tinted(picture: np.ndarray, plane: np.ndarray, ink: tuple[int, int, int]) -> np.ndarray:
    weight = FILL * plane[..., None]
    return ((1 - weight) * picture + weight * np.array(ink, np.float32)).round().astype(np.uint8)


def _tag(canvas: Image.Image, plane: np.ndarray, text: str, ink: tuple[int, int, int]) -> None:
    """The object's number where its mask is widest."""
    inside = np.pad((plane > 0.5).astype(np.uint8), 1)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = (int(v) for v in np.unravel_index(int(depth.argmax()), depth.shape))
    width, height = text_width(text, 13) + 9, 17
    x = min(max(x, width // 2 + 1), canvas.width - width // 2 - 2)
    y = min(max(y, height // 2 + 1), canvas.height - height // 2 - 2)
    box = (x - width // 2, y - height // 2, x + width // 2, y + height // 2)
    draw = ImageDraw.Draw(canvas)
    draw.rounded_rectangle(box, height // 2, fill=ink, outline=(10, 10, 14))
    draw.text((x, y), text, (16, 18, 24), font=font(13), anchor="mm")


def _heading(dataset: Dataset, survey: Survey) -> np.ndarray:
    line = Image.new("RGB", (WIDTH, 52), PAPER)
    draw = ImageDraw.Draw(line)
    draw.text((MARGIN, 8), dataset.name, INK, font=font(26))
    what = "picture" if dataset.kind == "image" else "video"
    said = ",   ".join(
        (
            f"{survey.spec.format}:   {counted(survey.items, what)}",
            f"{counted(survey.masks, 'mask')} on {counted(survey.frames, 'frame')} looked at",
            counted(survey.errors, "error"),
            counted(len(survey.findings) - survey.errors, "note"),
        )
    )
    draw.text((MARGIN + text_width(dataset.name, 26) + 18, 17), said, DIM, font=font(16))
    return np.asarray(line)


def _shortened(text: str, width: int) -> str:
    while text and text_width(text, 13) > width:
        text = text[:-2] + "…" if len(text) > 2 else ""
    return text


@lru_cache(maxsize=8)
def _rounded(size: tuple[int, int]) -> Image.Image:
    """A mask with round corners, drawn large and reduced so that they are smooth."""
    large = Image.new("L", (4 * size[0], 4 * size[1]), 0)
    ImageDraw.Draw(large).rounded_rectangle((0, 0, *large.size), 24, fill=255)
    return large.resize(size, Image.Resampling.LANCZOS)


def _blank(height: int) -> np.ndarray:
    return np.full((height, WIDTH, 3), PAPER, np.uint8)


def _spread(count: int, most: int) -> list[int]:
    return [int(n) for n in np.unique(np.linspace(0, count - 1, min(count, most)).round())]

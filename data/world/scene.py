"""A scene: a background, objects before it in depth order, and how it looks on each frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from data.world.motion import Camera, Stage, Track
from data.world.sprites import Sprite

CANVAS_MARGIN = 0.16  # of each side: what the camera can see beyond the picture


class View(NamedTuple):
    """One frame: the picture uint8 RGB [H, W, 3], and the exact visible masks.

    masks: bool [O, H, W] of the annotated objects; they never overlap.
    parts: bool [O, H, W], the visible named part of each object; all False where it has none.
    """

    picture: np.ndarray
    masks: np.ndarray
    parts: np.ndarray


@dataclass(frozen=True)
class Actor:
    """A sprite on its way. Actors that are not annotated only hide others."""

    sprite: Sprite
    track: Track
    annotated: bool = True


@dataclass(frozen=True)
class Scene:
    """Actors from back to front over a canvas, seen by a camera.

    canvas: uint8 RGB, larger than the picture. sunlight: where shadows fall, pixels x and y.
    """

    stage: Stage
    canvas: np.ndarray
    actors: tuple[Actor, ...]
    camera: Camera
    sunlight: tuple[float, float]

    @property
    def objects(self) -> list[int]:
        """Which actors are annotated, by their place in depth order."""
        return [i for i, actor in enumerate(self.actors) if actor.annotated]

    def view(self, frame: int) -> View:
        """Draw one frame."""
        picture = self._background(frame)
        owner, parts = self._owners(frame, picture)
        chosen = self.objects
        masks = owner[None] == np.array(chosen, np.int8)[:, None, None]
        part_masks = np.zeros_like(masks)
        for row, index in enumerate(chosen):
            if index in parts:
                part_masks[row] = masks[row] & parts[index]
        return View(picture, masks, part_masks)

    def visible(self, frame: int) -> np.ndarray:
        """Visible pixels of each annotated object, int [O], without drawing the picture."""
        owner, _ = self._owners(frame, None)
        counts = np.bincount(owner.ravel() + 1, minlength=len(self.actors) + 1)[1:]
        return counts[self.objects]

    def _background(self, frame: int) -> np.ndarray:
        stage, zoom, shift = self.stage, self.camera.zoom[frame], self.camera.shift[frame]
        middle = np.array([stage.width, stage.height]) / 2
        margin = np.array([self.canvas.shape[1], self.canvas.shape[0]]) / 2 - middle
        move = (1 - zoom) * middle + shift - zoom * margin
        matrix = np.array([[zoom, 0, move[0]], [0, zoom, move[1]]])
        return cv2.warpAffine(
            self.canvas,
            matrix,
            (stage.width, stage.height),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT,
        )

    def _owners(
        self, frame: int, picture: np.ndarray | None
    ) -> tuple[np.ndarray, dict[int, np.ndarray]]:
        """Which actor each pixel shows (int8 [H, W], -1 background), and the masks of named parts.

        A pixel belongs to the foremost actor that covers at least half of it. With a picture, the
        actors are drawn into it on the way.
        """
        stage = self.stage
        owner = np.full((stage.height, stage.width), -1, np.int8)
        parts: dict[int, np.ndarray] = {}
        for index, actor in enumerate(self.actors):
            pose = self._pose(actor, frame)
            window = _window(pose, actor.sprite.paint.shape[0], stage)
            if window is None:
                continue
            rows, columns = window
            if picture is None:
                cover = _warp(actor.sprite.paint[..., 3], pose, window)
            else:
                self._shade(picture, actor.sprite, pose)
                paint = _warp(actor.sprite.paint, pose, window)
                cover = paint[..., 3]
                under = picture[rows, columns]
                mixed = under * (1 - cover)[..., None]
                mixed += paint[..., :3]
                mixed += np.float32(0.5)  # rounds; paint never exceeds 255 times the coverage
                picture[rows, columns] = mixed.astype(np.uint8)
                if actor.annotated and actor.sprite.part is not None:
                    whole = np.zeros(owner.shape, bool)
                    whole[rows, columns] = _warp(actor.sprite.part, pose, window) >= 0.5
                    parts[index] = whole
            owner[rows, columns][cover >= 0.5] = index
        return owner, parts

    def _shade(self, picture: np.ndarray, sprite: Sprite, pose: np.ndarray) -> None:
        """Darken the picture where the sprite keeps the light away."""
        moved = pose.copy()
        moved[:, 2] += self.sunlight
        window = _window(moved, sprite.paint.shape[0], self.stage)
        if window is None:
            return
        rows, columns = window
        dark = 1 - np.float32(0.42) * _warp(sprite.shadow, moved, window)
        picture[rows, columns] = (picture[rows, columns] * dark[..., None]).astype(np.uint8)

    def _pose(self, actor: Actor, frame: int) -> np.ndarray:
        """From sprite pixels to picture pixels, [2, 3]."""
        x, y, angle, wide, tall = (float(values[frame]) for values in actor.track)
        zoom, shift = float(self.camera.zoom[frame]), self.camera.shift[frame]
        c, s = np.cos(angle) * zoom, np.sin(angle) * zoom
        turn = np.array([[c * wide, -s * tall], [s * wide, c * tall]])
        middle = np.array([self.stage.width, self.stage.height]) / 2
        place = zoom * (np.array([x, y]) - middle) + middle + shift
        centre = (actor.sprite.paint.shape[0] - 1) / 2
        return np.concatenate([turn, (place - turn @ [centre, centre])[:, None]], 1)


Window = tuple[slice, slice]


def _window(pose: np.ndarray, side: int, stage: Stage) -> Window | None:
    """Rows and columns of the picture that a sprite can touch, None where it is out of sight."""
    corners = pose[:, :2] @ np.array([[0, side, 0, side], [0, 0, side, side]]) + pose[:, 2:]
    x0, y0 = np.floor(corners.min(1)).astype(int) - 1
    x1, y1 = np.ceil(corners.max(1)).astype(int) + 2
    x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, stage.width), min(y1, stage.height)
    if x0 >= x1 or y0 >= y1:
        return None
    return slice(y0, y1), slice(x0, x1)


def _warp(image: np.ndarray, pose: np.ndarray, window: Window) -> np.ndarray:
    """A sprite's layer as it appears in the window, zero outside the sprite."""
    rows, columns = window
    matrix = pose.copy()
    matrix[:, 2] -= (columns.start, rows.start)
    size = (columns.stop - columns.start, rows.stop - rows.start)
    return cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR)

"""Random changes of a clip, one operation after the other on Pillow pictures: the exact way.

Gives the pixels of the reference's chain of transforms for the same draws: flip, affine at the
picture's own size (picture bilinear, masks nearest), antialiased resize, jitter, grey, a jitter for
each frame. Slow; it is there to compare with and to repeat published trainings to the pixel.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance, ImageOps

from data.changes import OPERATIONS, ClipChange, FrameChange, Geometry, Shades
from data.colour import blur
from data.types import Clip
from data.warp import FILL, tile


def change_exactly(clip: Clip, change: ClipChange, side: int) -> Clip:
    """Carry `change` out; every object is kept."""
    inner = side if change.tile is None else side // 2
    frames, masks = [], []
    steps = change.frames
    first = steps[0].geometry
    flipped = clip.masks[0][..., ::-1] if first.flip else clip.masks[0]
    if first.is_affine and not affine_masks(flipped, first).any(axis=(1, 2)).all():
        # As the reference: an object that leaves the first frame leaves the whole clip unturned.
        steps = tuple(s._replace(geometry=Geometry(flip=s.geometry.flip)) for s in steps)
    for picture, objects, step in zip(clip.frames, clip.masks, steps, strict=True):
        frames.append(_picture(picture, step, inner))
        masks.append(_masks(objects, step.geometry, inner))
    pictures, shown = np.stack(frames), np.stack(masks)
    if change.tile is not None:
        pictures, shown = tile(pictures, shown, side, change.tile)
    return replace(clip, frames=pictures, masks=shown)


def affine_picture(picture: Image.Image, geometry: Geometry) -> Image.Image:
    """`picture` turned, sheared, shifted and zoomed about its centre, at its own size."""
    x, y = picture.width / 2, picture.height / 2
    (a, b, c), (d, e, f) = geometry.inverse(picture.width, picture.height).tolist()
    return picture.transform(
        picture.size,
        Image.Transform.AFFINE,
        (a, b, c - a * x - b * y + x, d, e, f - d * x - e * y + y),
        resample=Image.Resampling.BILINEAR,
        fillcolor=FILL,
    )


def affine_masks(masks: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Bool [O, H, W] masks, each pixel taken from the nearest one. In single precision throughout,
    as that decides which one is the nearest."""
    height, width = masks.shape[1:]
    theta = torch.tensor(geometry.inverse(width, height), dtype=torch.float32)
    x = torch.linspace(0.5 - width / 2, width / 2 - 0.5, width)
    y = torch.linspace(0.5 - height / 2, height / 2 - 0.5, height)
    points = torch.stack((*torch.meshgrid(x, y, indexing="xy"), torch.ones(height, width)), -1)
    scaled = theta.T / torch.tensor([0.5 * width, 0.5 * height])
    grid = (points.view(1, -1, 3) @ scaled).view(1, height, width, 2)
    planes = torch.from_numpy(masks.astype(np.float32))[None]
    sampled = F.grid_sample(planes, grid, mode="nearest", align_corners=False)
    return sampled[0].numpy() > 0.5


def resize_masks(masks: np.ndarray, side: int) -> np.ndarray:
    """Bool [O, H, W] masks at side x side: antialiased, rounded; a half becomes nothing."""
    if not len(masks):
        return np.zeros((0, side, side), dtype=bool)
    planes = torch.from_numpy(masks.astype(np.float32))[None]
    smooth = F.interpolate(planes, (side, side), mode="bilinear", antialias=True)
    return smooth[0].round().numpy() > 0


def shade(picture: Image.Image, shades: Shades) -> Image.Image:
    """A jitter in its order, each part rounded to whole grey levels."""
    enhance = {
        "brightness": ImageEnhance.Brightness,
        "contrast": ImageEnhance.Contrast,
        "saturation": ImageEnhance.Color,
    }
    for position in shades.order:
        operation = OPERATIONS[position]
        amount = getattr(shades, operation)
        if operation == "hue":
            picture = _turn_hue(picture, amount) if amount else picture
        elif amount != 1:
            picture = enhance[operation](picture).enhance(amount)
    return picture


def grey(picture: Image.Image) -> Image.Image:
    """`picture` without its colours, still RGB."""
    return picture.convert("L").convert("RGB")


def _picture(pixels: np.ndarray, step: FrameChange, side: int) -> np.ndarray:
    picture = Image.fromarray(pixels)
    if step.geometry.flip:
        picture = ImageOps.mirror(picture)
    if step.geometry.is_affine:
        picture = affine_picture(picture, step.geometry)
    picture = picture.resize((side, side), Image.Resampling.BILINEAR)
    picture = shade(picture, step.shades)
    if step.gray:
        picture = grey(picture)
    pixels = np.asarray(shade(picture, step.frame_shades))
    return blur(pixels, step.blur) if step.blur else pixels


def _masks(masks: np.ndarray, geometry: Geometry, side: int) -> np.ndarray:
    if geometry.flip:
        masks = masks[..., ::-1]
    if geometry.is_affine:
        masks = affine_masks(masks, geometry)
    return resize_masks(masks, side)


def _turn_hue(picture: Image.Image, amount: float) -> Image.Image:
    hue, saturation, value = picture.convert("HSV").split()
    turned = hue.point([(level + int(255 * amount)) % 256 for level in range(256)])
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")

"""Pictures as people have them, to the pixels the network wants."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from pipeline.errors import DataError

Picture = np.ndarray | Tensor | Image.Image
"""What may be asked about; see `rgb_pixels`."""


def rgb_pixels(picture: Picture, where: str = "the picture") -> Tensor:
    """A picture as uint8 [H, W, 3], RGB.

    picture: uint8 [H, W, 3] in RGB; grey as [H, W] or [H, W, 1], whose level becomes all three
    colours; [H, W, 4], whose alpha is dropped; uint16 in any of these forms, of which the upper
    eight bits count, as where files are read; as an array, a tensor, or a PIL picture of any mode.
    An orientation tag is left alone: masks belong to the stored pixels.
    Raises DataError for anything else: floats (their range is anybody's guess), bools, signed
    numbers, channels first, no pixels at all.
    """
    if isinstance(picture, Image.Image):
        picture = _stored_levels(picture)
    pixels = picture if isinstance(picture, Tensor) else torch.from_numpy(np.array(picture))
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.dtype not in (torch.uint8, torch.uint16) or not _has_channels_last(pixels):
        raise DataError(
            f"{where}: found {str(pixels.dtype).removeprefix('torch.')} {tuple(picture.shape)}; "
            f"expected uint8 [H, W, 3] in RGB (or grey [H, W], RGBA [H, W, 4], uint16). "
            f"{_remedy(pixels)}"
        )
    if pixels.numel() == 0:
        raise DataError(f"{where}: found no pixels, shape {tuple(picture.shape)}; read it again")
    if pixels.dtype == torch.uint16:
        pixels = (pixels.int() >> 8).byte()
    return pixels.expand(-1, -1, 3) if pixels.shape[2] == 1 else pixels[..., :3]


def squeeze(pixels: Tensor, side: int, device: torch.device) -> Tensor:
    """uint8 [H, W, 3] to float32 0..255 [1, 3, side, side]: the whole picture, whatever its
    proportions, as in training."""
    planes = pixels.permute(2, 0, 1)[None].to(device).float()
    return F.interpolate(
        planes, size=(side, side), mode="bilinear", align_corners=False, antialias=True
    )


def _stored_levels(picture: Image.Image) -> np.ndarray:
    """The levels of a PIL picture; 16-bit modes as they are, which PIL's own conversion clips."""
    if picture.mode.startswith("I"):
        levels = np.asarray(picture)
        if levels.size and levels.min() >= 0 and levels.max() <= 65535:
            return levels.astype(np.uint16)
        return levels
    return np.asarray(picture.convert("RGB"))


def _has_channels_last(pixels: Tensor) -> bool:
    return pixels.ndim == 3 and pixels.shape[2] in (1, 3, 4)


def _remedy(pixels: Tensor) -> str:
    if pixels.is_floating_point():
        return "Scale it to 0..255 and round: (x * 255).round() where it is 0..1"
    if pixels.ndim == 3 and not _has_channels_last(pixels) and pixels.shape[0] in (1, 3, 4):
        return "Channels come first here: permute(1, 2, 0)"
    if pixels.ndim == 4:
        return "Give several pictures as a list to set_images"
    return "Convert it to uint8"

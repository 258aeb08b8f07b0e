"""Where things are: sine encodings of cells and times, and rotations for attention.

The tables depend on sizes only, so they are made once per size and device and kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

TEMPERATURE = 10000.0


def _constant(table: Tensor, device: torch.device) -> Tensor:
    return table.float().to(device)


@lru_cache(maxsize=32)
def sine_map(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """The sine encoding of a grid's cells: float32 [1, channels, height, width].

    The first half of the channels encodes y, the second x; within a half, sine and cosine
    alternate. Rows count from 1 and are scaled so that the last one is at 2 pi.
    """
    # A table born in inference mode could not be used in training later.
    with torch.inference_mode(False):
        half = channels // 2
        waves = _wavelengths(half)

        def axis(length: int) -> Tensor:
            steps = torch.arange(1, length + 1, dtype=torch.float32)
            phase = (steps / (steps[-1] + 1e-6) * (2 * math.pi))[:, None] / waves
            return torch.stack([phase[:, 0::2].sin(), phase[:, 1::2].cos()], dim=2).flatten(1)

        y = axis(height)[:, None, :].expand(height, width, half)
        x = axis(width)[None, :, :].expand(height, width, half)
        return _constant(torch.cat([y, x], dim=2).permute(2, 0, 1)[None], device)


def sine_times(times: Sequence[float], channels: int, device: torch.device) -> Tensor:
    """The sine encoding of moments: float32 [len(times), channels], first sines, then cosines."""
    with torch.inference_mode(False):
        moments = torch.tensor(times, dtype=torch.float32)
        phase = moments[:, None] / _wavelengths(channels // 2)
        return _constant(torch.cat([phase.sin(), phase.cos()], dim=1), device)


@lru_cache(maxsize=32)
def rotations(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """Rotary position table of a grid in raster order: float32 [height * width, channels / 2, 2].

    Adjacent channels form a complex number, and so does the last dimension here. The first half of
    these turn with x, the second with y.
    """
    with torch.inference_mode(False):
        quarter = channels // 4
        frequency = 1.0 / TEMPERATURE ** (torch.arange(0, channels, 4)[:quarter].float() / channels)
        cell = torch.arange(height * width)
        x = (cell % width).float()[:, None] * frequency
        y = (cell // width).float()[:, None] * frequency
        angle = torch.cat([x, y], dim=1)
        return _constant(torch.stack([angle.cos(), angle.sin()], dim=2), device)


def rotate(x: Tensor, table: Tensor, count: int) -> Tensor:
    """Turn adjacent channel pairs of the first `count` rows of x [..., L, D] by a table
    [L', D/2, 2], repeated where count = k L'; the other rows stay as they are.

    Complex arithmetic is several times faster when eager, but the compiler has no code for it.
    """
    placed, rest = x[..., :count, :], x[..., count:, :]
    pairs = placed.float().unflatten(-1, (-1, 2)).unflatten(-3, (-1, len(table)))
    if torch.compiler.is_compiling():
        turned = _rotate_real(pairs, table)
    else:
        numbers = torch.view_as_complex(pairs.contiguous()) * torch.view_as_complex(table)
        turned = torch.view_as_real(numbers)
    turned = turned.reshape(placed.shape).to(x.dtype)
    return torch.cat([turned, rest], dim=-2) if rest.shape[-2] else turned


def _rotate_real(pairs: Tensor, table: Tensor) -> Tensor:
    """The complex product written out: pairs [..., L, D/2, 2]."""
    cos, sin = table.unbind(-1)
    real, imaginary = pairs.unbind(-1)
    return torch.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], dim=-1)


def _wavelengths(channels: int) -> Tensor:
    """[channels]: from 1 to TEMPERATURE, each twice in a row."""
    index = torch.arange(channels, dtype=torch.float32)
    return TEMPERATURE ** (2 * torch.div(index, 2, rounding_mode="floor") / channels)

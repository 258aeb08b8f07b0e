"""Weights, inputs and stored numbers of the golden files: formulas instead of megabytes.

Every random array is drawn from numpy's default generator, seeded with the CRC-32 of a key, so the
files hold outputs only. README.md beside this file says where they come from.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.config import SAM2Config, TrunkConfig, preset
from model.sam2 import SAM2

FOLDER = Path(__file__).resolve().parent

MICRO = replace(
    preset("tiny", image_size=128),
    trunk=TrunkConfig(width=16, heads=1, depths=(1, 2, 3, 2), global_blocks=(5,)),
)
"""The network of the `micro_*` files: published widths behind a trunk of 16 channels, 128 px."""


def generator(key: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(key.encode()))


def normal(key: str, *shape: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    drawn = generator(key).standard_normal(shape) * scale + shift
    return torch.from_numpy(drawn.astype(np.float32))


def uniform(key: str, *shape: int, low: float, high: float) -> Tensor:
    drawn = generator(key).random(shape) * (high - low) + low
    return torch.from_numpy(drawn.astype(np.float32))


def ellipses(
    key: str,
    frames: int,
    objects: int,
    height: int,
    width: int,
    absent: tuple[tuple[int, int], ...] = (),
) -> NDArray[np.bool_]:
    """Drifting ellipses [frames, objects, height, width]; `absent` lists blank (frame, object)."""
    random = generator(key)
    rows, columns = np.mgrid[0:height, 0:width]
    masks = np.zeros((frames, objects, height, width), dtype=bool)
    for item in range(objects):
        centre = random.uniform(0.25, 0.75, 2)
        radius = random.uniform(0.10, 0.25, 2)
        speed = random.uniform(-0.03, 0.03, 2)
        for frame in range(frames):
            x = (columns + 0.5) / width - (centre[0] + speed[0] * frame)
            y = (rows + 0.5) / height - (centre[1] + speed[1] * frame)
            masks[frame, item] = (x / radius[0]) ** 2 + (y / radius[1]) ** 2 <= 1
    for frame, item in absent:
        masks[frame, item] = False
    return masks


def waves(key: str, frames: int, height: int, width: int) -> Tensor:
    """A video of six slow waves per colour and some noise: float32 [frames, 3, height, width]."""
    random = generator(key)
    rows, columns = np.mgrid[0:height, 0:width]
    video = np.zeros((frames, 3, height, width))
    for colour in range(3):
        for _ in range(6):
            across, down = random.uniform(-4, 4, 2)
            phase = random.uniform(0, 2 * np.pi)
            strength = random.uniform(0.2, 0.8)
            drift = random.uniform(-0.4, 0.4)
            angle = 2 * np.pi * (across * columns / width + down * rows / height) + phase
            for frame in range(frames):
                video[frame, colour] += strength * np.sin(angle + drift * frame)
    video += 0.1 * random.standard_normal(video.shape)
    return torch.from_numpy(video.astype(np.float32))


def weight(name: str, shape: tuple[int, ...]) -> Tensor:
    """The value of one state dict entry."""
    value = generator(name).standard_normal(shape).astype(np.float32)
    if name.endswith("weight") and len(shape) == 1:
        value = 1 + np.float32(0.1) * value
    elif name.endswith("weight"):
        value = value / np.sqrt(np.float32(value.size // shape[0]))
    elif name.endswith("gamma"):
        value = np.float32(0.1) * value
    elif not name.endswith("positional_encoding_gaussian_matrix"):
        value = np.float32(0.02) * value
    return torch.from_numpy(value)


def golden_model(config: SAM2Config = MICRO) -> SAM2:
    """The network with the weights of the golden files, in eval mode."""
    model = SAM2(config)
    filled = {name: weight(name, tuple(old.shape)) for name, old in model.state_dict().items()}
    model.load_state_dict(filled)
    return model.eval()


class Golden:
    """One file of stored numbers: small arrays whole, large ones as every n-th number and
    moments."""

    def __init__(self, name: str) -> None:
        self.stored = np.load(FOLDER / name)
        self.meta: dict[str, Any] = (
            json.loads(str(self.stored["@meta"])) if "@meta" in self.stored.files else {}
        )

    def keys(self) -> list[str]:
        return sorted({key.split("@")[0] for key in self.stored.files if not key.startswith("@")})

    def array(self, key: str) -> NDArray[Any]:
        """A whole array; KeyError where only a sample is stored."""
        if f"{key}@bits" in self.stored.files:
            shape = tuple(self.stored[f"{key}@shape"])
            bits = np.unpackbits(self.stored[f"{key}@bits"], count=int(np.prod(shape)))
            return bits.reshape(shape).astype(bool)
        if f"{key}@step" in self.stored.files:
            raise KeyError(f"{key} is stored as a sample only")
        return np.asarray(self.stored[key])

    def tensor(self, key: str) -> Tensor:
        return torch.from_numpy(self.array(key).copy())

    def distance(self, key: str, value: Tensor | NDArray[Any] | float) -> float:
        """The largest absolute difference; for whole numbers and bools, how many differ.

        A sampled array is also compared by mean, deviation, minimum and maximum of the whole.
        """
        ours = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        if f"{key}@step" not in self.stored.files:
            theirs = self.array(key)
            assert ours.shape == theirs.shape, f"{key}: {ours.shape}, stored {theirs.shape}"
            if theirs.dtype.kind in "biu":
                return float((ours != theirs).sum())
            return float(np.abs(ours.astype(np.float64) - theirs).max()) if theirs.size else 0.0
        shape, step = tuple(self.stored[f"{key}@shape"]), int(self.stored[f"{key}@step"])
        assert ours.shape == shape, f"{key}: {ours.shape}, stored {shape}"
        wide = ours.astype(np.float64)
        moments = np.array([wide.mean(), wide.std(), wide.min(), wide.max()])
        return float(
            max(
                np.abs(wide.reshape(-1)[::step] - self.stored[key]).max(),
                np.abs(moments - self.stored[f"{key}@stats"][:4]).max(),
            )
        )

    def check(self, key: str, value: Tensor | NDArray[Any] | float, atol: float) -> None:
        """Assert that `value` is the stored one to `atol`."""
        distance = self.distance(key, value)
        assert distance <= atol, f"{key}: differs by {distance:.3g}, allowed {atol:.3g}"

"""What a frozen image encoder says about a frame, worked out once and kept on disk.

A frame is known by its pixels and an encoder by its weights, so nothing that is found can be out of
date: other data, other weights, another side or precision have other names. Frames go through the
encoder one by one, so that the answer does not depend on which of them were kept.
"""

from __future__ import annotations

import hashlib

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from model.sam2 import SAM2
from model.types import ImageFeatures
from pipeline.diskcache import DiskCache, configured
from pipeline.errors import ConfigError
from stages.settings import ENCODER

LEVELS = ("s4", "s8", "s16")
CHANNELS_LAST = ".channels_last"
"""Ends the name of a map that is stored as it lies in memory: channels after rows and columns."""
SHOWN = 2


def feature_files() -> DiskCache:
    """Where features are kept: in `SAM2_FEATURE_CACHE`, or with the other caches, at most
    `SAM2_FEATURE_CACHE_GB` (50 by default). Raises StorageError for another size."""
    return configured("features", "SAM2_FEATURE_CACHE", "SAM2_FEATURE_CACHE_GB")


class FeatureCache:
    """The image encoder of `model`, behind files on disk."""

    def __init__(self, model: SAM2, files: DiskCache, numbers: str = "fp32") -> None:
        """numbers: in which the encoder computes, such as the stage's precision; features of other
        ones are other features.

        Raises ConfigError when a part of the encoder is trained.
        """
        self.model, self.files = model, files
        parts = tuple(glob.removesuffix("*") for glob in ENCODER)
        own = {n: p for n, p in model.named_parameters() if n.startswith(parts)}
        trained = [name for name, parameter in own.items() if parameter.requires_grad]
        if trained:
            raise ConfigError(
                f"cache_features: {len(trained)} parameters of the image encoder are trained "
                f"({', '.join(trained[:SHOWN])}{', ...' if len(trained) > SHOWN else ''}), so that "
                "its features change; freeze them (lora.layers can leave them out), or leave "
                "cache_features off"
            )
        values = {n: v for n, v in model.state_dict().items() if n.startswith(parts)}
        config = repr(model.config.trunk), model.config.hidden, model.config.image_size
        self._encoder = (
            f"{_digest(values)} {config} {numbers} {model.device.type} {torch.__version__}"
        )

    def see(self, frames: Tensor) -> tuple[ImageFeatures, ...]:
        """As `encode_clip`: per frame, features of B rows, bit for bit the same whether they were
        kept or not.

        frames: uint8 [B, T, 3, S, S], best on the host; only those that are new go to the device.
        """
        found = []
        for t in range(frames.shape[1]):
            rows = [self._of_frame(frame) for frame in frames[:, t].cpu()]
            levels = [torch.cat([row[name] for row in rows]) for name in LEVELS]
            found.append(
                self.model.features(*(x.to(self.model.device, non_blocking=True) for x in levels))
            )
        return tuple(found)

    def _of_frame(self, frame: Tensor) -> dict[str, Tensor]:
        """The levels of one frame [3, S, S], on the host."""
        pixels = frame.permute(1, 2, 0).contiguous()  # as the loader leaves it: no copy
        key = f"{hashlib.sha256(pixels.numpy().data).hexdigest()} {self._encoder}"
        try:
            return _unpacked(self.files.read(key, lambda: self._seen(frame)))
        except SafetensorError:  # a power cut while it was written
            self.files.drop(key)
            return _unpacked(self.files.read(key, lambda: self._seen(frame)))

    def _seen(self, frame: Tensor) -> bytes:
        """One frame through the encoder, as the content of a safetensors file."""
        with torch.no_grad():
            images = self.model.normalise(frame[None].to(self.model.device))
            features = self.model.encode(images)
        named = {}
        for name in LEVELS:
            level = getattr(features, name).cpu()
            last = not level.is_contiguous()
            named[name + CHANNELS_LAST * last] = (
                level.permute(0, 2, 3, 1) if last else level
            ).contiguous()
        return save(named)


def _unpacked(content: bytes) -> dict[str, Tensor]:
    """The levels by name, laid out in memory as the encoder did: kernels and so the last bits of
    what follows depend on it."""
    return {
        name.removesuffix(CHANNELS_LAST): value.permute(0, 3, 1, 2)
        if name.endswith(CHANNELS_LAST)
        else value
        for name, value in load(content).items()
    }


def _digest(values: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(values.items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()

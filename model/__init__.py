"""SAM 2.1 in plain torch, with the weights of the published checkpoints.

The names below are loaded when they are first asked for: the settings in `model.policy` and
`model.config` can be read without loading torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.config import SAM2Config, preset
    from model.image_predictor import ImagePredictor
    from model.mask_generator import MaskGenerator
    from model.sam2 import SAM2, build_sam2
    from model.video_predictor import VideoPredictor
    from model.weights import load_checkpoint, load_component, save_checkpoint

_HOMES = {
    "ImagePredictor": "model.image_predictor",
    "MaskGenerator": "model.mask_generator",
    "SAM2": "model.sam2",
    "SAM2Config": "model.config",
    "VideoPredictor": "model.video_predictor",
    "build_sam2": "model.sam2",
    "load_checkpoint": "model.weights",
    "load_component": "model.weights",
    "preset": "model.config",
    "save_checkpoint": "model.weights",
}

__all__ = [
    "SAM2",
    "ImagePredictor",
    "MaskGenerator",
    "SAM2Config",
    "VideoPredictor",
    "build_sam2",
    "load_checkpoint",
    "load_component",
    "preset",
    "save_checkpoint",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'model' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)

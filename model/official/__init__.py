"""The call names of the original SAM 2 package: notebooks written for it run by changing an import.

A thin layer without a network or numbers of its own. `from sam2.build_sam import build_sam2` becomes
`from model.official import build_sam2`, and so on for the names below, which are loaded when they
are first asked for. What has no counterpart here is an error, never ignored.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.official.build import (
        build_sam2,
        build_sam2_hf,
        build_sam2_video_predictor,
        build_sam2_video_predictor_hf,
    )
    from model.official.image import SAM2ImagePredictor
    from model.official.masks import SAM2AutomaticMaskGenerator
    from model.official.video import SAM2VideoPredictor

_HOMES = {
    "SAM2AutomaticMaskGenerator": "model.official.masks",
    "SAM2ImagePredictor": "model.official.image",
    "SAM2VideoPredictor": "model.official.video",
    "build_sam2": "model.official.build",
    "build_sam2_hf": "model.official.build",
    "build_sam2_video_predictor": "model.official.build",
    "build_sam2_video_predictor_hf": "model.official.build",
}

__all__ = [
    "SAM2AutomaticMaskGenerator",
    "SAM2ImagePredictor",
    "SAM2VideoPredictor",
    "build_sam2",
    "build_sam2_hf",
    "build_sam2_video_predictor",
    "build_sam2_video_predictor_hf",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'model.official' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)

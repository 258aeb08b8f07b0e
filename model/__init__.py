"""SAM 2.1 in plain torch, with the weights of the published checkpoints."""

from model.config import SAM2Config, preset
from model.sam2 import SAM2, build_sam2
from model.weights import load_checkpoint, save_checkpoint

__all__ = ["SAM2", "SAM2Config", "build_sam2", "load_checkpoint", "preset", "save_checkpoint"]

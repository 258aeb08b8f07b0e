"""The reference evaluator's synthetic videos, as arrays and as folders; and a predictor."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from model import ImagePredictor
from model.sam2 import build_sam2

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
PALETTE = [value for index in range(256) for value in (index, 255 - index, index * 7 % 256)]


def write_labels(folder: Path, maps: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, labels in enumerate(maps):
        image = Image.fromarray(labels.astype(np.uint8), "P")
        image.putpalette(PALETTE)
        image.save(folder / f"{number:05d}.png")


def write_masks(folder: Path, masks: np.ndarray, value: int = 255) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, mask in enumerate(masks):
        Image.fromarray(mask.astype(np.uint8) * value).save(folder / f"{number * 4:05d}.png")


@dataclass
class Golden:
    """Stored masks and the reference evaluator's answers about them."""

    arrays: Any
    results: dict[str, Any]

    def masks(self, key: str) -> np.ndarray:
        if key in self.arrays:
            return self.arrays[key]
        shape = self.arrays[f"{key}@shape"]
        bits = np.unpackbits(self.arrays[f"{key}@bits"])[: int(np.prod(shape))]
        return bits.reshape(shape).astype(bool)

    def write_davis(self, root: Path, videos: list[str]) -> tuple[Path, Path]:
        for video in videos:
            for side in ("gt", "pred"):
                write_labels(root / side / video, self.masks(f"davis/{video}/{side}"))
        return root / "gt", root / "pred"

    def write_sav(self, root: Path, videos: dict[str, list[str]]) -> tuple[Path, Path]:
        for video, objects in videos.items():
            for name in objects:
                for side in ("gt", "pred"):
                    masks = self.masks(f"sav/{video}/{name}/{side}")
                    write_masks(root / side / video / name, masks, 1 if name == "001" else 255)
        return root / "gt", root / "pred"


@pytest.fixture(scope="session")
def golden() -> Golden:
    results = json.loads((GOLDEN / "m_jf_results.json").read_text())
    return Golden(np.load(GOLDEN / "m_jf.npz"), results)


@pytest.fixture(scope="module")
def predictor() -> ImagePredictor:
    """Of untrained weights, those of seed 0."""
    torch.manual_seed(0)
    return ImagePredictor(build_sam2("micro"))

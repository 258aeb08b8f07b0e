"""Small pictures and masks to predict with."""

from pathlib import Path

import numpy as np
from PIL import Image

from stages.prediction.spec import Prompt

H, W = 40, 60
FRAMES = 5
POINT = (Prompt(points=((30, 20),)),)


def shades(seed: int, size: tuple[int, int] = (H, W)) -> np.ndarray:
    """Noise over a slope: a picture in which an untrained network sees something."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size[0], : size[1]]
    slope = np.stack([rows * 3, columns * 3, rows + columns], -1)
    return (slope + rng.integers(0, 60, slope.shape)).clip(0, 255).astype(np.uint8)


def square(top: int, left: int, side: int = 14) -> np.ndarray:
    mask = np.zeros((H, W), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def save(path: Path, content: np.ndarray | bytes, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        Image.fromarray(content).save(path, **options)
    return path


def labels_of(folder: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))]

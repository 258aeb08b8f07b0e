"""An untrained network, and a picture, a clip and a data set for it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data.labels import label_png
from model.config import preset
from model.sam2 import build_sam2
from model.weights import save_checkpoint
from stages.predict import predict
from stages.prediction.spec import PredictSpec, Summary
from tests.stages.prediction.scene import FRAMES, save, shades, square


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    """An untrained micro network that believes its objects are there."""
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("weights") / "micro.pt"
    model = build_sam2(preset("micro"))
    with torch.no_grad():
        model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(5.0)
    save_checkpoint(model, path)
    return str(path)


@pytest.fixture
def picture(tmp_path) -> Path:
    return save(tmp_path / "in" / "cat.png", shades(0))


@pytest.fixture
def frames(tmp_path) -> Path:
    """A folder of frames."""
    for t in range(FRAMES):
        save(tmp_path / "clip" / f"{t:05d}.png", shades(t))
    return tmp_path / "clip"


@pytest.fixture
def davis(tmp_path) -> Path:
    """Two videos: in `late`, object 7 appears on the third frame."""
    root = tmp_path / "davis"
    for video in ("early", "late"):
        for t in range(FRAMES):
            save(root / "JPEGImages" / video / f"{t:05d}.png", shades(t))
            labels = square(5, 5 + t).astype(np.uint8) * 2
            if video == "late" and t >= 2:
                labels[square(20, 30)] = 7
            save(root / "Annotations" / video / f"{t:05d}.png", label_png(labels))
    return root


@pytest.fixture
def call(weights, tmp_path):
    """Predict into `out`; returns the summary."""

    def run(source: Path, tell=lambda event: None, **settings) -> Summary:
        spec = PredictSpec(
            source=str(source), out=str(tmp_path / "out"), checkpoint=weights, device="cpu"
        )
        return predict(replace(spec, **settings), tell)

    return run

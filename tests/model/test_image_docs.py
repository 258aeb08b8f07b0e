"""The examples of docs/images.md run, in their order, with untrained networks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from model import SAM2, build_sam2, save_checkpoint

PAGE = Path(__file__).resolve().parents[2] / "docs" / "images.md"


def certain(network: SAM2) -> SAM2:
    """The network with every object present and every mask clear-cut, as training makes it."""
    decoder = network.sam_mask_decoder
    with torch.no_grad():
        decoder.pred_obj_score_head.layers[-1].bias.fill_(10)
        for mlp in decoder.output_hypernetworks_mlps:
            mlp.layers[-1].weight.mul_(300)
            mlp.layers[-1].bias.mul_(300)
    return network


@pytest.mark.slow
def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    save_checkpoint(certain(build_sam2("micro")), tmp_path / "model.pt")
    save_checkpoint(build_sam2("tiny"), tmp_path / "sam2.1_hiera_tiny.pt")
    noise = np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 5
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert names["two"].masks.shape == (2, 1, 90, 120)
    assert names["second"].masks.shape == (1, 3, 90, 120)
    assert names["masks"].shape == (3, 90, 120)
    assert names["found"]
    assert names["shape"].shape == (90, 120)
    assert names["kept"].shape == (2, 90, 120)

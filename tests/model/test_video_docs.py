"""The examples of docs/video.md run, in their order, with an untrained network."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from model import build_sam2, save_checkpoint
from tests.model.videos import noise

PAGE = Path(__file__).resolve().parents[2] / "docs" / "video.md"


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    save_checkpoint(build_sam2("micro"), tmp_path / "model.pt")
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream: Any = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 120, 60, "yuv420p"
        for frame in noise(12, 60, 120):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert [found.frame for found in names["backwards"]] == list(range(8, -1, -1))
    assert names["found"].frame == 11
    assert [len(masks) for masks in names["rest"]] == [1, 1, 1]
    assert names["frame"] == 3
    assert np.isfinite(names["logits"].numpy()).all()

"""The lines of docs/predict.md run, in their order, with an untrained network."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.labels import label_png
from flows.cli import main
from model.config import preset
from model.sam2 import build_sam2
from model.weights import save_checkpoint
from stages.evaluation.media import write_video

PAGE = Path(__file__).resolve().parents[2] / "docs" / "predict.md"
H, W, FRAMES = 640, 660, 5


def picture(seed: int) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 255, (H // 20, W // 20, 3)).astype(np.uint8)
    return np.kron(small, np.ones((20, 20, 1), np.uint8))


def put(path: Path, content: np.ndarray | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        Image.fromarray(content).save(path)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder with everything the page mentions."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    save_checkpoint(build_sam2(preset("micro")), tmp_path / "sam2.pt")
    put(tmp_path / "cat.jpg", picture(0))
    put(tmp_path / "photos/a.jpg", picture(1))
    labels = np.zeros((H, W), np.uint8)
    labels[100:300, 200:400] = 1
    put(tmp_path / "ball.png", labels * 255)
    for t in range(FRAMES):
        put(tmp_path / f"frames/{t}.jpg", picture(t))
        put(tmp_path / f"DAVIS/JPEGImages/dog/{t:05d}.jpg", picture(t))
        put(tmp_path / f"DAVIS/Annotations/dog/{t:05d}.png", label_png(labels))
        put(tmp_path / f"sav_val/JPEGImages_24fps/v/{t:05d}.jpg", picture(t))
    put(tmp_path / "sav_val/Annotations_6fps/v/000/00000.png", label_png(labels))
    put(tmp_path / "DAVIS/ImageSets/val.txt", b"dog\n")
    write_video([picture(t) for t in range(FRAMES)], tmp_path / "dog.mp4")
    return tmp_path


def test_the_page_runs(folder, capsys):
    text = PAGE.read_text()
    (prompts,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    assert json.loads(prompts)
    (folder / "prompts.json").write_text(prompts)
    commands = [line.split()[1:] for line in text.splitlines() if line.startswith("sam2-pipeline ")]
    assert len(commands) == 11
    for words in commands:
        assert main(words) == 0, (words, capsys.readouterr().err)
    made = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    for expected in (
        "cat/masks/cat.png", "cat/overlays/cat.jpg", "photos_out/masks/a.png", "found/rle/a.json",
        "dog/overlays/dog.mp4", "dog/masks/dog/00004.png", "back/masks/frames/0.png",
        "dog2/rle/dog.json", "davis/masks/dog/00004.png", "late/overlays/dog.mp4",
        "sav/masks/v/000/00004.png",
    ):  # fmt: skip
        assert expected in made

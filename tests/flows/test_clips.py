"""`sam2-pipeline clips`: what a training stage will see, as a picture."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.clip_sheet import ways
from data.settings import Augment, Jitter
from flows.cli import main
from tests.data import lookalikes as like

STAGE = ["clips", "finetune", "recipe=finetune", "model.image_size=64"]


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    root = like.davis(tmp_path / "davis", "")
    return [*STAGE, f"datasets.train.root={root}", "datasets.train.split=null"]


def test_samples_are_rows(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "sheet.png"
    assert main([*words, "--tile", "40", "--rows", "2", "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    sheet = np.asarray(Image.open(out))
    assert sheet.shape[0] == 4 + 2 * 44
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 100
    again = tmp_path / "again.png"
    main([*words, "--tile", "40", "--rows", "2", "--out", str(again)])
    assert again.read_bytes() == out.read_bytes()


def test_each_change_is_a_row(words: list[str], tmp_path: Path):
    out = tmp_path / "ways.png"
    changes = "stages.finetune.augment={flip: 0.5, rotate: 20, gray: 0.1, jitter: {hue: 0.2}}"
    assert main([*words, changes, "--ways", "--tile", "40", "--out", str(out)]) == 0
    assert Image.open(out).height == 4 + 6 * 44  # plain, four changes, all together


def test_ways_are_certain_and_alone():
    augment = Augment(flip=0.5, blur=0.1, jitter=Jitter(hue=0.2), scale=(0.8, 1.2), exact=True)
    found = ways(augment)
    assert list(found) == [
        "as it is",
        "flip 0.5",
        "scale 0.8 to 1.2",
        "jitter \n hue 0.2",
        "blur 0.1",
        "all together",
    ]
    assert found["blur 0.1"] == Augment(flip=0.0, blur=1.0, exact=True)
    assert found["all together"] == augment


def test_the_videos_stand_in_for_frames_that_are_not_extracted(tmp_path: Path):
    root, out = like.sav(tmp_path / "sav"), tmp_path / "sheet.png"
    words = ["clips", "video_train", "recipe=smoke", f"datasets.clips.root={root}"]
    frames = f"datasets.clips.frames={tmp_path / 'none'}"
    assert main([*words, frames, "--rows", "1", "--tile", "32", "--out", str(out)]) == 0
    assert out.is_file()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["clips", "finetun", "recipe=finetune"], "no training stage 'finetun'; did you mean"),
        ([*STAGE, "--out", "clips.gif"], "ends in .jpg, .jpeg, .png"),
        ([*STAGE, "--step", "-1"], "--step -1: expected 0 or more"),
    ],
)
def test_slips_are_named(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]):
    assert main(arguments) == 2
    assert told in capsys.readouterr().err

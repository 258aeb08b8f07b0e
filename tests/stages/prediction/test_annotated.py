"""The videos of a data set, from their first masks."""

import numpy as np
import pytest

from data.labels import label_png, read_labels
from model.video_predictor import track_video
from model.weights import load_checkpoint
from pipeline.errors import ConfigError
from pipeline.pictures import read_rgb
from tests.stages.prediction.scene import FRAMES, H, W, labels_of, save, shades, square


def test_a_data_set_as_the_predictor_tracks_it(call, davis, weights, tmp_path):
    summary = call(davis, names=("early",))
    assert summary.frames == FRAMES and not (tmp_path / "out/overlays").exists()
    model = load_checkpoint(weights)
    pictures = [read_rgb(davis / f"JPEGImages/early/{t:05d}.png") for t in range(FRAMES)]
    expected = [
        (logits[0] > 0).numpy() for logits in track_video(model, pictures, square(5, 5)[None])
    ]
    got = labels_of(tmp_path / "out/masks/early")
    assert all(np.array_equal(a == 2, b) for a, b in zip(got, expected, strict=True))
    assert np.array_equal(got[0] == 2, square(5, 5))


def test_late_objects(call, davis, tmp_path):
    call(davis, names=("late",), layouts=("objects",))
    assert [path.name for path in (tmp_path / "out/masks/late").iterdir()] == ["002"]
    call(davis, names=("late",), layouts=("objects",), late_objects=True)
    late = labels_of(tmp_path / "out/masks/late/007")
    assert not late[0].any() and not late[1].any() and np.array_equal(late[2] > 0, square(20, 30))


def test_sav_layout_is_written_as_it_is_read(call, tmp_path):
    root = tmp_path / "sav"
    for t in range(FRAMES):
        save(root / "JPEGImages_24fps" / "v" / f"{t:05d}.jpg", shades(t))
    for t in (0, 4):
        for number, mask in enumerate((square(4, 4), square(20, 30 if t else 80))):
            path = root / "Annotations_6fps" / "v" / f"{number:03d}" / f"{t:05d}.png"
            save(path, label_png(mask.astype(np.uint8)))
    call(root)
    assert np.array_equal(read_labels(tmp_path / "out/masks/v/000/00000.png"), square(4, 4))
    assert np.array_equal(read_labels(tmp_path / "out/masks/v/001/00004.png"), square(20, 30))
    with pytest.raises(ConfigError, match="object 0 has no place in a palette"):
        call(root, layouts=("palette",))


def test_shards_share_the_videos(call, davis, tmp_path):
    assert call(davis, shard=(1, 2)).finished == 1
    assert call(davis, shard=(2, 2)).finished == 1
    assert sorted(p.name for p in (tmp_path / "out/masks").iterdir()) == ["early", "late"]
    assert call(davis, shard=(3, 3)).finished == 0


@pytest.mark.slow
def test_processes_do_what_one_does(call, davis, tmp_path):
    call(davis)
    one = [labels_of(tmp_path / "out/masks" / name) for name in ("early", "late")]
    assert call(davis, workers=2, again=True).frames == 2 * FRAMES
    two = [labels_of(tmp_path / "out/masks" / name) for name in ("early", "late")]
    assert np.array_equal(one, two)


def test_a_broken_frame_ends_that_video_only(call, davis, tmp_path):
    save(davis / "JPEGImages/early/00003.png", b"broken")
    summary = call(davis)
    assert summary.finished == 1 and "00003.png" in summary.failures[0]
    assert [path.name for path in (tmp_path / "out/masks").iterdir()] == ["late"]


def test_a_video_without_objects(call, davis):
    save(davis / "Annotations/early/00000.png", label_png(np.zeros((H, W), np.uint8)))
    for t in range(1, FRAMES):
        (davis / f"Annotations/early/{t:05d}.png").unlink()
    assert "no annotated frame shows an object" in call(davis).failures[0]

"""What is missing or broken is named: the file, what was found, what was expected."""

import json

import numpy as np
import pytest

from data.sources import open_dataset
from data.spec import DatasetSpec
from pipeline.errors import DataError
from tests.data import lookalikes as like


def opened(format, root, **fields):
    return open_dataset(DatasetSpec(format=format, root=str(root), **fields))


@pytest.mark.parametrize(
    ("format", "expected"),
    [
        ("sa1b", "sa_N.jpg with sa_N.json"),
        ("sav", "_manual.json"),
        ("sav_val", "Annotations_6fps"),
        ("davis", "JPEGImages/<video>"),
        ("coco", "annotations/instances_"),
        ("folder", "masks/NAME.png"),
    ],
)
def test_missing_and_empty_folders_say_what_belongs_there(tmp_path, format, expected):
    for root in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(DataError) as error:
            opened(format, root)
        assert expected in str(error.value)
        assert str(root) in str(error.value)


def test_names_and_lists_that_do_not_fit(tmp_path):
    root = like.davis(tmp_path)
    with pytest.raises(DataError, match="`names` names 1 that are not there, first 'bera'"):
        opened("davis", root, names=("bera",))
    with pytest.raises(DataError, match=r"val\.txt cannot be read"):
        opened("davis", root, split="val.txt")
    (root / "val.txt").write_text("bear\nwolf\n")
    with pytest.raises(DataError, match="first 'wolf'"):
        opened("davis", root, split="val.txt")


def test_half_a_copy_of_sa1b(tmp_path):
    root = like.sa1b(tmp_path)
    (root / "sa_2.json").unlink()
    with pytest.raises(DataError, match=r"sa_2 without its \.json"):
        opened("sa1b", root)


def test_tar_that_is_cut_off(tmp_path):
    root = like.sa1b_tar(tmp_path / "tar", like.sa1b(tmp_path / "source"))
    tar = root / "sa_000000.tar"
    tar.write_bytes(tar.read_bytes()[:-12000])
    with pytest.raises(DataError, match=r"sa_000000\.tar"):
        opened("sa1b", root)
    tar.write_bytes(b"not a tar at all" * 100)
    with pytest.raises(DataError, match="not a whole tar"):
        opened("sa1b", root)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def nonsense(path):
    path.write_bytes(b"<html>404</html>")


@pytest.mark.parametrize("damage", [cut, empty, nonsense])
def test_damaged_pictures_masks_and_annotations(tmp_path, damage):
    sa1b, davis = like.sa1b(tmp_path / "sa1b"), like.davis(tmp_path / "davis")
    dataset = opened("sa1b", sa1b)
    damage(sa1b / "sa_1.jpg")
    damage(sa1b / "sa_2.json")
    with pytest.raises(DataError, match=r"sa_1\.jpg"):
        dataset.load(0)
    with pytest.raises(DataError, match=r"sa_2\.json"):
        dataset.load(1)
    dataset.load(2)
    videos = opened("davis", davis)
    damage(davis / "Annotations/480p/bear/00002.png")
    with pytest.raises(DataError, match=r"00002\.png"):
        videos.load(0)


@pytest.mark.parametrize("damage", [cut, empty, nonsense])
def test_damaged_videos_and_masklets(tmp_path, damage):
    root = like.sav(tmp_path)
    dataset = opened("sav", root)
    damage(root / "sav_000/sav_000001.mp4")
    damage(root / "sav_000/sav_000002_manual.json")
    with pytest.raises(DataError, match=r"sav_000001\.mp4"):
        dataset.load(0)
    with pytest.raises(DataError, match=r"sav_000002_manual\.json"):
        dataset.load(1)


def test_video_shorter_than_its_masklets(tmp_path):
    root = like.sav(tmp_path, videos=1)
    like.save_video(root / "sav_000/sav_000001.mp4", [like.picture(t) for t in range(9)])
    with pytest.raises(DataError, match="ends before frame 12"):
        opened("sav", root).load(0)


def test_missing_video_and_missing_frames(tmp_path):
    root = like.sav(tmp_path, videos=1)
    (root / "sav_000/sav_000001.mp4").unlink()
    with pytest.raises(DataError, match=r"sav_000001\.mp4 does not exist"):
        opened("sav", root).load(0)
    with pytest.raises(DataError, match="`frames`"):
        opened("sav", root, frames=str(tmp_path / "nowhere"))
    frames = tmp_path / "frames"
    frames.mkdir()
    with pytest.raises(DataError, match="run extract_frames first"):
        opened("sav", root, frames=str(frames)).load(0)
    like.save(frames / "sav_000001/00000.jpg", like.picture(0))
    with pytest.raises(DataError, match="lacks frame 4"):
        opened("sav", root, frames=str(frames)).load(0)


def test_masks_of_another_size(tmp_path):
    sa1b = like.sa1b(tmp_path / "sa1b")
    like.save(sa1b / "sa_1.jpg", like.picture(1, (40, 60)))
    with pytest.raises(DataError, match="20x30"):
        opened("sa1b", sa1b).load(0)
    davis = like.davis(tmp_path / "davis")
    like.save(davis / "Annotations/480p/bear/00001.png", np.zeros((5, 5), np.uint8))
    with pytest.raises(DataError, match=r"00001\.png is 5x5"):
        opened("davis", davis).load(0)


def test_masks_that_went_through_rgb(tmp_path):
    davis = like.davis(tmp_path)
    coloured = np.zeros((like.H, like.W, 3), np.uint8)
    coloured[3:9, 3:9] = (128, 0, 0)
    like.save(davis / "Annotations/480p/bear/00001.png", coloured)
    with pytest.raises(DataError, match="colour picture"):
        opened("davis", davis).load(0)


def test_hostile_run_lengths(tmp_path):
    root = like.sa1b(tmp_path)
    content = json.loads((root / "sa_1.json").read_text())
    content["annotations"][0]["segmentation"]["counts"] = "o" * 60
    (root / "sa_1.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"sa_1\.json, annotation 101"):
        opened("sa1b", root).load(0)


def test_coco_without_its_pictures_or_with_two_files(tmp_path):
    root = like.coco_set(tmp_path)
    (root / "annotations/instances_train2017.json").write_text("{}")
    with pytest.raises(DataError, match=r"train2017, val2017.*`split`"):
        opened("coco", root)
    (root / "val2017/000000000009.jpg").unlink()
    with pytest.raises(DataError, match=r"000000000009\.jpg, which is in none of"):
        opened("coco", root, split="val2017")

"""Every format's reader on a look-alike of a few pixels: what it lists, and the exact masks."""

import json
import pickle
import shutil

import numpy as np
import pytest

from data.extract_many import extract_many
from data.sources import open_dataset
from data.sources.sav import list_videos
from data.spec import DatasetSpec
from pipeline.errors import ConfigError, DataError
from tests.data import lookalikes as like
from tests.data.lookalikes import EMPTY, box, picture


def opened(format, root, **fields):
    return open_dataset(DatasetSpec(format=format, root=str(root), **fields))


def close(a, b, within=12):
    return np.abs(a.astype(int) - b.astype(int)).max() <= within


def test_sa1b_folder_and_tar_hold_the_same(tmp_path):
    source = like.sa1b(tmp_path / "folder", count=11)
    unpacked, packed = opened("sa1b", source), opened("sa1b", like.sa1b_tar(tmp_path / "t", source))
    assert unpacked.kind == "image"
    assert unpacked.names == packed.names
    assert unpacked.names[:3] == ("sa_1", "sa_2", "sa_3")
    assert unpacked.names[-1] == "sa_11"
    assert unpacked.digest == packed.digest
    for dataset in (unpacked, packed):
        clip = dataset.load(1)
        assert clip.object_ids == (101, 102)  # 103 has no pixels
        assert close(clip.frames[0], picture(2))
        np.testing.assert_array_equal(clip.masks[0], [box(2, 3), box(5, 6)])


def test_sa1b_shard_folders(tmp_path):
    like.sa1b(tmp_path / "sa_000000", count=2)
    assert opened("sa1b", tmp_path).names == ("sa_1", "sa_2")


@pytest.mark.parametrize("extracted", [False, True])
def test_sav(tmp_path, extracted):
    root = like.sav(tmp_path / "sav")
    fields = {}
    if extracted:
        extract_many(sorted(root.rglob("*.mp4")), tmp_path / "frames")
        fields = {"frames": str(tmp_path / "frames")}
    dataset = opened("sav", root, **fields)
    assert dataset.names == ("sav_000001", "sav_000002")
    assert dataset.frame_count(0) == 6
    assert dataset.visible(0, 0) == (0, 1)
    assert dataset.visible(0, 1) == (0, 1)
    assert dataset.visible(0, 3) == (0, 1, 2)
    clip = dataset.load(0, [4, 1])
    assert clip.frame_numbers == (16, 4)
    assert clip.object_ids == (0, 1, 2)
    expected = np.array([like.sav_masks(4), [*like.sav_masks(1)[:2], EMPTY]])
    np.testing.assert_array_equal(clip.masks, expected)
    assert (clip.masks[0, 0] & clip.masks[0, 1]).any()  # overlap survives
    assert close(clip.frames[0], picture(16), 25)
    assert close(clip.frames[1], picture(4), 25)
    assert len(list(dataset.stream(0))) == (6 if extracted else 24)


def test_videos_to_extract_are_those_the_spec_keeps(tmp_path):
    root = like.sav(tmp_path)
    spec = DatasetSpec(format="sav", root=str(root), names=("sav_000002",), frames="not/yet/there")
    assert list_videos(spec) == [root / "sav_000/sav_000002.mp4"]
    (root / "sav_000/sav_000002.mp4").unlink()
    with pytest.raises(DataError, match=r"sav_000002\.mp4 does not exist"):
        list_videos(spec)


def test_sav_auto_and_both(tmp_path):
    root = like.sav(tmp_path)
    assert opened("sav", root, annotations="auto").load(0).object_ids == (0,)
    both = opened("sav", root, annotations="both").load(0, [3])
    assert both.object_ids == (0, 1, 2, 3)
    np.testing.assert_array_equal(both.masks[0, 3], box(12, 1))


def test_sav_val(tmp_path):
    dataset = opened("sav_val", like.sav_val(tmp_path))
    assert list(dataset.frame_numbers(0)) == [0, 4, 8]
    assert dataset.visible(0, 0) == (0,)
    clip = dataset.load(0)
    assert clip.object_ids == (0, 1)
    np.testing.assert_array_equal(clip.masks[:, 0], [box(2, 0), box(2, 4), box(2, 8)])
    np.testing.assert_array_equal(clip.masks[:, 1], [EMPTY, box(9, 9), EMPTY])
    assert [number for number, _ in dataset.stream(0)] == list(range(9))


@pytest.mark.parametrize("inner", ["480p", ""])
def test_davis_palette_is_read_by_index(tmp_path, inner):
    dataset = opened("davis", like.davis(tmp_path, inner))
    clip = dataset.load(0, [0, 5])
    assert clip.object_ids == (1, 3)
    np.testing.assert_array_equal(clip.masks[1], [box(2, 5), box(10, 12)])
    np.testing.assert_array_equal(clip.masks[0], [box(2, 0), EMPTY])


def test_davis_2016_grey_masks(tmp_path):
    clip = opened("davis", like.davis(tmp_path, grey=True)).load(0, [3])
    assert clip.object_ids == (1,)
    np.testing.assert_array_equal(clip.masks[0, 0], box(2, 3))


def test_youtube_vos_has_frames_without_masks(tmp_path):
    dataset = opened("davis", like.davis(tmp_path, "", every=5))
    assert list(dataset.frame_numbers(0)) == [0, 5]
    assert len(list(dataset.stream(0))) == 6


def test_davis_list_file_and_widths(tmp_path):
    root = like.davis(tmp_path)
    shutil.copytree(root / "JPEGImages/480p/bear", root / "JPEGImages/480p/camel")
    shutil.copytree(root / "Annotations/480p/bear", root / "Annotations/480p/camel")
    for kind, suffix in (("JPEGImages", ".JPEG"), ("Annotations", ".PNG")):
        for path in (root / kind / "480p" / "camel").iterdir():
            path.rename(path.with_name(f"{int(path.stem) + 95}{suffix}"))  # 95 .. 100: two widths
    (root / "val.txt").write_text("camel\n\n")
    dataset = opened("davis", root, split="val.txt")
    assert dataset.names == ("camel",)
    assert list(dataset.frame_numbers(0)) == [95, 96, 97, 98, 99, 100]
    assert dataset.load(0).masks.shape == (6, 2, like.H, like.W)


def test_coco(tmp_path):
    dataset = opened("coco", like.coco_set(tmp_path))
    assert dataset.names == ("000000000009",)  # the other has no object
    clip = dataset.load(0)
    assert clip.object_ids == (7, 8, 9)  # not the crowd
    square, given, stripe = clip.masks[0]
    np.testing.assert_array_equal(square, box(4, 4))
    np.testing.assert_array_equal(given, box(2, 3))
    assert stripe[:, 5:8].all()
    assert stripe.sum() == 3 * like.H


def test_folder(tmp_path):
    clip = opened("folder", like.folder(tmp_path)).load(0)
    assert (clip.name, clip.object_ids) == ("cat", (1, 2))
    np.testing.assert_array_equal(clip.masks[0], [box(10, 10), box(3, 3)])


def test_every_format_of_a_world(tiny_world):
    """The same validation clips in two formats, the same pictures in two more."""
    val = opened("sav_val", tiny_world / "sav_val")
    davis = opened("davis", tiny_world / "davis", split="ImageSets/2017/val.txt")
    assert len(val) == len(davis) == 2
    for index in range(2):
        assert len(list(val.stream(index))) == 28
        sparse, dense = val.load(index), davis.load(index)
        assert sparse.masks.any()
        assert sparse.frame_numbers == tuple(range(0, 28, 4))
        union = dense.masks[::4].any(axis=1)
        np.testing.assert_array_equal(sparse.masks.any(axis=1), union)
    folder = opened("sa1b", tiny_world / "sa1b/train")
    tar = opened("sa1b", tiny_world / "sa1b_tar/train")
    assert folder.digest == tar.digest
    for index in range(len(folder)):
        a, b = folder.load(index), tar.load(index)
        np.testing.assert_array_equal(a.frames, b.frames)
        np.testing.assert_array_equal(a.masks, b.masks)
    assert all(opened("coco", tiny_world / "coco").load(i).masks.any() for i in range(3))
    sav = opened("sav", tiny_world / "sav/train", annotations="both")
    assert sav.load(0).frames.shape == (7, 64, 96, 3)


def test_digest_names_what_is_there(tmp_path):
    root = like.sa1b(tmp_path)
    before = opened("sa1b", root)
    assert opened("sa1b", root).digest == before.digest
    assert opened("sa1b", root, names=("sa_1", "sa_3")).digest != before.digest
    content = json.loads((root / "sa_2.json").read_text())
    content["annotations"].pop()
    (root / "sa_2.json").write_text(json.dumps(content))
    assert opened("sa1b", root).digest != before.digest


def test_fraction_is_a_fixed_subset(tmp_path):
    root = like.sa1b(tmp_path, count=40)
    half, most = opened("sa1b", root, fraction=0.5), opened("sa1b", root, fraction=0.9)
    assert 10 <= len(half) <= 30
    assert set(half.names) < set(most.names)
    with pytest.raises(ConfigError, match="fraction is 0"):
        DatasetSpec(format="sa1b", root=".", fraction=0)


def test_a_reader_travels_to_other_processes(tmp_path):
    dataset = opened("sav", like.sav(tmp_path))
    dataset.load(0)
    again = pickle.loads(pickle.dumps(dataset))
    np.testing.assert_array_equal(again.load(1, [2]).masks, dataset.load(1, [2]).masks)


def test_exclusions(tmp_path):
    root = like.sa1b(tmp_path, count=6)
    (root / "bad.txt").write_text("sa_2\nsa_77\n")
    kept = opened("sa1b", root, exclude=("sa_1", "sa_99"), exclude_list="bad.txt")
    assert kept.names == ("sa_3", "sa_4", "sa_5", "sa_6")
    (root / "sa_4.json").unlink()
    assert len(opened("sa1b", root, exclude=("sa_4",))) == 5  # half a pair may be left out
    with pytest.raises(DataError, match="of 5 found, the spec keeps none"):
        opened("sa1b", root, exclude=tuple(f"sa_{n}" for n in range(1, 7)))


def test_area_filters(tmp_path):
    """Objects that are too small or large are not chosen; what is asked for is given all the same."""
    sa1b = like.sa1b(tmp_path / "sa1b", count=1)  # 48 of 600 pixels each
    assert opened("sa1b", sa1b, min_area=0.08).visible(0, 0) == (101, 102)
    assert opened("sa1b", sa1b, min_area=0.081).visible(0, 0) == ()
    coco = like.coco_set(tmp_path / "coco")  # 48, 48, 60 pixels
    assert opened("coco", coco, min_area=0.09).visible(0, 0) == (9,)
    assert opened("coco", coco, max_area=0.09).visible(0, 0) == (7, 8)
    davis = like.davis(tmp_path / "davis")
    small = opened("davis", davis, max_area=0.079)
    assert small.visible(0, 3) == ()
    assert small.masks(0, 3, [1], (like.H, like.W)).any()
    assert opened("sav", like.sav(tmp_path / "sav"), min_area=0.09).visible(0, 3) == ()
    assert opened("sav_val", like.sav_val(tmp_path / "val"), min_area=0.09).visible(0, 1) == ()
    with pytest.raises(ConfigError, match=r"min_area is 0\.5, max_area 0\.5"):
        DatasetSpec(format="sa1b", root=".", min_area=0.5, max_area=0.5)


def test_quality_filters_of_sa1b(tmp_path):
    root = like.sa1b(tmp_path, count=1)
    like.edit(root / "sa_1.json", lambda c: c["annotations"][1].update(predicted_iou=0.7))
    assert opened("sa1b", root, min_predicted_iou=0.88).visible(0, 0) == (101,)
    assert opened("sa1b", root, min_stability_score=0.96).visible(0, 0) == ()
    like.edit(root / "sa_1.json", lambda c: c["annotations"][1].pop("predicted_iou"))
    with pytest.raises(DataError, match=r"sa_1\.json, annotation 102: predicted_iou is None"):
        opened("sa1b", root, min_predicted_iou=0.88).visible(0, 0)
    with pytest.raises(ConfigError, match="davis has no such score; only sa1b has"):
        DatasetSpec(format="davis", root=".", min_predicted_iou=0.5)


def test_stability_of_masklets(tmp_path):
    root = like.sav(tmp_path)
    scores = [[0.5 + t / 10] for t in range(6)]
    for number in (1, 2):
        path = root / f"sav_000/sav_00000{number}_auto.json"
        like.edit(path, lambda c: c.update(masklet_stability_score=scores))
    both = opened("sav", root, annotations="both", min_stability_score=0.75)
    assert [3 in both.visible(0, t) for t in range(6)] == [False] * 3 + [True] * 3
    assert both.visible(0, 2) == (0, 1, 2)  # manual masklets have no score and are kept
    like.edit(path, lambda c: c.pop("masklet_stability_score"))
    with pytest.raises(DataError, match=r"sav_000002_auto\.json: no masklet_stability_score"):
        opened("sav", root, annotations="both", min_stability_score=0.75).visible(1, 0)


@pytest.mark.parametrize(
    ("facts", "step"),
    [
        ({}, 4),
        ({"video_frame_count": 11.0}, 2),
        ({"video_frame_count": 6.0}, 1),
        ({"fps": 12}, 2),
        ({"video_frame_count": None}, 4),
    ],
)
def test_the_step_between_annotations_is_that_of_the_data(tmp_path, facts, step):
    root = like.sav(tmp_path, videos=1)
    like.edit(root / "sav_000/sav_000001_manual.json", lambda c: c.update(facts))
    assert opened("sav", root).frame_numbers(0) == range(0, 6 * step, step)
    assert opened("sav", root, annotated_every=3).frame_numbers(0) == range(0, 18, 3)


@pytest.mark.parametrize("facts", [{"video_frame_count": 4.0}, {"fps": 48}, {"fps": -6}])
def test_a_step_that_does_not_fit(tmp_path, facts):
    root = like.sav(tmp_path, videos=1)
    like.edit(root / "sav_000/sav_000001_manual.json", lambda c: c.update(facts))
    with pytest.raises(DataError, match=r"fit no step between its 6 annotated frames"):
        opened("sav", root).load(0)
    assert opened("sav", root, annotated_every=4).frame_count(0) == 6


def test_late_objects_of_youtube_vos(tmp_path):
    """meta.json says which numbers are objects, and from which frame on."""
    root = like.davis(tmp_path, "", every=5)
    objects = {"1": {"category": "bear", "frames": ["00000", "00005"]}}
    like.save_json(root / "meta.json", {"videos": {"bear": {"objects": objects}}})
    assert opened("davis", root).load(0).object_ids == (1,)  # 3 is painted, but no object
    objects["3"] = {"category": "cub", "frames": ["00005"]}
    like.save_json(root / "meta.json", {"videos": {"bear": {"objects": objects}}})
    dataset = opened("davis", root)
    assert (dataset.visible(0, 0), dataset.visible(0, 1)) == ((1,), (1, 3))
    objects["1"]["frames"] = ["00005"]
    like.save_json(root / "meta.json", {"videos": {"bear": {"objects": objects}}})
    assert opened("davis", root).visible(0, 0) == ()
    (root / "meta.json").write_text("[]")
    with pytest.raises(DataError, match=r"meta\.json is not a list of videos"):
        opened("davis", root)


def test_coco_names_outside_ascii_and_in_folders(tmp_path):
    root = like.coco_set(tmp_path)
    source = root / "annotations/instances_val2017.json"
    (root / "val2017/köln").mkdir()
    (root / "val2017/000000000009.jpg").rename(root / "val2017/köln/bär.jpg")
    content = json.loads(source.read_text())
    content["images"][0]["file_name"] = "köln/bär.jpg"
    for escaped in (True, False):
        source.write_text(json.dumps(content, ensure_ascii=escaped), encoding="utf-8")
        dataset = opened("coco", root)
        assert dataset.names == ("bär",)
        assert dataset.load(0).masks.shape[:2] == (1, 3)

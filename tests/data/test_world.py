"""The world on disk: the same bytes from the same seed, files like those of the real data sets."""

import errno
import json
import os
import tarfile
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from data.world import folder as world_folder
from data.world import world as world_module
from data.world.contact import contact_sheet
from data.world.direct import clip_scene, picture_scene, present
from data.world.spec import WorldReport, WorldSpec
from data.world.world import make_world, open_world
from pipeline import rle
from pipeline.errors import ConfigError, DataError, StorageError

SPEC = WorldSpec(
    seed=5,
    train_images=12,
    val_images=6,
    train_videos=10,
    val_videos=2,
    davis_train_videos=1,
    frames=18,
    width=96,
    height=64,
)
EMPTY = WorldSpec(train_images=0, val_images=0, train_videos=0, val_videos=0, davis_train_videos=0)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> WorldReport:
    return make_world(SPEC, tmp_path_factory.mktemp("world") / "w", workers=1)


def files(root: Path) -> dict[str, bytes]:
    found = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}


def test_same_seed_same_bytes_whatever_the_workers(world, tmp_path, monkeypatch):
    monkeypatch.setattr(world_module, "_SCENES_PER_WORKER", 1)
    seen = []
    again = make_world(SPEC, tmp_path / "b", lambda *state: seen.append(state), workers=2)
    assert files(world.root) == files(again.root)
    assert again.content == world.content
    assert seen[-1][:2] == (31, 31) and [s[0] for s in seen] == sorted(s[0] for s in seen)
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_another_seed_is_another_world():
    one, other = WorldSpec(seed=1), WorldSpec(seed=2)
    assert one.digest != other.digest
    pictures = [picture_scene(s, "train", 0).view(0).picture for s in (one, other)]
    assert (pictures[0] != pictures[1]).mean() > 0.5


def test_a_finished_world_is_reused(world):
    before = (world.root / "world.json").stat().st_mtime_ns
    again = make_world(SPEC, world.root)
    assert again.reused and not world.reused
    assert again.content == world.content and again.counts == world.counts
    assert (world.root / "world.json").stat().st_mtime_ns == before
    assert open_world(world.root).spec == SPEC
    assert world.counts["files"] + 1 == len(files(world.root))


def test_sa1b_pictures(world):
    root = world.path("sa1b")
    assert len(list(root.glob("*.jpg"))) == len(list(root.glob("*.json"))) == 12
    overlapping, ids = 0, []
    for index in range(12):
        data = json.loads((root / f"sa_{index + 1}.json").read_text())
        image, annotations = data["image"], data["annotations"]
        assert set(image) == {"image_id", "width", "height", "file_name"}
        assert Image.open(root / image["file_name"]).size == (96, 64)
        masks = np.stack([rle.decode(a["segmentation"], (64, 96)) for a in annotations])
        truth = present(picture_scene(SPEC, "train", index).view(0).masks)
        truth = truth[truth.any((1, 2))]
        np.testing.assert_array_equal(masks[: len(truth)], truth)
        overlapping += int((masks.sum(0) > 1).any())
        for a, mask in zip(annotations, masks, strict=True):
            ids.append(a.pop("id"))
            assert set(a) == {
                "segmentation", "bbox", "area", "predicted_iou", "stability_score", "crop_box",
                "point_coords",
            }  # fmt: skip
            assert a["area"] == mask.sum() > 0
            y, x = np.nonzero(mask)
            assert a["bbox"] == [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]
            (px, py), *_ = a["point_coords"]
            assert mask[int(py), int(px)]
    assert overlapping > 0
    assert len(set(ids)) == len(ids)


def test_sa1b_shard_holds_the_same_files(world):
    (shard,) = world.path("sa1b_tar").iterdir()
    assert shard.name == "sa_000000.tar"
    with tarfile.open(shard) as tar:
        names = tar.getnames()
        assert len(names) == 24 and names[:2] == ["sa_1.jpg", "sa_1.json"]
        for name in names:
            member = tar.extractfile(name)
            assert member is not None
            assert member.read() == (world.path("sa1b") / name).read_bytes()


def test_sav_videos(world):
    videos = sorted(world.path("sav").rglob("*.mp4"))
    assert [v.relative_to(world.path("sav")).as_posix() for v in videos][:2] == [
        "sav_000/sav_000001.mp4",
        "sav_000/sav_000002.mp4",
    ]
    assert len(videos) == 10
    for index, video in enumerate(videos):
        with av.open(str(video)) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264" and stream.average_rate == 24
            frames = [f.to_ndarray(format="rgb24") for f in container.decode(stream)]
        assert len(frames) == 18 and frames[0].shape == (64, 96, 3)
        scene = clip_scene(SPEC, "train", "clip", index)
        for t in (0, 17):
            assert np.abs(frames[t].astype(int) - scene.view(t).picture).mean() < 8
        data = json.loads(video.with_name(f"{video.stem}_manual.json").read_text())
        masks = np.array([[rle.decode(m, (64, 96)) for m in frame] for frame in data["masklet"]])
        truth = np.stack([present(scene.view(t).masks) for t in range(0, 18, 4)])
        truth = truth[:, truth.any((0, 2, 3))]
        np.testing.assert_array_equal(masks[:, : truth.shape[1]], truth)
        areas = masks.sum((2, 3))
        assert data["masklet_num"] == masks.shape[1] and data["video_frame_count"] == 18.0
        means = [a[a > 0].mean() for a in areas.T]
        np.testing.assert_allclose(data["masklet_size_abs"], means, atol=1e-9)
        assert data["masklet_first_appeared_frame"] == (areas > 0).argmax(0).tolist()
    assert 0 < len(list(world.path("sav").rglob("*_auto.json"))) < 10


def test_sav_json_has_the_fields_and_types_of_the_real_one(world, shared_dir):
    for kind in ("manual", "auto"):
        real = json.loads((shared_dir / f"data/sav/sav_000001_{kind}.json").read_text())
        ours = json.loads(next(world.path("sav").rglob(f"*_{kind}.json")).read_text())
        assert list(ours) == list(real)
        for field, value in real.items():
            assert type(ours[field]) is type(value), field
            if isinstance(value, list):
                assert type(ours[field][0]) is type(value[0]), field
        assert set(ours["masklet"][0][0]) == set(real["masklet"][0][0])
        assert ours["masklet_type"][0] == real["masklet_type"][0] == kind


def test_sav_validation_folders_and_davis_agree(world):
    sav, davis = world.path("sav_val"), world.path("davis")
    videos = (sav / "sav_val.txt").read_text().split()
    names = (davis / "ImageSets/2017/val.txt").read_text().split()
    assert len(videos) == len(names) == 2
    for video, name in zip(videos, names, strict=True):
        frames = sorted(p.name for p in (sav / "JPEGImages_24fps" / video).iterdir())
        assert frames == [f"{t:05d}.jpg" for t in range(18)]
        for frame in frames:
            one = (sav / "JPEGImages_24fps" / video / frame).read_bytes()
            assert one == (davis / "JPEGImages" / name / frame).read_bytes()
        objects = sorted((sav / "Annotations_6fps" / video).iterdir())
        assert [o.name for o in objects] == [f"{i:03d}" for i in range(len(objects))]
        for t in range(0, 18, 4):
            planes = np.stack([np.asarray(Image.open(o / f"{t:05d}.png")) for o in objects])
            assert set(np.unique(planes)) <= {0, 1}
            labels = Image.open(davis / "Annotations" / name / f"{t:05d}.png")
            assert labels.mode == "P" and labels.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]
            np.testing.assert_array_equal(np.asarray(labels) > 0, planes.any(0))
    (train,) = (davis / "ImageSets/2017/train.txt").read_text().split()
    assert len(list((davis / "Annotations" / train).iterdir())) == 18


def test_coco_instances_load_with_pycocotools(world, capsys):
    root = world.path("coco")
    table = COCO(str(root / "annotations" / "instances_val.json"))
    assert len(table.imgs) == 6 and len(table.anns) >= 6
    for annotation in table.anns.values():
        assert table.annToMask(annotation).sum() == annotation["area"] > 0
        assert annotation["category_id"] in table.cats
    for image in table.imgs.values():
        assert Image.open(root / "val" / image["file_name"]).size == (96, 64)


def test_contact_sheet(world, tmp_path):
    sheet = contact_sheet(world.root, tmp_path / "sheet.png")
    assert Image.open(sheet).size == (960, 64 * (2 + 1 + 5 + 2))


def test_a_damaged_file_of_a_finished_world_is_named(world, tmp_path):
    sa1b, sav, davis = (world.path(name) for name in ("sa1b", "sav", "davis"))
    damaged = [
        sorted(sa1b.glob("sa_*.json"))[0],
        sorted(sa1b.glob("sa_*.jpg"))[0],
        world.path("coco") / "annotations" / "instances_val.json",
        sorted(sav.rglob("*_manual.json"))[0],
        sorted(sav.rglob("*.mp4"))[0],
        sorted((davis / "Annotations").rglob("*.png"))[0],
    ]
    for path in damaged:
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 3])
        try:
            with pytest.raises(DataError, match="file of the synthetic world is damaged") as raised:
                contact_sheet(world.root, tmp_path / "sheet.png")
        finally:
            path.write_bytes(whole)
        assert str(raised.value).startswith(str(path))
    contact_sheet(world.root, tmp_path / "sheet.png")


def test_an_empty_world_is_still_a_world(tmp_path):
    report = make_world(EMPTY, tmp_path / "w")
    assert report.counts["train_images"] == 0
    assert report.path("sav").is_dir() and (report.path("sav_val") / "sav_val.txt").is_file()
    contact_sheet(report.root, tmp_path / "sheet.jpg")


# -- misuse and mishap ---------------------------------------------------------------------------


def test_a_different_world_in_the_same_place_is_refused(world):
    other = WorldSpec(**{**SPEC.to_dict(), "seed": 6, "val_videos": 3})
    with pytest.raises(ConfigError, match=r"another world: seed 5 \(asked: 6\), val_videos 2"):
        make_world(other, world.root)


def test_foreign_folders_and_files_are_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="not empty"):
        make_world(EMPTY, tmp_path / "mine")
    with pytest.raises(ConfigError, match="is a file"):
        make_world(EMPTY, tmp_path / "mine" / "thesis.txt")
    with pytest.raises(StorageError, match="is a file"):
        make_world(EMPTY, tmp_path / "mine" / "thesis.txt" / "below")
    with pytest.raises(ConfigError, match="no synthetic world"):
        open_world(tmp_path / "mine")
    assert [p.name for p in tmp_path.rglob("*")] == ["mine", "thesis.txt"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "unreadable"),
        ('{"version": 0}', "version 0"),
        ('{"version": 1, "spec": {"planets": 9}}', "planets"),
    ],
)
def test_broken_world_json(tmp_path, text, message):
    (tmp_path / "world.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        make_world(EMPTY, tmp_path)


def test_no_room_is_said_before_anything_is_drawn(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1_000_000})()
    monkeypatch.setattr(world_folder.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(StorageError, match="1 MB are free"):
        make_world(WorldSpec(), tmp_path / "w")
    assert not list(tmp_path.iterdir())


def test_the_estimate_of_room_is_on_the_safe_side(world):
    used = sum(len(content) for content in files(world.root).values())
    assert used < world_folder.estimate_bytes(SPEC) < 20 * used


def test_a_full_disk_in_the_middle_leaves_nothing(tmp_path, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a.jpg")

    monkeypatch.setattr(world_module, "write_sa1b", full)
    with pytest.raises(StorageError, match=r"a\.jpg: No space left"):
        make_world(SPEC, tmp_path / "w", workers=1)
    assert not list(tmp_path.iterdir())


def test_ctrl_c_in_the_middle_leaves_nothing_and_stale_folders_go(tmp_path):
    def stop(done: int, total: int, what: str) -> None:
        raise KeyboardInterrupt

    name = world_folder.part_name(tmp_path / "w", process=2**22 + 1)
    (tmp_path / name).mkdir()
    (tmp_path / name / "half.jpg").write_bytes(b"half")
    with pytest.raises(KeyboardInterrupt):
        make_world(SPEC, tmp_path / "w", stop, workers=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train_images": -1}, "train_images is -1"),
        ({"seed": -1}, "seed"),
        ({"frames": 0}, "frames is 0"),
        ({"width": 191}, "width is 191"),
        ({"height": 16}, "height is 16"),
        ({"clip_objects": (3, 1)}, "clip_objects"),
        ({"motion": -1.0}, "motion"),
    ],
)
def test_impossible_specs(values, message):
    with pytest.raises(ConfigError, match=message):
        WorldSpec(**values)


def test_spec_survives_json():
    spec = WorldSpec(seed=3, clip_objects=(1, 2))
    assert WorldSpec(**json.loads(json.dumps(spec.to_dict()))) == spec

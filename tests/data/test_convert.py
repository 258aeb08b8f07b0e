"""Labels of other tools, converted and read back: the same masks. Malformed ones are named, and
nothing is left of what did not succeed."""

import json

import numpy as np
import pytest

from data.convert.coco import read_coco
from data.convert.convert import convert
from data.convert.labelme import read_labelme
from data.convert.masks import read_masks
from data.convert.yolo import read_yolo
from data.sources import open_dataset
from data.spec import DatasetSpec
from pipeline.errors import ConfigError, DataError
from tests.data import labels
from tests.data import lookalikes as like

SOURCES = {
    "coco": (labels.coco, read_coco),
    "yolo": (labels.yolo, read_yolo),
    "labelme": (labels.labelme, read_labelme),
    "masks": (labels.masks, read_masks),
}


def opened(layout, out):
    frames = {"frames": str(out / "frames")} if layout == "sav" else {}
    return open_dataset(DatasetSpec(format=layout, root=str(out), **frames))


@pytest.mark.parametrize("layout", ["folder", "davis", "sa1b", "sav"])
@pytest.mark.parametrize("source", SOURCES)
def test_masks_and_pictures_come_back(tmp_path, source, layout):
    make, read = SOURCES[source]
    root, out = make(tmp_path / "in"), tmp_path / "out"
    made = convert(list(read(root)), out, layout)
    assert (made.items, made.frames, made.objects) == (1, 1, 2)
    assert dict(made.labels) == {"cat": 1, "dog": 1}
    dataset = opened(layout, out)
    clip = dataset.load(0)
    assert clip.name == "photo 1"
    names = json.loads((out / "objects.json").read_text())["photo 1"]
    for i, mask in zip(clip.object_ids, clip.masks[0], strict=True):
        np.testing.assert_array_equal(mask, labels.MASKS[names[str(i)]])
    assert np.abs(clip.frames[0].astype(int) - like.picture(1)).mean() < 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


@pytest.mark.parametrize("layout", ["davis", "sav"])
def test_videos_of_binary_masks(tmp_path, layout):
    root, out = labels.mask_video(tmp_path / "in"), tmp_path / "out"
    made = convert(list(read_masks(root)), out, layout, flatten=True)
    assert (made.items, made.frames, made.objects) == (1, 3, 2)
    clip = opened(layout, out).load(0)
    assert clip.frame_numbers == ((0, 5, 10) if layout == "davis" else (0, 1, 2))
    cat, dog = clip.masks[:, 0], clip.masks[:, 1]
    assert dog.any((1, 2)).tolist() == [False, True, True]
    if layout == "sav":  # holds both where they overlap
        np.testing.assert_array_equal(cat[2], labels.MASKS["cat"])
        assert (cat[2] & dog[2]).any()
    else:  # the cat is the smaller one
        np.testing.assert_array_equal(cat[2], labels.MASKS["cat"])
        assert not (cat[2] & dog[2]).any()
        np.testing.assert_array_equal(
            cat[2] | dog[2], labels.MASKS["cat"] | np.roll(labels.MASKS["dog"], -6, axis=1)
        )


def test_a_video_of_labelme_keeps_its_objects(tmp_path):
    """By label and group; in the order of the frames' numbers."""
    for number in (2, 10, 1):
        labels.labelme(tmp_path / "in" / "walk", f"frame{number}", number, group=7)
    made = convert(list(read_labelme(tmp_path / "in", videos=True)), tmp_path / "out", "davis")
    assert (made.items, made.frames, made.objects) == (1, 3, 2)
    clip = opened("davis", tmp_path / "out").load(0)
    assert clip.frame_numbers == (1, 2, 10) and clip.object_ids == (1, 2)
    for t, seed in enumerate((1, 2, 10)):
        np.testing.assert_array_equal(clip.masks[t, 0], labels.MASKS["cat"])
        assert np.abs(clip.frames[t].astype(int) - like.picture(seed)).mean() < 3


def test_overlaps_do_not_fit_into_a_palette(tmp_path):
    root = labels.mask_video(tmp_path / "in")
    with pytest.raises(DataError) as error:
        convert(list(read_masks(root)), tmp_path / "out", "davis")
    for part in ("walk, frame 10: ", "objects 2 and 1 on", "one object a pixel", "use --to sav"):
        assert part in str(error.value)
    assert not (tmp_path / "out").exists()
    with pytest.raises(DataError, match="use --to davis or --to sav"):
        convert(list(read_masks(root)), tmp_path / "out", "folder")


def test_what_is_there_is_not_overwritten(tmp_path):
    items, out = list(read_masks(labels.masks(tmp_path / "in"))), tmp_path / "out"
    convert(items, out, "folder")
    (out / "mine.txt").write_text("precious")
    with pytest.raises(ConfigError, match="--again"):
        convert(items, out, "davis")
    with pytest.raises(DataError):
        convert([DataError("broken")], out, "davis", again=True)
    assert (out / "mine.txt").exists(), "what fails changes nothing"
    convert(items, out, "davis", again=True)
    assert sorted(path.name for path in out.iterdir()) == [
        "Annotations", "JPEGImages", "objects.json"
    ]  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_again_replaces_conversions_only(tmp_path):
    """A slip must not delete the labels that are being converted."""
    root = labels.masks(tmp_path / "in")
    before = sorted(root.rglob("*"))
    with pytest.raises(ConfigError, match=r"in holds no objects\.json, expected an earlier conv"):
        convert(list(read_masks(root)), root, "folder", again=True)
    assert sorted(root.rglob("*")) == before


def test_malformed_items_are_all_named_or_left_out(tmp_path):
    root = tmp_path / "in"
    for name in ("a", "b", "c"):
        labels.labelme(root, name)
    (root / "a.jpg").unlink()
    like.edit(root / "b.json", lambda content: content["shapes"][0].update(shape_type="line"))
    items = list(read_labelme(root))
    with pytest.raises(DataError) as error:
        convert(items, tmp_path / "out", "folder")
    assert ["a.json" in line or "b.json" in line for line in str(error.value).splitlines()] == [
        True,
        True,
    ]
    made = convert(items, tmp_path / "out", "folder", skip_broken=True)
    assert (made.items, len(made.broken)) == (1, 2)
    assert opened("folder", tmp_path / "out").names == ("c",)


def test_an_item_that_fails_late_leaves_no_file(tmp_path):
    """Its picture was written before its mask turned out to be of another size."""
    root = labels.mask_video(tmp_path / "in")
    like.save(root / "masks/walk/cat/0010.png", np.ones((5, 5), bool))
    labels.masks(root)
    made = convert(list(read_masks(root)), tmp_path / "out", "davis", skip_broken=True)
    assert made.items == 1 and "found a mask of 5x5" in made.broken[0]
    assert not (tmp_path / "out/JPEGImages/walk").exists()


def test_pictures_that_lie_on_their_side(tmp_path):
    """Labelme and YOLO show and label them upright."""
    for make, read in (SOURCES["labelme"], SOURCES["yolo"]):
        root = make(tmp_path / f"{read.__name__}")
        picture = next(p for p in root.rglob("photo 1.*") if p.suffix in (".jpg", ".png"))
        labels.lying(picture)
        out = tmp_path / f"{read.__name__}_out"
        convert(list(read(root)), out, "folder")
        clip = opened("folder", out).load(0)
        assert clip.frames.shape[1:3] == (like.H, like.W)
        assert np.abs(clip.frames[0].astype(int) - like.picture(1)).mean() < 4
        np.testing.assert_array_equal(clip.masks[0, 0], labels.MASKS["cat"])


def test_shapes_of_labelme(tmp_path):
    root = labels.labelme(tmp_path / "in")

    def change(content):
        content["shapes"] = [
            {"label": "r", "points": [[12, 11], [4, 3]], "shape_type": "rectangle"},
            {"label": "c", "points": [[20, 10], [24, 10]], "shape_type": "circle"},
        ]

    like.edit(root / "photo 1.json", change)
    convert(list(read_labelme(root)), tmp_path / "out", "folder")
    rectangle, circle = opened("folder", tmp_path / "out").load(0).masks[0]
    np.testing.assert_array_equal(rectangle, labels.MASKS["cat"])
    assert circle.sum() == pytest.approx(np.pi * 16, rel=0.15) and circle[10, 20]


MALFORMED = {
    "coco: no such picture": (
        "coco",
        lambda root: (root / "photo 1.jpg").unlink(),
        ("_annotations.coco.json, file_name photo 1.jpg", "found no such picture", "fetch it"),
    ),
    "coco: a path that leaves the folder": (
        "coco",
        lambda root: like.edit(
            root / "_annotations.coco.json",
            lambda c: c["images"][0].update(file_name="../../secret.jpg"),
        ),
        ("images[0]", "'../../secret.jpg' leaves", "export the labels again"),
    ),
    "coco: numbers that are none": (
        "coco",
        lambda root: like.edit(
            root / "_annotations.coco.json",
            lambda c: c["annotations"][0].update(segmentation=[[1, 2, float("nan"), 4, 5, 6]]),
        ),
        ("annotation 1, segmentation[0]", "found [1, 2, nan", "three x, y pairs of finite numbers"),
    ),
    "coco: boxes only": (
        "coco",
        lambda root: like.edit(
            root / "_annotations.coco.json",
            lambda c: c["annotations"][0].update(segmentation=[]),
        ),
        ("annotation 1, segmentation", "found []", "segment it first"),
    ),
    "coco: of another picture": (
        "coco",
        lambda root: like.save(root / "photo 1.jpg", like.picture(1, (40, 60))),
        ("photo 1.jpg", "found a picture of 60x40", "expected 30x20", "label it again"),
    ),
    "coco: run lengths of another size": (
        "coco",
        lambda root: like.edit(
            root / "_annotations.coco.json",
            lambda c: c["annotations"][1]["segmentation"].update(size=[5, 5]),
        ),
        ("annotation 2", "5x5"),
    ),
    "coco: another json": (
        "coco",
        lambda root: (root / "_annotations.coco.json").write_text("[]"),
        ("_annotations.coco.json", "found no COCO instances", "export it as COCO segmentation"),
    ),
    "coco: an annotation of no picture": (
        "coco",
        lambda root: like.edit(
            root / "_annotations.coco.json", lambda c: c["annotations"][0].update(image_id=9)
        ),
        ("annotation 1", "found image_id 9", "expected one of `images`"),
    ),
    "yolo: a box": (
        "yolo",
        lambda root: (root / "train/labels/photo 1.txt").write_text("0 0.5 0.5 0.2 0.2\n"),
        ("photo 1.txt, line 1", "found a box", "export the labels for segmentation"),
    ),
    "yolo: pixels": (
        "yolo",
        lambda root: (root / "train/labels/photo 1.txt").write_text("\n0 4 3 12 3 12 11\n"),
        ("photo 1.txt, line 2", "found the coordinate 4", "from 0 to 1", "divide pixels"),
    ),
    "yolo: an unknown class": (
        "yolo",
        lambda root: (root / "train/labels/photo 1.txt").write_text("7 0 0 0 1 1 1\n"),
        ("line 1", "found class 7", "expected one of 0 to 1", "data.yaml"),
    ),
    "yolo: words": (
        "yolo",
        lambda root: (root / "train/labels/photo 1.txt").write_text("cat 0 0 0 1 1 1\n"),
        ("line 1", "found 'cat 0 0", "expected numbers"),
    ),
    "yolo: half a point": (
        "yolo",
        lambda root: (root / "train/labels/photo 1.txt").write_text("0 0 0 0 1 1 1 1\n"),
        ("line 1", "found 7 coordinates", "x, y pairs"),
    ),
    "yolo: a broken picture": (
        "yolo",
        lambda root: (root / "train/images/photo 1.png").write_bytes(b"GIF89a"),
        ("photo 1.png is not a whole picture", "fetch it again"),
    ),
    "labelme: a line": (
        "labelme",
        lambda root: like.edit(
            root / "photo 1.json", lambda c: c["shapes"][0].update(shape_type="linestrip")
        ),
        (
            "photo 1.json, shapes[0], shape_type",
            "found 'linestrip'",
            "draw the object as a polygon",
        ),
    ),
    "labelme: two points": (
        "labelme",
        lambda root: like.edit(
            root / "photo 1.json", lambda c: c["shapes"][0].update(points=[[1, 2], [3, 4]])
        ),
        ("shapes[0], points", "found 2 points", "expected at least 3 points"),
    ),
    "labelme: a path that leaves the folder": (
        "labelme",
        lambda root: like.edit(
            root / "photo 1.json", lambda c: c.update(imagePath="..\\..\\secret.jpg")
        ),
        ("photo 1.json, imagePath", "leaves", "mend the path"),
    ),
    "labelme: another json": (
        "labelme",
        lambda root: (root / "photo 1.json").write_text('{"version": 5}'),
        ("photo 1.json", "found no Labelme annotation", "save it again in Labelme"),
    ),
    "labelme: a mask that is none": (
        "labelme",
        lambda root: like.edit(root / "photo 1.json", lambda c: c["shapes"][1].update(mask="!!")),
        ("shapes[1], mask", "expected a PNG in base64"),
    ),
    "masks: without a picture": (
        "masks",
        lambda root: (root / "images/photo 1.jpg").unlink(),
        ("masks/photo 1", "found a mask without a picture", "fetch it"),
    ),
    "masks: of another size": (
        "masks",
        lambda root: like.save(root / "masks/photo 1/cat.png", np.ones((5, 5), bool)),
        ("cat.png", "found a mask of 5x5", "expected 30x20", "export it at full size"),
    ),
    "masks: two pictures of one name": (
        "masks",
        lambda root: like.save(root / "images/photo 1.png", like.picture(2)),
        ("photo 1.png", "a second picture called photo 1", "remove one"),
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_labels_are_one_line(tmp_path, case):
    source, harm, parts = MALFORMED[case]
    make, read = SOURCES[source]
    root = make(tmp_path / "in")
    harm(root)
    with pytest.raises(DataError) as error:
        convert(list(read(root)), tmp_path / "out", "sa1b")
    (line,) = str(error.value).splitlines()
    for part in parts:
        assert part in line
    assert not (tmp_path / "out").exists()


def test_splits_of_yolo(tmp_path):
    root = labels.yolo(tmp_path)
    with pytest.raises(DataError, match="no split 'val', expected one of train"):
        list(read_yolo(root, "val"))
    (root / "data.yaml").write_text("path: .\ntrain: train/images\nnames: {0: cat, 1: dog}\n")
    assert len(list(read_yolo(root / "data.yaml", "train"))) == 1
    (root / "data.yaml").write_text("path: .\ntrain: elsewhere\nnames: {0: cat}\n")
    with pytest.raises(DataError, match=r"data\.yaml: found no folder elsewhere"):
        list(read_yolo(root))
    (root / "data.yaml").write_text("train: [unclosed")
    with pytest.raises(DataError, match="`names`"):
        list(read_yolo(root))


def test_names_that_come_twice(tmp_path):
    labels.labelme(tmp_path / "in" / "a")
    labels.labelme(tmp_path / "in" / "b")
    with pytest.raises(DataError, match="a second item called photo 1"):
        convert(list(read_labelme(tmp_path / "in")), tmp_path / "out", "folder", skip_broken=True)

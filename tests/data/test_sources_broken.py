"""Hostile and damaged annotations: one line that names file, field, found, expected and what to do; no memory taken
on their word."""

import codecs
import os
import shutil
import tarfile
import tracemalloc

import numpy as np
import pytest

from data.sources import open_dataset
from data.spec import DatasetSpec
from pipeline import rle
from pipeline.errors import DataError
from tests.data import lookalikes as like


def opened(format, root, **fields):
    return open_dataset(DatasetSpec(format=format, root=str(root), **fields))


HUGE = {"size": [100_000, 10_000], "counts": [10**9]}


def billion(**_):
    return {"size": [100_000, 10_000], "counts": rle_counts(10**9)}


def rle_counts(run):
    """One run of zeros, compressed."""
    text = ""
    while True:
        group, run = run & 31, run >> 5
        last = run == 0 and not group & 16
        text += chr(48 + group + (0 if last else 32))
        if last:
            return text


@pytest.mark.parametrize("bomb", [HUGE, billion()])
def test_a_mask_that_claims_a_billion_pixels_takes_no_memory(tmp_path, bomb):
    sa1b = like.sa1b(tmp_path / "sa1b", count=1)
    like.edit(sa1b / "sa_1.json", lambda c: c["annotations"][0].update(segmentation=bomb))
    sav = like.sav(tmp_path / "sav", videos=1)
    like.edit(
        sav / "sav_000/sav_000001_manual.json", lambda c: c["masklet"][2].__setitem__(0, bomb)
    )
    tracemalloc.start()
    with pytest.raises(DataError, match=r"sa_1\.json, annotation 101: the mask is 100000x10000"):
        opened("sa1b", sa1b).load(0)
    with pytest.raises(DataError, match=r"manual\.json, masklet\[2\]\[0\]: the mask has size"):
        opened("sav", sav).load(0)
    with pytest.raises(DataError, match="at most 268435456 pixels"):
        rle.decode(bomb)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segmentation": None}, r"annotation {i}: segmentation is None, expected"),
        (
            {"bbox": [0, 0, float("nan"), 2]},
            r"annotation {i}: bbox is \[0, 0, nan, 2\], expected four",
        ),
        ({"bbox": "all"}, r"annotation {i}: bbox is all"),
        ({"area": "big"}, r"annotation {i}: area is 'big', expected a number"),
        ({"area": None}, r"annotation {i}: area is None, expected a number; mend"),
        ({"segmentation": [[1.0, 2.0, 3.0]]}, r"annotation {i}: found 1 polygon"),
        ({"segmentation": [[1, 1, 5, float("nan"), 5, 5]]}, r"annotation {i}: .* coordinate nan"),
        ({"segmentation": [[1, 1, 1e12, 1, 5, 5]]}, r"annotation {i}: .* coordinate 1000000000000"),
        ({"segmentation": [None]}, r"annotation {i}: found 1 polygon"),
    ],
)
def test_broken_annotations(tmp_path, change, message):
    sa1b, coco = like.sa1b(tmp_path / "sa1b", count=1), like.coco_set(tmp_path / "coco")
    like.edit(sa1b / "sa_1.json", lambda c: c["annotations"][0].update(change))
    with pytest.raises(DataError, match=r"sa_1\.json, " + message.format(i=101)):
        opened("sa1b", sa1b).load(0)
    source = coco / "annotations/instances_val2017.json"
    like.edit(source, lambda c: c["annotations"][0].update(change))
    with pytest.raises(DataError, match=r"instances_val2017\.json, " + message.format(i=7)):
        opened("coco", coco).load(0)


@pytest.mark.parametrize("number", ["7", 7.5])
def test_an_id_that_is_no_whole_number(tmp_path, number):
    sa1b, coco = like.sa1b(tmp_path / "sa1b", count=1), like.coco_set(tmp_path / "coco")
    for path, open_it in (
        (sa1b / "sa_1.json", lambda: opened("sa1b", sa1b)),
        (coco / "annotations/instances_val2017.json", lambda: opened("coco", coco)),
    ):
        like.edit(path, lambda c: c["annotations"][0].update(id=number))
        with pytest.raises(DataError, match=rf"{path.name}.*: id is {number!r}, expected a whole"):
            open_it().load(0)


def test_a_picture_outside_the_root(tmp_path):
    root = like.coco_set(tmp_path / "coco")
    like.save(tmp_path / "secret.jpg", like.picture(1))
    source = root / "annotations/instances_val2017.json"
    like.edit(source, lambda c: c["annotations"][0].update(image_id=10))
    for path in ("../../secret.jpg", str(tmp_path / "secret.jpg"), "..\\secret.jpg"):
        like.edit(source, lambda c, p=path: c["images"][1].update(file_name=p))
        dataset = opened("coco", root)  # the other picture can be read
        outside = [i for i, name in enumerate(dataset.names) if "secret" in name]
        with pytest.raises(
            DataError, match=r"file_name '.*' leads out of .*, expected a path below"
        ):
            dataset.load(outside[0])
        dataset.load(1 - outside[0])


def test_coco_pictures_of_one_name_and_annotations_of_one_id(tmp_path):
    root = like.coco_set(tmp_path)
    source = root / "annotations/instances_val2017.json"
    like.edit(source, lambda c: c["annotations"].append({**c["annotations"][0], "image_id": 10}))
    dataset = opened("coco", root)
    dataset.load(0)
    with pytest.raises(DataError, match="annotation 7: the id is there twice"):
        dataset.load(1)
    like.edit(source, lambda c: c["images"][1].update(file_name="other/000000000009.jpg"))
    with pytest.raises(DataError, match="pictures 9 and 10 are both called 000000000009"):
        opened("coco", root)


@pytest.mark.parametrize("harm", ["cut", "list", "more", "masklet"])
def test_json_of_another_form(tmp_path, harm):
    coco, sav = like.coco_set(tmp_path / "coco"), like.sav(tmp_path / "sav", videos=1)
    for path, open_it in (
        (coco / "annotations/instances_val2017.json", lambda: opened("coco", coco)),
        (sav / "sav_000/sav_000001_manual.json", lambda: opened("sav", sav).load(0)),
    ):
        text = path.read_text()
        path.write_text(
            {
                "cut": text[: len(text) // 2],
                "list": f"[{text}]",
                "more": text + text,
                "masklet": text.replace('"masklet":', '"masks_of":').replace('"images":', '"ims":'),
            }[harm]
        )
        with pytest.raises(DataError, match=rf"{path.name}(:| is not an? )"):
            open_it()


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (tarfile.USTAR_FORMAT, r"has a broken header at byte \d+, after \./sa_1\.json"),
        (tarfile.PAX_FORMAT, r"is not a whole tar file \(bad checksum, after \./sa_1\.json\)"),
    ],
)
def test_a_tar_with_a_broken_member_in_its_middle(tmp_path, form, message):
    source = like.sa1b(tmp_path / "source")
    path = tmp_path / "tar/sa_000000.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w", format=form) as tar:
        for file in sorted(source.iterdir()):
            tar.add(file, arcname=f"./{file.name}")
    content = bytearray(path.read_bytes())
    header = content.index(b"./sa_2.jpg\0")
    path.write_bytes(content[:header] + b"\xff" * 100 + content[header + 100 :])
    with pytest.raises(DataError, match=rf"sa_000000\.tar {message}"):
        opened("sa1b", path.parent)
    picture = content.index(b"JFIF", header)
    content[picture : picture + 400] = bytes(400)
    path.write_bytes(content)
    dataset = opened("sa1b", path.parent)
    dataset.load(0)
    with pytest.raises(DataError, match=r"sa_000000\.tar:sa_2\.jpg is not a whole picture"):
        dataset.load(1)


def test_one_broken_video_does_not_keep_the_others_from_being_listed(tmp_path):
    root = like.davis(tmp_path)
    for video in ("aardvark", "cow", "dog"):
        for kind, ending in (("JPEGImages", "jpg"), ("Annotations", "png")):
            for number in (0, 1, 3):  # 2 is nowhere: a gap
                source = root / kind / "480p/bear" / f"{number:05d}.{ending}"
                target = root / kind / "480p" / video / source.name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(source.read_bytes())
    (root / "JPEGImages/480p/aardvark/00003.jpg").unlink()
    (root / "Annotations/480p/dog/0003.png").write_bytes(b"")
    dataset = opened("davis", root)
    assert dataset.names == ("aardvark", "bear", "cow", "dog")
    with pytest.raises(DataError, match=r"aardvark lacks frame 3, expected as it has a mask"):
        dataset.load(0)
    assert dataset.load(2).frame_numbers == (0, 1, 3)
    with pytest.raises(DataError, match=r"0003\.png and 0*3\.png are the same frame"):
        dataset.frame_count(3)


def test_masks_that_do_not_add_up_and_null_masks(tmp_path):
    root = like.sav(tmp_path, videos=1)
    path = root / "sav_000/sav_000001_manual.json"
    like.edit(path, lambda c: [row.__setitem__(1, None) for row in c["masklet"]])
    dataset = opened("sav", root)
    assert dataset.visible(0, 3) == (0, 2)
    assert not dataset.masks(0, 3, [1], (like.H, like.W)).any()
    like.edit(path, lambda c: c["masklet"][1][0].update(counts="abc"))
    with pytest.raises(DataError, match=r"masklet\[1\]\[0\]: the run"):
        opened("sav", root).load(0)
    like.edit(path, lambda c: c["masklet"].__setitem__(1, None))
    with pytest.raises(DataError, match=r"masklet\[1\] is None\), expected"):
        opened("sav", root).load(0)
    like.edit(path, lambda c: c["masklet"].__setitem__(1, []))
    with pytest.raises(DataError, match=r"`masklet` has rows of \[0, 3\] objects"):
        opened("sav", root).load(0)
    assert np.isfinite(opened("sav", root, annotations="auto").load(0).masks.mean())


@pytest.mark.parametrize("name", ["hand", "0"])
def test_a_folder_of_masks_that_is_no_object_of_its_own(tmp_path, name):
    root = like.sav_val(tmp_path)
    objects = root / "Annotations_6fps/sav_000007"
    shutil.copytree(objects / "000", objects / name)
    with pytest.raises(DataError, match=r"sav_000007/\w+: the name is .*, expected the number of"):
        opened("sav_val", root).load(0)


def test_nothing_to_read_says_what_was_expected(tmp_path):
    root = like.folder(tmp_path)
    (root / "masks/cat.png").rename(root / "masks/cat.jpg")
    with pytest.raises(DataError, match=r"nothing to read as folder; expected images/NAME\.jpg"):
        opened("folder", root)


def test_a_name_in_another_alphabet(tmp_path):
    """As unpacking an old archive leaves them. A file that is no part of the data set may be called anything."""
    root = like.folder(tmp_path / "own")
    strange = os.fsencode(root) + b"/images/caf\xe9.jpg"
    shutil.copy(root / "images/cat.JPG", strange)
    assert opened("folder", root, fraction=0.999).names == ("cat",)
    shutil.copy(root / "masks/cat.png", os.fsencode(root) + b"/masks/caf\xe9.png")
    with pytest.raises(
        DataError, match=r"own/images: the name caf\\udce9\.jpg is not UTF-8.*rename"
    ):
        opened("folder", root)
    sa1b = like.sa1b(tmp_path / "sa1b")
    shutil.copy(strange, os.fsencode(sa1b) + b"/caf\xe9.txt")
    assert len(opened("sa1b", sa1b)) == 3


@pytest.mark.parametrize("format", ["sa1b", "sa1b in tars", "sav", "sav_val", "davis", "folder"])
def test_what_begins_with_a_dot_is_no_data(tmp_path, format):
    """macOS leaves a ._NAME beside every file it copies, notebooks leave folders."""
    kind, *tars = format.split(" in ")
    make = {"sa1b": like.sa1b, "sav": like.sav, "sav_val": like.sav_val, "davis": like.davis}
    root = make.get(kind, like.folder)(tmp_path / "set")
    clean = list(opened(kind, root).names)
    for path in [path for path in root.rglob("*") if path.is_file()]:
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")
    for folder in [path for path in root.rglob("*") if path.is_dir()]:
        shutil.copytree(folder, folder.with_name(".ipynb_checkpoints"), dirs_exist_ok=True)
    dataset = opened(kind, like.sa1b_tar(tmp_path / "tar", root) if tars else root)
    assert list(dataset.names) == clean
    for index in range(len(dataset)):
        dataset.load(index)


def test_a_json_or_list_with_a_byte_order_mark(tmp_path):
    """Editors on Windows write it."""
    coco, sav = like.coco_set(tmp_path / "coco"), like.sav(tmp_path / "sav", videos=2)
    before = [opened(*each).load(0).masks for each in (("coco", coco), ("sav", sav))]
    for path in (coco / "annotations/instances_val2017.json", *sav.rglob("*.json")):
        path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    (sav / "list.txt").write_bytes(codecs.BOM_UTF8 + b"sav_000001\r\n")
    after = [opened("coco", coco).load(0).masks, opened("sav", sav, split="list.txt").load(0).masks]
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)

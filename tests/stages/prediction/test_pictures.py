"""One picture, or a folder of them: prompts, turned and odd pictures, everything."""

import json
from dataclasses import fields

import numpy as np
import pytest
from PIL import Image

from model.mask_generator import MaskGenerator
from pipeline import rle
from stages.prediction.spec import Everything, Prompt
from tests.stages.prediction.scene import POINT, H, W, save, shades, square


def test_a_picture_in_all_forms(call, picture, tmp_path):
    prompts = (
        Prompt(points=((30, 20), (3, 3)), labels=(1, 0)),
        Prompt(object=4, box=(5, 5, 40, 30)),
    )
    summary = call(picture, prompts=prompts, layouts=("palette", "objects", "rle"))
    out = tmp_path / "out"
    assert (summary.finished, summary.frames, summary.failures) == (1, 1, ())
    palette = Image.open(out / "masks" / "cat.png")
    assert palette.mode == "P" and palette.size == (W, H)
    assert palette.getpalette()[:6] == [0, 0, 0, 128, 0, 0]
    alone = {n: np.asarray(Image.open(out / "masks" / "cat" / f"{n:03d}.png")) for n in (1, 4)}
    assert all(set(np.unique(mask)) <= {0, 1} for mask in alone.values())
    report = json.loads((out / "rle" / "cat.json").read_text())
    assert report["image"] == {"file_name": "cat.png", "height": H, "width": W}
    for entry in report["annotations"]:
        mask = rle.decode(entry["segmentation"])
        assert np.array_equal(mask, alone[entry["id"]] > 0) and entry["area"] == mask.sum()
        assert 0 <= entry["predicted_iou"] <= 1
    labels = np.asarray(palette)
    assert set(np.unique(labels)) <= {0, 1, 4}
    assert np.array_equal(labels > 0, (alone[1] | alone[4]) > 0), (
        "every pixel of a mask has an owner"
    )
    assert all((alone[n][labels == n] == 1).all() for n in (1, 4))
    assert Image.open(out / "overlays" / "cat.jpg").size == (540, 360), "enlarged"


def test_a_threshold_makes_masks_smaller(call, picture, tmp_path):
    def area(threshold: float) -> int:
        call(picture, prompts=POINT, score_threshold=threshold, overlay=False)
        return int((np.asarray(Image.open(tmp_path / "out/masks/cat.png")) > 0).sum())

    assert area(-1000.0) == H * W and area(1000.0) == 0


def test_what_has_no_mask_is_named(call, picture):
    assert call(picture, prompts=POINT, score_threshold=-1000.0).empty == ()
    assert call(picture, prompts=POINT, score_threshold=1000.0).empty == ("cat",)


def test_a_turned_picture_is_answered_as_people_see_it(call, tmp_path):
    tags = Image.Exif()
    tags[0x0112] = 6
    turned = save(tmp_path / "in" / "phone.jpg", shades(0), exif=tags, quality=95)
    call(turned, prompts=(Prompt(points=((20, 50),)),))
    assert Image.open(tmp_path / "out/masks/phone.png").size == (H, W)
    with_mask = save(tmp_path / "mask.png", (square(0, 0).T * 255).astype(np.uint8))
    assert call(turned, prompts=(Prompt(mask=str(with_mask)),)).failures == ()


@pytest.mark.parametrize("kind", ["grey16", "rgba", "palette"])
def test_pictures_of_other_kinds(kind, call, tmp_path):
    grey = np.linspace(0, 65535, H * W).reshape(H, W).astype(np.uint16)
    made = {
        "grey16": Image.fromarray(grey),
        "rgba": Image.fromarray(np.dstack([shades(0), np.full((H, W), 90, np.uint8)])),
        "palette": Image.fromarray(shades(0)).quantize(32),
    }
    made[kind].save(tmp_path / "odd.png")
    assert call(tmp_path / "odd.png", prompts=POINT).finished == 1


def test_a_folder_of_pictures_names_the_broken_one_and_does_the_others(call, tmp_path):
    for name in ("a.jpg", "b.png", "b.jpg"):
        save(tmp_path / "in" / name, shades(1, (H, W + len(name))))
    save(tmp_path / "in" / "c.jpg", b"not a picture")
    summary = call(tmp_path / "in", images=True, prompts=POINT)
    assert summary.finished == 3 and len(summary.failures) == 1
    assert "c.jpg" in summary.failures[0]
    made = sorted(path.name for path in (tmp_path / "out" / "masks").iterdir())
    assert made == ["a.png", "b.jpg.png", "b.png.png"]


def test_prompts_may_name_a_picture(call, tmp_path):
    for name in ("a.png", "b.png"):
        save(tmp_path / "in" / name, shades(1))
    prompts = (Prompt(points=((5, 5),), picture="a.png"), Prompt(object=2, points=((9, 9),)))
    call(tmp_path / "in", images=True, prompts=prompts, layouts=("objects",))
    found = {
        p.name: sorted(q.name for q in p.iterdir()) for p in (tmp_path / "out/masks").iterdir()
    }
    assert found == {"a": ["001.png", "002.png"], "b": ["002.png"]}


def test_everything_is_numbered_from_small_to_large(call, picture, tmp_path):
    looks = Everything(points_per_side=4, predicted_iou=0.0, stability=0.0)
    call(picture, everything=looks, layouts=("rle", "palette"))
    found = json.loads((tmp_path / "out/rle/cat.json").read_text())["annotations"]
    areas = [entry["area"] for entry in found]
    assert areas == sorted(areas) and areas and found[0]["id"] == 1
    assert {"predicted_iou", "stability_score", "point_coords", "crop_box"} <= found[0].keys()
    smallest = rle.decode(found[0]["segmentation"])
    assert (np.asarray(Image.open(tmp_path / "out/masks/cat.png"))[smallest] == 1).all()


def test_everything_obeys_the_threshold(call, picture, tmp_path):
    looks = Everything(points_per_side=2, predicted_iou=0.0)
    call(picture, everything=looks, score_threshold=-1000.0)
    found = json.loads((tmp_path / "out/rle/cat.json").read_text())["annotations"]
    assert [entry["area"] for entry in found] == [H * W], "every mask covers all: one is kept"
    assert call(picture, everything=looks, score_threshold=1000.0).empty == ("cat",)


def test_everything_starts_from_the_generators_own_settings():
    own = {field.name: field.default for field in fields(MaskGenerator)}
    assert {field.name: own[field.name] for field in fields(Everything)} == vars(Everything())

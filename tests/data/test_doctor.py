"""The doctor counts right, names what is wrong and never stops at it."""

import json
import re

import cv2
import numpy as np
import pytest

from data.doctor.contents import check_contents
from data.doctor.examine import Rules
from data.doctor.finding import from_error
from data.doctor.report import bars, grouped, write_reports
from data.doctor.sheet import WIDTH, draw_sheet
from data.doctor.survey import Survey, survey
from data.doctor.worst import Draw, worst_batch
from data.spec import DatasetSpec
from pipeline.errors import DataError
from tests.data import lookalikes as like

MAKE = {
    "sa1b": like.sa1b,
    "sav": like.sav,
    "sav_val": like.sav_val,
    "davis": like.davis,
    "coco": like.coco_set,
    "folder": like.folder,
}


def spec_of(format, root):
    return DatasetSpec(format=format, root=str(root))


def looked_at(format, root, rules=None):
    return survey(spec_of(format, root), format, rules or Rules())


def checks(found: Survey) -> set[tuple[str, str]]:
    return {(finding.severity, finding.check) for finding in found.findings}


@pytest.mark.parametrize(
    ("format", "items", "frames", "objects"),
    [
        ("sa1b", 3, 3, {2: 3}),
        ("sav", 2, 12, {2: 4, 3: 8}),
        ("sav_val", 1, 3, {1: 2, 2: 1}),
        ("davis", 1, 6, {1: 2, 2: 4}),
        ("coco", 1, 1, {3: 1}),
        ("folder", 1, 1, {2: 1}),
    ],
)
def test_numbers(tmp_path, format, items, frames, objects):
    found, dataset = looked_at(format, MAKE[format](tmp_path / "set"))
    assert dataset is not None and found.errors == 0
    assert (found.items, found.examined, found.frames) == (items, items, frames)
    assert dict(found.objects) == objects
    assert found.masks == sum(count * n for count, n in objects.items())
    assert found.sizes == {(like.H, like.W): frames}
    assert sum(found.areas.values()) == found.masks
    assert json.loads(json.dumps(found.numbers()))["frames"] == frames


def test_overlaps_are_counted(tmp_path):
    """A palette could not hold these."""
    assert looked_at("sav", like.sav(tmp_path / "sav"))[0].overlapping > 0
    assert looked_at("davis", like.davis(tmp_path / "davis"))[0].overlapping == 0


def test_the_same_report_with_any_number_of_workers(tmp_path):
    root = like.sa1b(tmp_path, count=20)
    (root / "sa_7.jpg").write_bytes(b"")
    spec = DatasetSpec(format="sa1b", root=str(root))
    one, two = (survey(spec, "set", Rules(), workers=workers)[0] for workers in (1, 2))
    assert one.numbers() == two.numbers()
    assert one.findings == two.findings and one.errors == 1
    some = survey(spec, "set", Rules(), sample=4)[0]
    assert (some.items, some.examined) == (20, 4)


def test_broken_items_have_their_line_and_the_others_are_counted(tmp_path):
    root = like.davis(tmp_path)
    (root / "JPEGImages/480p/bear/00002.jpg").write_bytes(b"")
    like.save(root / "Annotations/480p/bear/00003.png", np.zeros((5, 5), np.uint8))
    found, _ = looked_at("davis", root)
    assert found.frames == 5
    assert [f.check for f in found.findings if f.severity == "error"] == ["pictures"]
    assert "00002.jpg" in found.findings[0].file
    like.save(root / "Annotations/480p/bear/00004.png", np.ones((5, 5), np.uint8))
    found, _ = looked_at("davis", root)
    wrong = next(finding for finding in found.findings if finding.check == "masks")
    assert wrong.file.endswith("00004.png") and "5x5" in wrong.line


def test_notes_about_videos(tmp_path):
    root = like.davis(tmp_path)
    labels = root / "Annotations/480p/bear"
    (labels / "00003.png").unlink()
    like.save(labels / "00000.png", np.zeros((like.H, like.W), np.uint8), like.CLOSE_PALETTE)
    dot = np.zeros((like.H, like.W), np.uint8)
    dot[4, 5:8] = 9
    like.save(labels / "00004.png", dot, like.CLOSE_PALETTE)
    like.save(root / "JPEGImages/480p/wolf/00000.jpg", like.picture(1))
    found, _ = looked_at("davis", root, Rules(window=8))
    assert checks(found) == {
        ("note", "frame gaps"),
        ("note", "empty first frames"),
        ("note", "short videos"),
        ("note", "tiny masks"),
        ("note", "unpaired files"),
    }
    lines = {finding.check: finding.line for finding in found.findings}
    assert "bear, frame 2: found 4" in lines["frame gaps"]
    assert "object 9, frame 4: found a mask of 3 pixels" in lines["tiny masks"]
    assert "found 5 annotated ones, expected 8" in lines["short videos"]
    assert found.errors == 0


def test_objects_that_are_never_seen(tmp_path):
    root = like.sav(tmp_path, videos=1)
    path = root / "sav_000/sav_000001_manual.json"
    like.edit(path, lambda content: [row.__setitem__(1, None) for row in content["masklet"]])
    found, _ = looked_at("sav", root)
    assert [f.field for f in found.findings if f.check == "never-visible objects"] == ["object 1"]


def test_a_video_longer_than_its_annotation_says(tmp_path):
    root = like.sav(tmp_path, videos=2)
    like.save_video(root / "sav_000/sav_000002.mp4", [like.picture(t) for t in range(30)])
    like.save_json(root / "sav_000/._sav_000001_manual.json", {"masklet": [], "masklet_id": [1]})
    found, _ = looked_at("sav", root)
    (note,) = [
        finding
        for finding in found.findings
        if finding.severity != "note" or "frame" in finding.check
    ]
    assert note.file.endswith("sav_000002_manual.json") and note.check == "frame counts"
    assert (note.found, note.expected) == ("24 frames", "30 as sav_000002.mp4 has")


def test_what_only_the_file_tells(tmp_path):
    """Boxes, polygons and ids that no reader looks at."""
    root = like.coco_set(tmp_path)
    path = root / "annotations/instances_val2017.json"
    content = json.loads(path.read_text())
    rows = content["annotations"]
    rows[0]["bbox"] = [4.0, 4.0, -8.0, 6.0]
    rows[1]["bbox"] = [20.0, 4.0, 18.0, 6.0]
    rows[0]["segmentation"] = [[4.0, 4.0, 12.0, 4.0, 12.0, 33.0, 4.0, 33.0]]
    content["images"].append({**content["images"][0], "file_name": "x.jpg"})
    path.write_text(json.dumps(content))
    found = {finding.check: finding for finding in check_contents(spec_of("coco", root), "coco")}
    assert "annotation 7, bbox: found [4.0, 4.0, -8.0, 6.0]" in found["boxes"].line
    assert "images, id 9: found it 2 times" in found["duplicate ids"].line
    assert found["outside the picture"].field == "annotation 8, bbox"
    rows[1].pop("bbox")
    path.write_text(json.dumps(content))
    found = {finding.check: finding for finding in check_contents(spec_of("coco", root), "coco")}
    assert found["outside the picture"].field == "annotation 7, segmentation[0]"


def test_a_data_set_that_cannot_be_opened(tmp_path):
    found, dataset = looked_at("davis", tmp_path)
    assert dataset is None and found.errors == 1
    (finding,) = found.findings
    assert finding.check == "opening" and str(tmp_path) in finding.file
    assert "JPEGImages" in finding.expected


@pytest.mark.parametrize(
    ("message", "parts"),
    [
        (
            "/a b/sa_1.json, annotation 7: found nan, expected numbers; export it again",
            ("/a b/sa_1.json", "annotation 7", "nan", "numbers", "export it again"),
        ),
        (
            "/x/v.mp4 is empty (0 bytes), expected a video; fetch it again",
            ("/x/v.mp4", "", "is empty (0 bytes)", "a video", "fetch it again"),
        ),
        (
            "/x/root does not exist; expected JPEGImages/<video>/*.jpg",
            ("/x/root", "", "does not exist", "JPEGImages/<video>/*.jpg", ""),
        ),
        (
            "/x/a.json, masklet[3][1]: the mask is 5x5, the picture 6x6; they belong together",
            (
                "/x/a.json",
                "masklet[3][1]",
                "the mask is 5x5, the picture 6x6",
                "",
                "they belong together",
            ),
        ),
    ],
)
def test_the_parts_of_a_message(message, parts):
    spec = DatasetSpec(format="sa1b", root="/a b")
    finding = from_error("set", spec, "item", "check", DataError(message))
    assert (finding.file, finding.field, finding.found, finding.expected, finding.fix) == parts


def test_the_worst_batch(tmp_path):
    """Objects are limited as the stage limits them; then picture size decides."""
    found = Survey("clips", DatasetSpec(format="davis", root="x"))
    found.heaviest = {
        (9, 100, 100): ["many"],
        (3, 200, 100): ["large"],
        (2, 300, 100): ["few"],
        (0, 900, 900): ["none"],
    }
    batch = worst_batch(found, Draw("video", frames=8, objects=3, batch=2))
    assert batch is not None
    assert batch.items == ("few", "large") and batch.objects == 2  # 2 x 300 = 3 x 200: by name
    batch = worst_batch(found, Draw("video", frames=8, objects=4, batch=5))
    assert batch.items == ("few", "large", "many")
    assert (batch.total_objects, batch.total_frames) == (2 + 3 + 4, 24)
    assert batch.source_bytes == 8 * 100 * (300 * 5 + 200 * 6 + 100 * 7)
    found.heaviest = {}
    assert worst_batch(found, Draw("video", 8, 3, 2)) is None


def test_the_sheet_shows_every_kind_and_leaves_out_what_is_broken(tmp_path):
    opened = []
    for format in ("sa1b", "sav", "folder"):
        root = MAKE[format](tmp_path / format)
        if format == "sa1b":
            (root / "sa_1.jpg").write_bytes(b"")
        found, dataset = looked_at(format, root)
        opened.append((dataset, found))
    sheet = draw_sheet(opened)
    assert sheet.shape[1] == WIDTH and sheet.dtype == np.uint8
    assert sheet.shape[0] > 3 * 150, "every data set has a row"
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 1000


def test_reports(tmp_path):
    root = like.sa1b(tmp_path / "set")
    (root / "sa_2.jpg").write_bytes(b"")
    found, dataset = looked_at("sa1b", root)
    batch = worst_batch(found, Draw("pretrain", 1, 3, 2))
    sheet = draw_sheet([(dataset, found)])
    paths = write_reports(tmp_path, [found], [batch], sheet, page=True)
    assert [path.name for path in paths] == [
        "findings.jsonl", "doctor.json", "sheet.jpg", "doctor.html"
    ]  # fmt: skip
    (row,) = [json.loads(line) for line in paths[0].read_text().splitlines()]
    assert row["file"].endswith("sa_2.jpg") and row["severity"] == "error" and row["fix"]
    numbers = json.loads(paths[1].read_text())
    assert numbers["errors"] == 1 and numbers["worst_batches"][0]["items"] == ["sa_1", "sa_3"]
    assert cv2.imread(str(paths[2])).shape == sheet.shape
    page = paths[3].read_text()
    assert "sa_2.jpg" in page and not re.search(r"(src|href)=\"(?!data:)", page)


def test_histograms():
    from collections import Counter

    assert bars(Counter({0: 1, 2: 4})) == [("0", 1, 0.25), ("1", 0, 0.0), ("2", 4, 1.0)]
    wide = bars(Counter({n: 1 for n in range(100)}))
    assert len(wide) == 12 and wide[0][0] == "0-8" and sum(row[1] for row in wide) == 100
    assert bars(Counter()) == []


def test_errors_come_first(tmp_path):
    root = like.davis(tmp_path)
    (root / "JPEGImages/480p/bear/00002.jpg").write_bytes(b"")
    (root / "Annotations/480p/bear/00003.png").unlink()
    found, _ = looked_at("davis", root, Rules(window=9))
    assert [severity for severity, _, _ in grouped(found.findings)] == ["error", "note", "note"]

"""Everything that goes wrong with files in real life, on data sets of three items.

Each `Broken` says how to break one item (or the whole), and what the one message has to name.
"""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field as values
from pathlib import Path
from typing import Any

import numpy as np

from tests.data import films
from tests.data import lookalikes as like
from tests.data.three_items import cut


@dataclass(frozen=True)
class Broken:
    """harm: what happens to the folder. file: how the name of the culprit ends. field, found,
    expected, fix: words of the message. whole: nothing can be opened, rather than one item lost.
    """

    format: str
    harm: Callable[[Path], object]
    file: str
    found: str
    expected: str
    fix: str
    field: str = ""
    whole: bool = False
    spec: dict[str, Any] = values(default_factory=dict)


def _segment(root: Path) -> dict[str, Any]:
    return json.loads((root / "sa_1.json").read_text())["annotations"][0]["segmentation"]


def _annotation(**fields: Any) -> Callable[[Path], None]:
    """Change the first annotation of sa_1."""
    return lambda root: like.edit(root / "sa_1.json", lambda c: c["annotations"][0].update(fields))


def _coco_row(**fields: Any) -> Callable[[Path], None]:
    path = "annotations/instances_val2017.json"
    return lambda root: like.edit(root / path, lambda c: c["annotations"][0].update(fields))


def _masklet(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    return lambda root: like.edit(root / "sav_000/sav_000001_manual.json", change)


def _bad_member(root: Path) -> None:
    """The json of sa_1 in the tar is another one's beginning."""
    tar = root / "sa_000000.tar"
    with tarfile.open(tar) as old:
        files = {m.name: old.extractfile(m).read() for m in old.getmembers() if m.isfile()}
    with tarfile.open(tar, "w") as new:
        for name, content in files.items():
            content = content[: len(content) // 2] if name.endswith("sa_1.json") else content
            info = tarfile.TarInfo(name)
            info.size = len(content)
            new.addfile(info, io.BytesIO(content))


LABELS = "Annotations/480p/bear"
JSON = "annotations/instances_val2017.json"
VIDEO = "sav_000/sav_000001.mp4"
MASKLETS = "sav_000/sav_000001_manual.json"


def _frames_of_two_sizes(root: Path) -> None:
    like.save(root / "JPEGImages/480p/bear/00003.jpg", like.picture(1, (40, 60)))
    like.save(root / LABELS / "00003.png", np.zeros((40, 60), np.uint8), like.CLOSE_PALETTE)


def _leaving(root: Path) -> None:
    name = "../../etc/000000000010.jpg"
    like.edit(root / JSON, lambda content: content["images"][1].update(file_name=name))


SMALL = np.ones((5, 7), np.uint8)
PICTURES = {
    "a truncated JPEG": Broken(
        "sa1b",
        lambda root: cut(root / "sa_1.jpg"),
        file="sa_1.jpg",
        found="not a whole picture",
        expected="a JPEG or PNG",
        fix="fetch or extract it again",
    ),
    "an empty JPEG": Broken(
        "folder",
        lambda root: (root / "images/cat.JPG").write_bytes(b""),
        file="cat.JPG",
        found="0 bytes",
        expected="the whole file",
        fix="fetch or extract it again",
    ),
    "an error page for a picture": Broken(
        "davis",
        lambda root: (root / "JPEGImages/480p/bear/00002.jpg").write_text("<html>404</html>"),
        file="00002.jpg",
        found="not a whole picture",
        expected="a JPEG or PNG",
        fix="fetch or extract it again",
    ),
    "a picture nobody may read": Broken(
        "folder",
        lambda root: (root / "images/cat.JPG").chmod(0),
        file="cat.JPG",
        found="Permission denied",
        expected="a file of the data set",
        fix="mend its permissions",
    ),
    "frames of different sizes": Broken(
        "davis",
        _frames_of_two_sizes,
        file="",
        field="bear",
        found="40x60",
        expected="20x30",
        fix="extract the frames again",
    ),
    "a path that leaves the folder": Broken(
        "coco",
        _leaving,
        file="instances_val2017.json",
        found="leads out of",
        expected="a path below it",
        fix="mend the file",
    ),
}
VIDEOS = {
    "an mp4 of no bytes": Broken(
        "sav",
        lambda root: (root / VIDEO).write_bytes(b""),
        file="sav_000001.mp4",
        found="0 bytes",
        expected="a video",
        fix="fetch it again",
    ),
    "an mp4 cut in half": Broken(
        "sav",
        lambda root: cut(root / VIDEO),
        file="sav_000001.mp4",
        found="not a whole video",
        expected="one that plays to its end",
        fix="fetch it again",
    ),
    "an mp4 of sound only": Broken(
        "sav",
        lambda root: films.sound_only(root / VIDEO),
        file="sav_000001.mp4",
        found="no video stream (found audio)",
        expected="one",
        fix="leave the file out",
    ),
    "an mp4 shorter than its annotation": Broken(
        "sav",
        lambda root: like.save_video(root / VIDEO, [like.picture(t) for t in range(9)]),
        file="sav_000001.mp4",
        found="found 9 frames",
        expected="those of its annotations",
        fix="fetch both again",
    ),
    "no mp4": Broken(
        "sav",
        lambda root: (root / VIDEO).unlink(),
        file="sav_000001.mp4",
        found="does not exist",
        expected="a video file",
        fix="fetch it",
    ),
}
RUN_LENGTHS = {
    "run lengths of another size": Broken(
        "sa1b",
        _annotation(segmentation=like.packed(SMALL)),
        file="sa_1.json",
        field="annotation 101",
        found="5x7",
        expected="20x30",
        fix="fetch both again",
    ),
    "run lengths that claim a thousand million pixels": Broken(
        "sa1b",
        _annotation(segmentation={"size": [31623, 31623], "counts": "o" * 6}),
        file="sa_1.json",
        field="annotation 101",
        found="31623x31623",
        expected="20x30",
        fix="fetch both again",
    ),
    "masklets that claim a thousand million pixels": Broken(
        "sav",
        _masklet(lambda c: c["masklet"][2][0].update(size=[31623, 31623], counts=[10**9 + 14129])),
        file="sav_000001_manual.json",
        field="masklet[2][0]",
        found="31623x31623",
        expected="at most",
        fix="fetch the annotation again",
    ),
    "run lengths in wrong letters": Broken(
        "sa1b",
        lambda root: _annotation(segmentation={**_segment(root), "counts": "\x01~~"})(root),
        file="sa_1.json",
        field="annotation 101",
        found="a character outside the alphabet",
        expected="those of COCO",
        fix="fetch the annotation again",
    ),
    "run lengths that add up to something else": Broken(
        "sav",
        _masklet(lambda c: c["masklet"][2][0].update(counts=[5, 5])),
        file="sav_000001_manual.json",
        field="masklet[2][0]",
        found="10 pixels",
        expected="600",
        fix="fetch the annotation again",
    ),
    "a masklet of another size": Broken(
        "sav",
        _masklet(lambda c: c["masklet"][2][0].update(like.packed(SMALL))),
        file="sav_000001_manual.json",
        field="masklet[2][0]",
        found="5x7",
        expected="20x30",
        fix="fetch both again",
    ),
    "null for a mask": Broken(
        "sa1b",
        _annotation(segmentation=None),
        file="sa_1.json",
        field="annotation 101",
        found="None",
        expected="polygons",
        fix="remove the annotation",
    ),
    "NaN in a box": Broken(
        "sa1b",
        _annotation(bbox=[float("nan"), 0, 1, 1]),
        file="sa_1.json",
        field="annotation 101",
        found="nan",
        expected="four finite numbers",
        fix="mend the file",
    ),
    "NaN in a polygon": Broken(
        "coco",
        _coco_row(segmentation=[[4.0, 4.0, float("nan"), 4.0, 12.0, 10.0]]),
        file="instances_val2017.json",
        field="annotation 7",
        found="nan",
        expected="numbers within the picture",
        fix="fetch the annotation again",
    ),
}
LABEL_MAPS = {
    "a palette turned RGB": Broken(
        "davis",
        lambda root: like.save(root / LABELS / "00001.png", like.picture(4)),
        file="00001.png",
        found="colour picture",
        expected="a palette or grey PNG",
        fix="take the original",
    ),
    "a label map of another size": Broken(
        "davis",
        lambda root: like.save(root / LABELS / "00001.png", SMALL),
        file="00001.png",
        found="5x7",
        expected="20x30",
        fix="fetch both again",
    ),
    "a binary mask of another size": Broken(
        "sav_val",
        lambda root: like.save(
            root / "Annotations_6fps/sav_000007/000/00004.png", SMALL * np.uint8(255)
        ),
        file="00004.png",
        found="5x7",
        expected="20x30",
        fix="fetch both again",
    ),
    "a mask without its picture": Broken(
        "davis",
        lambda root: (root / "JPEGImages/480p/bear/00003.jpg").unlink(),
        file="JPEGImages/480p/bear",
        found="lacks frame 3",
        expected="it has a mask",
        fix="fetch the frame",
    ),
    "one frame twice": Broken(
        "davis",
        lambda root: shutil.copyfile(root / LABELS / "00003.png", root / LABELS / "3.png"),
        file="3.png",
        found="the same frame",
        expected="one file",
        fix="remove the other",
    ),
}
ANNOTATIONS = {
    "a json cut in half": Broken(
        "sa1b",
        lambda root: cut(root / "sa_1.json"),
        file="sa_1.json",
        found="not an SA-1B annotation",
        expected="{image, annotations",
        fix="fetch it again",
    ),
    "a json of another kind": Broken(
        "sav",
        lambda root: like.save_json(root / MASKLETS, {"shapes": []}),
        file="sav_000001_manual.json",
        found="not an SA-V annotation",
        expected="{masklet",
        fix="fetch it again",
    ),
    "one name in two folders": Broken(
        "sa1b",
        lambda root: like.save(root / "more/sa_1.jpg", like.picture(9, (40, 40))),
        file="more/sa_1.jpg",
        found="in another folder",
        expected="one file of each name",
        fix="rename or remove",
    ),
    "one video in two folders": Broken(
        "sav",
        lambda root: like.save_json(root / "sav_001/sav_000001_manual.json", {}),
        file="sav_000001_manual.json",
        found="is also in",
        expected="one file for each video",
        fix="rename or remove",
    ),
    "one name with two endings": Broken(
        "folder",
        lambda root: like.save(root / "images/cat.png", like.picture(2)),
        file="images/cat.png",
        found="cat.JPG has the same name",
        expected="one file of each",
        fix="rename or remove",
    ),
    "one id twice": Broken(
        "coco",
        _coco_row(id=8),
        file="instances_val2017.json",
        field="annotation 8",
        found="twice",
        expected="once",
        fix="mend the file",
    ),
    "one id twice in SA-1B": Broken(
        "sa1b",
        _annotation(id=102),
        file="sa_1.json",
        field="annotation 102",
        found="2 times",
        expected="once",
        fix="mend the file",
    ),
    "a bad member of a tar": Broken(
        "sa1b tar",
        _bad_member,
        file="sa_000000.tar:sa_1.json",
        found="not an SA-1B annotation",
        expected="{image, annotations",
        fix="fetch it again",
    ),
}
WHOLE = {
    "no json beside a picture": Broken(
        "sa1b",
        lambda root: (root / "sa_1.json").unlink(),
        file="",
        found="sa_1 without its .json",
        expected="both",
        fix="leave it out",
        whole=True,
    ),
    "one json of another kind for everything": Broken(
        "coco",
        lambda root: like.save_json(root / JSON, {"shapes": []}),
        file="instances_val2017.json",
        found="no object",
        expected="{images",
        fix="export it again",
        whole=True,
    ),
    "a list that leaves the folder": Broken(
        "davis",
        lambda root: (root / "list.txt").write_text("bear\n../../etc\n"),
        file="",
        found="'../../etc'",
        expected="only names",
        fix="mend the list",
        whole=True,
        spec={"split": "list.txt"},
    ),
    "a tar cut off inside a member": Broken(
        "sa1b tar",
        lambda root: cut(root / "sa_000000.tar", 0.37),
        file="sa_000000.tar",
        found="unexpected end of data",
        expected="one",
        fix="fetch it again",
        whole=True,
    ),
    "a tar cut off between members": Broken(
        "sa1b tar",
        lambda root: cut(root / "sa_000000.tar", 0.5),
        file="sa_000000.tar",
        found="ends after",
        expected="two empty blocks",
        fix="fetch it again",
        whole=True,
    ),
    "no tar at all": Broken(
        "sa1b tar",
        lambda root: (root / "sa_000000.tar").write_bytes(b"<html>404</html>" * 99),
        file="sa_000000.tar",
        found="not a whole tar file",
        expected="one",
        fix="fetch it again",
        whole=True,
    ),
    "nothing there": Broken(
        "davis",
        shutil.rmtree,
        file="",
        found="does not exist",
        expected="JPEGImages/<video>",
        fix="",
        whole=True,
    ),
}
ITEMS = PICTURES | VIDEOS | RUN_LENGTHS | LABEL_MAPS | ANNOTATIONS
BROKEN = ITEMS | WHOLE
"""All of them by name; those of `ITEMS` break one item of three."""

"""Masks of a data set as files: scored where there is truth, packed for a server, shared by ranks."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.labels import label_png
from data.sources import open_dataset
from data.spec import DatasetSpec
from flows.cli import main
from model.weights import load_checkpoint
from pipeline.distributed import World
from pipeline.errors import DataError
from stages.evaluation.folders import score_folders
from stages.evaluation.predicted import has_truth
from stages.evaluation.protocols import Subject, measure_by
from stages.evaluation.sharing import share_out
from stages.evaluation_settings import VosMeasurement
from stages.prediction.submission import pack
from tests.stages.prediction.conftest import weights as weights

H, W, FRAMES = 48, 64, 5


def labels(t: int, *, late: bool) -> np.ndarray:
    found = np.zeros((H, W), np.uint8)
    found[5:25, 5 + t : 30 + t] = 1
    if late and t >= 2:
        found[30:45, 40:60] = 2
    return found


def data_set(root: Path, *, hidden: bool = False) -> Path:
    """Two videos; hidden: only the masks that a server's data set shows."""
    for video, late in (("one", False), ("two", True)):
        for place in ("JPEGImages", "Annotations"):
            (root / place / video).mkdir(parents=True)
        for t in range(FRAMES):
            noise = np.random.default_rng(t).integers(0, 255, (H, W, 3)).astype(np.uint8)
            Image.fromarray(noise).save(root / "JPEGImages" / video / f"{t:05d}.jpg")
            shown = labels(t, late=late)
            if hidden and t:
                if not (late and t == 2):
                    continue
                shown[shown == 1] = 0
            (root / "Annotations" / video / f"{t:05d}.png").write_bytes(label_png(shown))
    return root


def measure(root: Path, weights: str, folder: Path, **settings):
    dataset = open_dataset(DatasetSpec(format="davis", root=str(root)))
    subject = Subject(load_checkpoint(weights).eval(), Path(weights), dataset, World(), folder)
    return measure_by(VosMeasurement(kind="vos", dataset="d", **settings), subject)


def test_a_data_set_with_truth_is_scored_as_its_files_are(tmp_path, weights):
    root = data_set(tmp_path / "d")
    found = measure(root, weights, tmp_path / "out")
    scores = score_folders(root / "Annotations", tmp_path / "out" / "masks")
    assert found.metrics["jf"] == scores.jf and found.metrics["j_decay"] == scores.mean("j_decay")
    assert "all frames tracked" in found.protocol and "first sight" in found.protocol
    assert found.resolution == f"{W}x{H}" and found.split
    assert json.loads(Path(found.files["scores"]).read_text())["jf"] == scores.jf
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "masks").rglob("*.png")}
    assert measure(root, weights, tmp_path / "out").metrics == found.metrics
    assert before == {p: p.stat().st_mtime_ns for p in before}, "finished videos are kept"


def test_hidden_truth_is_packed_and_not_scored(tmp_path, weights):
    root = data_set(tmp_path / "d", hidden=True)
    dataset = open_dataset(DatasetSpec(format="davis", root=str(root)))
    assert not any(has_truth(dataset, index) for index in range(len(dataset)))
    found = measure(root, weights, tmp_path / "out", zip="youtube-vos", show_late=True)
    assert found.metrics == {} and "no truth" in found.protocol
    with zipfile.ZipFile(found.files["zip"]) as archive:
        names = archive.namelist()
        assert names == [f"Annotations/{v}/{t:05d}.png" for v in ("one", "two") for t in range(5)]
        with archive.open(names[-1]) as file:
            assert Image.open(file).mode == "P"


def test_equal_masks_make_equal_zips_and_foreign_pictures_none(tmp_path):
    for t in range(2):
        path = tmp_path / "masks" / "v" / f"{t}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(label_png(labels(t, late=False)))
    first, second = (
        pack(tmp_path / "masks", ["v"], tmp_path / name, "mose") for name in ("a.zip", "b.zip")
    )
    assert first.read_bytes() == second.read_bytes()
    assert zipfile.ZipFile(first).namelist() == ["v/0.png", "v/1.png"]
    Image.new("L", (4, 4)).save(tmp_path / "masks" / "v" / "1.png")
    for videos, told in ((["v"], "mode L; servers want palette PNG"), (["w"], "no masks of this")):
        with pytest.raises(DataError, match=told):
            pack(tmp_path / "masks", videos, tmp_path / "c.zip", "mose")
    assert not (tmp_path / "c.zip").exists()


def test_ranks_share_the_items():
    class Other(World):
        """The second of three ranks; what the others found comes in."""

        def gather(self, value):
            own, *others = value
            return [({0: 0, 3: 9}, *others), (own, *others), ({2: 4}, *others)]

    asked = []

    def score(index: int) -> int:
        asked.append(index)
        return index * index

    assert share_out(5, score, Other(rank=1, size=3)) == [0, 1, 4, 9, 16]
    assert asked == [1, 4]
    assert share_out(3, score) == [0, 1, 4]


@pytest.mark.slow
def test_predict_in_jobs_scores_packs_and_repeats_nothing(tmp_path, weights, capsys):
    root = data_set(tmp_path / "d")
    words = ["predict", str(root), "--checkpoint", weights, "--out", str(tmp_path / "out")]
    words += ["--device", "cpu", "--jobs", "2", "--score", "--zip", "mose"]
    assert main(words) == 0
    said = capsys.readouterr().out
    scores = score_folders(root / "Annotations", tmp_path / "out" / "masks")
    assert "2 predicted, 10 frames" in said and f"J&F {scores.jf:.1f}" in said
    assert (tmp_path / "out" / "mose.zip").is_file()
    assert main(words) == 0
    assert "2 there already" in capsys.readouterr().out


def test_a_broken_video_means_neither_score_nor_zip(tmp_path, weights, capsys):
    root = data_set(tmp_path / "d")
    (root / "JPEGImages" / "two" / "00003.jpg").write_bytes(b"broken")
    words = ["predict", str(root), "--checkpoint", weights, "--out", str(tmp_path / "out")]
    assert main([*words, "--score", "--zip", "mose"]) == 2
    output = capsys.readouterr()
    assert "two/00003.jpg" in output.err and "neither scored nor packed" in output.err
    assert "J&F" not in output.out
    assert not (tmp_path / "out" / "scores").exists() and not list(tmp_path.glob("out/*.zip"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--shard 1/2 --zip mose", "--shard is one part of many"),
        ("--format objects --zip mose", "add --format palette"),
        ("--format rle --score", "write palette or objects"),
    ],
)
def test_wishes_that_cannot_be_are_refused_first(words, told, tmp_path, weights, capsys):
    root = data_set(tmp_path / "d")
    out = str(tmp_path / "out")
    line = ["predict", str(root), "--checkpoint", weights, "--out", out, *words.split()]
    assert main(line) == 2
    assert told in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_truth_that_is_not_there_cannot_be_scored(tmp_path, weights, capsys):
    root = data_set(tmp_path / "d", hidden=True)
    words = ["predict", str(root), "--checkpoint", weights, "--out", str(tmp_path / "out")]
    assert main([*words, "--score"]) == 2
    assert "no more than the first mask of each object" in capsys.readouterr().err

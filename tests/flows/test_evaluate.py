"""`sam2-pipeline evaluate` as typed: masks against masks, weights whose size is found out, errors of
one line."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.labels import label_png
from flows.cli import _parser, main
from flows.measure import measure, protocols_of
from model.config import preset
from model.sam2 import build_sam2
from model.weights import save_checkpoint
from pipeline.settings import LaunchConfig

H, W, FRAMES = 40, 60, 5


@pytest.fixture
def masks(tmp_path) -> tuple[Path, Path]:
    """Two videos of truth, and predictions that are a little off."""
    for side, off in (("gt", 0), ("pred", 2)):
        for video in ("a", "b"):
            folder = tmp_path / side / video
            folder.mkdir(parents=True)
            for t in range(FRAMES):
                labels = np.zeros((H, W), np.uint8)
                labels[5 + off : 25 + off, 5 + t : 25 + t] = 1
                (folder / f"{t:05d}.png").write_bytes(label_png(labels))
    return tmp_path / "gt", tmp_path / "pred"


@pytest.fixture
def weights(tmp_path) -> str:
    torch.manual_seed(0)
    save_checkpoint(build_sam2(preset("micro")), tmp_path / "sam2.pt")
    return str(tmp_path / "sam2.pt")


def evaluate(folder: Path, *words: str) -> int:
    processes = () if "--workers" in words or "--checkpoint" in words else ("--workers", "1")
    return main(["evaluate", *words, *processes, "--out", str(folder / "out")])


def test_masks_against_masks(masks, tmp_path, capsys):
    truth, prediction = (str(path) for path in masks)
    assert evaluate(tmp_path, "--gt", truth, "--pred", prediction) == 0
    said = capsys.readouterr().out
    j = 100 * 18 * 20 / (2 * 20 * 20 - 18 * 20)
    assert f"J {j:.1f}" in said and "recall" in said and "2 objects in 2 videos at 60x40" in said
    found = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert found["j"] == pytest.approx(j) and found["frames"] == 2 * (FRAMES - 2)
    assert evaluate(tmp_path, "--truth", truth, "--predictions", prediction, "--all-frames") == 0
    found = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert found["frames"] == 2 * FRAMES and not found["protocol"]["skip_first_and_last"]


@pytest.mark.slow
def test_jobs_find_the_same_and_score_changed_files_anew(masks, tmp_path, capsys):
    truth, prediction = masks
    words = ("--gt", str(truth), "--pred", str(prediction))
    assert evaluate(tmp_path, *words, "--workers", "1") == 0
    alone = (tmp_path / "out" / "details.json").read_bytes()
    assert evaluate(tmp_path, *words, "--jobs", "2", "--workers", "1") == 0
    assert (tmp_path / "out" / "details.json").read_bytes() == alone
    for path in (prediction / "a").glob("*.png"):
        path.write_bytes((truth / "a" / path.name).read_bytes())
    assert evaluate(tmp_path, *words, "--jobs", "2", "--workers", "1") == 0
    found = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert found["by_video"]["a"]["jf"] == 100.0 > found["by_video"]["b"]["jf"]


def test_nothing_of_an_earlier_score_is_left_where_one_fails(masks, tmp_path, capsys):
    words = ("--gt", str(masks[0]), "--pred", str(masks[1]))
    assert evaluate(tmp_path, *words) == 0
    (masks[1] / "b" / "00003.png").unlink()
    capsys.readouterr()
    assert evaluate(tmp_path, *words) == 2
    output = capsys.readouterr()
    assert "b/00003.png: no such mask" in output.err and output.err.count("\n") == 1
    assert "J&F" not in output.out and not list((tmp_path / "out").glob("*.*"))


def test_what_a_reader_should_know(masks, tmp_path, capsys):
    truth, prediction = masks
    for path in prediction.rglob("*.png"):
        path.write_bytes((truth / path.relative_to(prediction)).read_bytes())
    words = ("--gt", str(truth), "--pred", str(prediction))
    assert evaluate(tmp_path, *words) == 0
    assert "are the predictions a copy of the truth?" in capsys.readouterr().out
    extra = np.asarray(Image.open(prediction / "a" / "00002.png")).copy()
    extra[30:, 40:] = 4
    (prediction / "a" / "00002.png").write_bytes(label_png(extra))
    assert evaluate(tmp_path, *words) == 0
    assert "no score, as the truth shows them on no scored frame: a/4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--pred pred", "--gt is missing"),
        ("--gt gt --pred nowhere", "--pred nowhere: there is no such folder"),
        ("--gt gt --pred gt", "the true masks themselves"),
        ("--gt gt --pred pred --split none.txt", "--split none.txt: there is no such file"),
        ("--gt gt --pred pred --workers 0", "--workers: found 0, expected 1 or more"),
        ("--gt gt --pred pred --jobs 2 --launcher inline", "add --launcher local or slurm"),
        ("--gt gt --pred pred --late-objects never", "late-objects"),
        ("--checkpoint x.pt", "--videos or --images"),
        ("--checkpoint x.pt --videos gt --late-objects sav", "--late-objects does not go with"),
        ("--gt gt --pred pred --videos gt", "--videos does not go with masks against masks"),
        ("--checkpoint x.pt --videos gt --images gt --split s", "measure one at a time"),
        ("--checkpoint x.pt --videos gt --protocol interactiv", "did you mean 'interactive'"),
        ("--checkpoint x.pt --videos gt --protocol vos frames=2", "more.vos.frames"),
        ("--checkpoint x.pt --videos gt --protocol vos zip", "expected a setting as key=value"),
        ("--checkpoint x.pt --videos gt --protocol coco", "--images is missing"),
    ],
)
def test_misuse_is_one_line(words, told, masks, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert evaluate(tmp_path, *words.split()) == 2
    line = capsys.readouterr().err
    assert told in line and line.startswith("error: ") and line.count("\n") == 1, line


def test_a_split_and_what_both_have(masks, tmp_path, capsys):
    truth, prediction = masks
    for path in [*(prediction / "b").iterdir(), prediction / "b"]:
        path.rmdir() if path.is_dir() else path.unlink()
    words = ("--gt", str(truth), "--pred", str(prediction))
    assert evaluate(tmp_path, *words) == 2
    assert "no prediction for b" in capsys.readouterr().err
    (tmp_path / "val.txt").write_text("# the half\na\n")
    for more in (("--partial",), ("--split", str(tmp_path / "val.txt"))):
        assert evaluate(tmp_path, *words, *more) == 0
        assert "1 objects in 1 videos" in capsys.readouterr().out


def videos(root: Path, annotations: Path) -> Path:
    """A data set in DAVIS layout around the masks of `annotations`."""
    for video in ("a", "b"):
        (root / "JPEGImages" / video).mkdir(parents=True)
        for t in range(FRAMES):
            Image.new("RGB", (W, H), (90, 60 * t, 9)).save(
                root / "JPEGImages" / video / f"{t:05d}.jpg"
            )
    annotations.rename(root / "Annotations")
    return root


@pytest.mark.slow
def test_protocols_in_place_of_the_usual_on_a_list_of_videos(masks, weights, tmp_path):
    root = videos(tmp_path / "davis", masks[0])
    (tmp_path / "val.txt").write_text("b\n")
    words = (
        "evaluate --videos davis --protocol interactive frames=2 start=mask --protocol occlusion"
    )
    words += " --protocol interactive mode=online frames=1"
    more = protocols_of(_parser().parse_args(words.split()))
    assert list(more) == ["interactive", "occlusion", "interactive2"]
    result = measure(
        weights,
        tmp_path / "out",
        images=None,
        videos=root,
        split=tmp_path / "val.txt",
        device="cpu",
        more=more,
        config=LaunchConfig(launcher="inline"),
    )
    assert {"interactive/jf@2", "interactive2/jf@1"} < set(result.metrics)
    assert not {"video/jf", "interactive2/jf@2"} & set(result.metrics)
    rows = Path(result.files["interactive/curve"]).read_text().splitlines()
    assert {row.split(",")[0] for row in rows[1:]} == {"b"}
    said = json.loads(Path(result.files["more"]).read_text())
    assert "online: each object shown by 3 clicks" in said["interactive2"]["protocol"]


@pytest.mark.slow
def test_weights_are_measured_whatever_their_size(masks, weights, tmp_path, capsys):
    """No --preset: the size is found out; a wrong one, and a wrong device, are named."""
    root = videos(tmp_path / "davis", masks[0])
    words = ("--checkpoint", weights, "--videos", str(root), "--device", "cpu")
    assert evaluate(tmp_path, *words, "--preset", "large") == 2
    assert "you asked for large" in capsys.readouterr().err
    assert evaluate(tmp_path, *words[:-1], "abacus") == 2
    assert "device abacus" in capsys.readouterr().err
    assert evaluate(tmp_path, *words) == 0
    assert "video/baseline_jf" in capsys.readouterr().out
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())["video"]
    assert summary["resolution"] == f"{W}x{H}" and "first sight" in summary["protocol"]

"""`sam2-pipeline predict` as typed: words, files of prompts, the summary, errors of one line."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.labels import label_png
from flows.cli import main
from flows.predict_words import EXAMPLES, spec_of
from model.config import preset
from model.sam2 import build_sam2
from model.weights import save_checkpoint

H, W = 40, 60


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "micro.pt"
    save_checkpoint(build_sam2(preset("micro")), path)
    return str(path)


@pytest.fixture
def picture(tmp_path, monkeypatch) -> str:
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 255, (H, W, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "cat.png")
    return "cat.png"


@pytest.fixture
def davis(tmp_path) -> Path:
    root = tmp_path / "davis"
    for part in ("JPEGImages", "Annotations"):
        (root / part / "480p" / "dog").mkdir(parents=True)
    for t in range(4):
        pixels = np.random.default_rng(t).integers(0, 255, (H, W, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(root / f"JPEGImages/480p/dog/{t:05d}.jpg")
        labels = np.zeros((H, W), np.uint8)
        labels[5:25, 5 + t : 20 + t] = 1
        (root / f"Annotations/480p/dog/{t:05d}.png").write_bytes(label_png(labels))
    return root


def parsed(*words: str):
    """The spec that the words ask for."""
    from flows.cli import _parser

    return spec_of(_parser().parse_args(["predict", "in", "--checkpoint=w", "--out=o", *words]))


def test_object_and_frame_hold_for_the_prompts_that_follow():
    words = "--point 1,2 --point 3.5,4,0 --object 2 --frame 7 --box 0,0,5,5 --object 3 --point 9,9"
    first, second, third, fourth = parsed(*words.split()).prompts
    assert (first.object, first.frame, first.points, first.labels) == (None, 0, ((1, 2),), (1,))
    assert (second.points, second.labels) == (((3.5, 4),), (0,))
    assert (third.object, third.frame, third.box) == (2, 7, (0, 0, 5, 5))
    assert (fourth.object, fourth.frame) == (3, 7)


def test_prompts_from_a_file_and_masks_beside_it(tmp_path):
    file = tmp_path / "prompts.json"
    entries = [
        {"object": 2, "frame": 3, "points": [[1, 2], [3, 4]], "labels": [1, 0]},
        {"mask": "dog.png"},
        {"object": 5, "mask": {"size": [2, 2], "counts": "04"}, "picture": "a.jpg"},
    ]
    file.write_text(json.dumps(entries))
    points, mask, packed = parsed("--prompts", str(file)).prompts
    assert points.labels == (1, 0) and points.frame == 3
    assert mask.mask == str(tmp_path / "dog.png") and mask.object is None
    assert packed.mask == {"size": [2, 2], "counts": "04"} and packed.picture == "a.jpg"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[", "is not json"),
        ("{}", "expected a list"),
        ('[{"point": [1, 2]}]', "[0]: point: there is no such key; did you mean 'points'"),
        ('[{"points": [[1]]}]', "[0]: points[0]"),
        ('[{"points": [[1, 2]], "labels": [2]}]', "1 on the object or 0 beside it"),
        ('[{"object": 0, "points": [[1, 2]]}]', "expected 1 or more"),
        ('[{"points": [[1, 2]]}, {"object": 3}]', "[1]: points: none"),
        ('[{"box": [5, 5, 2, 9]}]', "x0 < x1"),
        ('[{"mask": "a.png", "box": [0, 0, 2, 9]}]', "give the mask alone"),
    ],
)
def test_a_file_of_prompts_that_is_wrong(content, told, tmp_path, capsys):
    (tmp_path / "p.json").write_text(content)
    words = ["predict", "x", "--checkpoint", "w", "--out", str(tmp_path / "o")]
    assert main([*words, "--prompts", str(tmp_path / "p.json")]) == 2
    line = capsys.readouterr().err
    assert told in line and line.count("\n") == 1 and "p.json" in line


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("cat.png --point 1", "--point 1: expected x,y or x,y,0"),
        ("cat.png --point 1,2,7", "1 on the object or 0 beside it"),
        ("cat.png --points 1,2", "unrecognized arguments: --points"),
        ("cat.png --box -5,0,9,9", "--option=-5,0"),
        ("cat.png --point 1,2 --device abacus", "device abacus: found no such kind"),
        ("cat.png --box 1,2,3", "expected x0,y0,x1,y1"),
        ("cat.png --object 1.5 --point 1,2", "expected a whole number"),
        ("cat.png --object 0 --point 1,2", "0 is background"),
        ("cat.png --point 1,2 --object 2", "--object 2 stands after the last prompt"),
        ("cat.png --mask none.png", "none.png: there is no such file"),
        ("cat.png", "nothing says what to look for"),
        ("cat.png --point 99,2", "60 wide and 40 high"),
        ("cat.png --object 300 --point 1,2", "object 300 has no place"),
        ("cat.png --point 1,2 --everything", "leave the prompts out"),
        ("cat.png --point 1,2 --stability 0.5", "--stability belongs to --everything"),
        ("cat.png --point 1,2 --no-masks --no-overlay", "nothing to write"),
        ("cat.png --point 1,2 --shard 3", "I/N"),
        ("cat.png --point 1,2 --shard 3/2", "3/2"),
        ("cat.png --point 1,2 --workers 0", "--workers: found 0, expected 1 or more"),
        ("cat.png --point 1,2 --preset large", "large"),
        ("cat.png --point 1,2 --image-size 100", "100"),
        ("cat.png --point 1,2 --format video", "--format"),
        ("dog.png --point 1,2", "dog.png does not exist"),
        ("cat.png --point 1,2 --split val.txt", "is no data set"),
    ],
)
def test_misuse_is_one_line(words, told, picture, weights, capsys, tmp_path):
    assert main(["predict", *words.split(), "--checkpoint", weights, "--out", "out"]) == 2
    line = capsys.readouterr().err
    assert told in line and line.startswith("error: ") and line.count("\n") == 1, line
    assert not (tmp_path / "out" / "masks").exists()


def test_missing_weights(picture, capsys):
    assert main(["predict", picture, "--point", "1,2", "--checkpoint", "no.pt", "--out", "o"]) == 2
    assert "there is no file no.pt" in capsys.readouterr().err


def test_a_picture_and_where_things_are(picture, weights, capsys):
    words = ["predict", picture, "--checkpoint", weights, "--out", "out", "--point", "30,20"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "1 predicted, 1 frame (" in said and "out/masks" in said and "out/overlays" in said
    assert Path("out/masks/cat.png").is_file() and Path("out/overlays/cat.jpg").is_file()
    assert main(words) == 0
    assert "1 there already" in capsys.readouterr().out
    assert main([*words, "--again"]) == 0
    assert "1 predicted" in capsys.readouterr().out


def test_what_finds_nothing_says_how_to_find_more(picture, weights, capsys):
    words = ["predict", picture, "--checkpoint", weights, "--out", "out"]
    assert main([*words, "--everything", "--points-per-side", "2", "--predicted-iou", "1"]) == 0
    said = capsys.readouterr().out
    assert "no object was found in cat (--predicted-iou and --stability say what is kept)" in said
    assert main([*words, "--point", "9,9", "--score-threshold", "1000"]) == 0
    assert capsys.readouterr().out.endswith("no object was found in cat\n")


def test_predictions_of_a_data_set_are_what_evaluate_reads(davis, weights, capsys, tmp_path):
    out, truth = tmp_path / "out", davis / "Annotations" / "480p"
    words = ["predict", str(davis), "--checkpoint", weights, "--out", str(out)]
    assert main([*words, "--score-threshold", "-2000"]) == 0, "every pixel is the object"
    words = ["--predictions", str(out / "masks"), "--truth", str(truth)]
    assert main(["evaluate", *words, "--out", str(tmp_path / "scores")]) == 0
    said = capsys.readouterr().out
    covered = 100 * 20 * 15 / (H * W)
    assert f"J {covered:.1f}" in said


def test_a_shard_without_videos_says_so(davis, weights, capsys, tmp_path):
    words = ["predict", str(davis), "--checkpoint", weights, "--out", str(tmp_path / "out")]
    assert main([*words, "--shard", "2/2"]) == 0
    assert "this shard is empty" in capsys.readouterr().out


def test_broken_pictures_are_all_named(picture, weights, capsys, tmp_path):
    for name in ("x.png", "y.png"):
        (tmp_path / name).write_bytes(b"broken")
    words = ["predict", ".", "--images", "--point", "9,9", "--checkpoint", weights, "--out", "out"]
    assert main(words) == 2
    output = capsys.readouterr()
    assert "1 predicted" in output.out
    assert [line.split()[1] for line in output.err.splitlines()] == ["x.png", "y.png"]


def test_the_examples_are_understood():
    from flows.cli import _parser

    joined = EXAMPLES.replace("\\\n", " ").splitlines()
    commands = [line.split()[1:] for line in joined if line.strip().startswith("sam2-pipeline")]
    assert len(commands) == 7
    for words in commands:
        arguments = _parser().parse_args(words)
        if words[0] == "predict":
            spec_of(arguments)

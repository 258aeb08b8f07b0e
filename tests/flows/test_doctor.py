"""`doctor` as a person types it: what it says, what it leaves, its exit codes."""

import json
import re
import shlex
from pathlib import Path

import pytest

from flows import cli
from flows.cli import main
from tests.data import lookalikes as like


def test_a_healthy_set_and_a_sick_one(tmp_path, capsys):
    root = like.davis(tmp_path / "set")
    words = ["doctor", "data=davis", f"root={root}", "--workers", "1", "--out", str(tmp_path / "o")]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "1 video, 1 looked at: 6 frames, 10 masks; 30x20 (6)" in said
    assert "objects on a frame" in said and "healthy: 0 errors, 1 note\n" in said
    assert main([*words, "--strict"]) == 1, "six frames are fewer than a clip of eight"
    (root / "JPEGImages/480p/bear/00001.jpg").write_bytes(b"")
    assert main([*words, "--html"]) == 1
    said = capsys.readouterr().out
    assert "00001.jpg" in said and "needs mending: 1 error," in said
    made = sorted(path.name for path in (tmp_path / "o").iterdir())
    assert made == ["doctor.html", "doctor.json", "findings.jsonl", "sheet.jpg"]


def test_a_folder_that_is_not_there_is_said_in_a_sentence(tmp_path, capsys):
    root = tmp_path / "nowhere"
    assert main(["doctor", "data=davis", f"root={root}", "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().out
    assert f"{root} does not exist, expected JPEGImages" in said
    assert "0 masks\n" in said


def test_the_data_sets_of_a_recipe(tmp_path, capsys):
    words = [
        "recipe=finetune",
        f"datasets.train.root={like.davis(tmp_path / 'train')}",
        f"datasets.val.root={like.davis(tmp_path / 'val')}",
    ]
    out = tmp_path / "out"
    assert main(["doctor", *words, "--workers", "1", "--quick", "3", "--out", str(out)]) == 0
    numbers = json.loads((out / "doctor.json").read_text())
    assert {item["name"] for item in numbers["datasets"]} >= {"train"}
    assert numbers["worst_batches"][0]["dataset"] == "train"
    assert "heaviest batch of finetune" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["recipe=smok"], "did you mean 'smoke'"),
        (["recipe=smoke", "runs=nowhere"], "sam2-pipeline stage world recipe=smoke"),
        (["davis"], "data=FORMAT root=FOLDER"),
        (["data=davs", "root=x"], "did you mean 'davis'"),
        (["data=davis"], "root"),
        (["data=davis", "root=x", "splt=y"], "did you mean 'split'"),
        (["data=davis", "root=x", "--quick", "0"], "--quick 0"),
        (["data=davis", "root=x", "--workers", "0"], "--workers: found 0, expected 1 or more"),
    ],
)
def test_misuse_is_one_line(tmp_path, words, told, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", *words, "--out", "out"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and told in lines[0]


DOCS = Path(__file__).resolve().parents[2] / "docs" / "doctor.md"


def test_the_commands_of_the_docs_are_understood():
    lines = re.findall(r"^sam2-pipeline [^#\n]+", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    asked = [cli._parser().parse_args(shlex.split(line)[1:]).function for line in lines]
    assert {"doctor", "convert", "extract_frames", "stage"} == set(asked) and len(asked) >= 10

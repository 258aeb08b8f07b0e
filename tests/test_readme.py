"""What the README tells people to type: every command is known, every recipe and key in it exists, the parts run."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from flows import cli
from model import build_sam2, save_checkpoint
from stages.recipe import load_recipe, recipe_names
from tests.data.films import uneven

HOUSE = Path(__file__).resolve().parents[1]
README = (HOUSE / "README.md").read_text(encoding="utf-8")


def commands() -> list[list[str]]:
    """The words of every `sam2-pipeline …` in the README, in blocks and in tables."""
    blocks = "\n".join(re.findall(r"```\n(.*?)```", README, re.DOTALL)).replace("\\\n", " ")
    lines = [line for line in blocks.splitlines() if line.startswith("sam2-pipeline ")]
    lines += re.findall(r"`(sam2-pipeline [^`\n]+)`", README)
    return [shlex.split(line.split("  #")[0])[1:] for line in lines]


def settings_of(words: list[str]) -> list[str]:
    """The settings of a `run` or `stage`, without placeholders such as `…` and `[key=value …]`."""
    start = 2 if words[0] == "stage" else 1
    return [
        word for word in words[start:] if "=" in word and "NAME" not in word and "[key" not in word
    ]


def test_the_readme_has_commands():
    assert {words[0] for words in commands()} >= {
        "run",
        "stage",
        "plan",
        "synth",
        "extract-frames",
        "evaluate",
        "export",
    }


@pytest.mark.parametrize(
    "words", [c for c in commands() if c[0] in ("run", "stage", "plan")], ids=" ".join
)
def test_runs_and_stages_can_be_planned(words: list[str], tmp_path: Path):
    assert cli.main(["plan", *settings_of(words), f"runs={tmp_path}"]) == 0


@pytest.mark.parametrize(
    "words", [c for c in commands() if c[0] not in ("run", "stage", "plan")], ids=" ".join
)
def test_other_commands_are_understood(words: list[str]):
    assert cli._parser().parse_args(words).function == words[0].replace("-", "_")


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    save_checkpoint(build_sam2("micro"), tmp_path / "sam2.1_hiera_tiny.pt")
    Image.new("RGB", (120, 60), "grey").save(tmp_path / "photo.jpg")
    uneven(tmp_path / "clip.mp4", [0.0, 0.04, 0.08])
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(block, "README.md", "exec"), names)
    assert names["mask"].shape == (60, 120) and names["mask"].dtype == torch.bool
    assert names["frame"] == 2 and names["masks"].shape == (1, 48, 64)


def test_the_table_of_recipes_is_complete():
    named = re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE)
    assert sorted(named) == recipe_names()


def test_make_targets_and_files_exist():
    targets = set(re.findall(r"^([a-z-]+):", (HOUSE / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)", README)) <= targets
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (HOUSE / picture).is_file(), picture


def test_deployments_are_those_of_the_readme():
    deployed = (HOUSE / "prefect.yaml").read_text()
    named = re.findall(r"deployment run (sam2[\w-]*)/([\w-]+)", README)
    assert named
    for flow, name in named:
        assert f"name: {name}" in deployed, f"{flow}/{name}"


@pytest.mark.slow
def test_the_parts_run(tmp_path: Path):
    """synth, extract-frames, export and evaluate, one after the other, as a newcomer would."""

    def run(*words: object) -> str:
        command = [str(Path(sys.executable).with_name("sam2-pipeline")), *map(str, words)]
        answer = subprocess.run(command, cwd=HOUSE, capture_output=True, text=True, check=False)
        assert answer.returncode == 0, answer.stderr
        return answer.stdout

    world, frames = tmp_path / "world", tmp_path / "frames"
    run(
        "synth",
        "--out",
        world,
        "--seed",
        7,
        "--images",
        4,
        "--videos",
        2,
        "--val-images",
        2,
        "--val-videos",
        1,
    )
    run("extract-frames", "--videos", world / "sav", "--out", frames, "--every", 4)
    assert len(list(frames.rglob("*.jpg"))) == 20
    weights = tmp_path / "weights.pt"
    save_checkpoint(build_sam2(load_recipe(["recipe=smoke"]).model.preset), weights)
    run("export", weights, "--out", tmp_path / "sam2.pt")
    run(
        *("evaluate", "--checkpoint", tmp_path / "sam2.pt", "--preset", "micro"),
        *("--videos", world / "davis", "--out", tmp_path / "scores"),
    )
    assert list((tmp_path / "scores").rglob("*.json"))

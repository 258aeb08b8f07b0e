"""The examples of docs/weights.md run as they stand."""

import re
import shlex
from pathlib import Path

import pytest

from flows.cli import main
from model import build_sam2, load_checkpoint, preset
from pipeline.errors import CheckpointError
from tests.model.test_weights import hollow

TEXT = (Path(__file__).parents[2] / "docs" / "weights.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with the names and shapes of Meta's, in the working folder."""
    monkeypatch.chdir(tmp_path)
    Path("sam2.1_hiera_tiny.pt").write_bytes(hollow("tiny"))


def test_the_python_examples():
    code = "\n".join(re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL))
    names: dict[str, object] = {}
    exec(code, names)
    assert len(names["names"]) > 100  # type: ignore[arg-type]


def test_the_commands():
    commands = re.findall(r"^sam2-pipeline (.*)$", TEXT, re.MULTILINE)
    assert len(commands) == 3
    for words in commands:
        assert main(shlex.split(words)) == 0
    assert load_checkpoint("again.pt").config == preset("tiny")


def test_the_error():
    shown = re.search(r"```\n(sam2.1_hiera_tiny.pt is .*?)\n```", TEXT, re.DOTALL)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint("sam2.1_hiera_tiny.pt", build_sam2(preset("tiny", version="2.0")))
    assert shown and " ".join(shown[1].split()) == str(caught.value)

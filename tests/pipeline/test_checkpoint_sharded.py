"""What several ranks hold in parts is written in parts, and any number of ranks continues it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import checkpoint
from pipeline.checkpoint_list import listed
from pipeline.distributed import World
from tests.pipeline import ranks, sharded_jobs

HALF, END = 4, 8


def flat(values: dict[Any, Any], path: tuple[Any, ...] = ()) -> dict[tuple[Any, ...], Any]:
    found: dict[tuple[Any, ...], Any] = {}
    for key, item in values.items():
        found |= flat(item, (*path, key)) if isinstance(item, dict) else {(*path, key): item}
    return found


def assert_close(left: Path, right: Path, **tolerance: float) -> None:
    """Two checkpoints hold the same, the tensors as close as that."""
    ours, theirs = (flat(checkpoint.read(path)) for path in (left, right))
    assert list(ours) == list(theirs), "names and their order"
    for path, value in theirs.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(ours[path], value, **tolerance, msg=str(path))
        elif path[-1] != "notes":
            assert ours[path] == value, path


def newest(folder: Path) -> Path:
    found = checkpoint.latest_valid(folder)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained by three ranks in parts, by one, and by two; continued by others than began."""
    folder = tmp_path_factory.mktemp("sharded")

    def run(count: int, *rows: tuple[str, str, int]) -> None:
        plan = [[kind, str(folder / place), steps, {}] for kind, place, steps in rows]
        ranks.run(count, "tests.pipeline.sharded_jobs:ranks_train", json.dumps(plan))

    sharded_jobs.train(World(), "replicated", folder / "one", HALF)
    run(3, ("sharded", "three", HALF))
    for place in ("three to two", "three to one", "three to whole"):
        shutil.copytree(folder / "three", folder / place)
    shutil.copytree(folder / "one", folder / "one to two")
    run(
        2,
        ("sharded", "three to two", END),
        ("replicated", "three to whole", END),
        ("sharded", "one to two", END),
        ("sharded", "two", HALF),
        ("sharded", "two", END),
        ("sharded", "straight", END),
    )
    for place in ("one", "three to one"):
        sharded_jobs.train(World(), "replicated", folder / place, END)
    return folder


def test_a_folder_of_parts_holds_what_one_file_holds(folder: Path) -> None:
    parts = newest(folder / "three").parent / f"step-{HALF:08d}"
    assert sorted(path.name for path in parts.iterdir()) == [
        "index.json", "part-00000.pt", "part-00001.pt", "part-00002.pt", "plain.pt"
    ]  # fmt: skip
    whole = folder / "one" / checkpoint.file_name(HALF)
    assert_close(parts, whole, rtol=1e-5, atol=1e-6)
    entry = listed(folder / "three")[-1]
    assert entry.world == 3 and entry.finite and len(entry.files) == 5


@pytest.mark.parametrize("place", ["three to two", "three to one", "three to whole", "one to two"])
def test_other_ranks_continue(folder: Path, place: str) -> None:
    """Of three in parts: two in parts, one, two with a copy each; of one: two in parts."""
    assert_close(newest(folder / place), newest(folder / "one"), rtol=1e-5, atol=1e-6)


def test_the_same_ranks_continue_to_the_bit(folder: Path) -> None:
    assert_close(newest(folder / "two"), newest(folder / "straight"), rtol=0, atol=0)

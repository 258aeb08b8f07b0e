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
from pipeline.errors import CheckpointError
from tests.pipeline import ranks, sharded_jobs, toy
from tests.pipeline.test_checkpoint import DAMAGE, spoil
from tests.zygote import Zygote

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
def written(tmp_path_factory: pytest.TempPathFactory, zygote: Zygote) -> Path:
    """By two ranks in parts; one of them had no room for its part of step 4.

    On both ranks the outcome was known, training went on, and the next one was written."""
    folder = tmp_path_factory.mktemp("written")
    logs = tmp_path_factory.mktemp("logs")
    said = ranks.run(zygote, logs, 2, "tests.pipeline.sharded_jobs:one_rank_cannot_write", folder)
    assert [entry.step for entry in listed(folder)] == [2, 6, END]
    assert "step 4 was not saved" in said[0] and "rank 1: " in said[0] and "no room" in said[0]
    assert "was not saved" not in said[1], "one voice is enough"
    assert not list(folder.glob(".*"))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, zygote: Zygote) -> Path:
    """Trained by three ranks in parts, by one, and by two; continued by others than began."""
    folder = tmp_path_factory.mktemp("sharded")

    def run(count: int, *rows: tuple[str, str, int]) -> None:
        plan = [[kind, str(folder / place), steps, {}] for kind, place, steps in rows]
        call = "tests.pipeline.sharded_jobs:ranks_train"
        ranks.run(zygote, folder, count, call, json.dumps(plan))

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


@pytest.mark.slow
def test_a_folder_of_parts_holds_what_one_file_holds(folder: Path) -> None:
    parts = newest(folder / "three").parent / f"step-{HALF:08d}"
    assert sorted(path.name for path in parts.iterdir()) == [
        "index.json", "part-00000.pt", "part-00001.pt", "part-00002.pt", "plain.pt"
    ]  # fmt: skip
    whole = folder / "one" / checkpoint.file_name(HALF)
    assert_close(parts, whole, rtol=1e-5, atol=1e-6)
    entry = listed(folder / "three")[-1]
    assert entry.world == 3 and entry.finite and len(entry.files) == 5


@pytest.mark.slow
@pytest.mark.parametrize("place", ["three to two", "three to one", "three to whole", "one to two"])
def test_other_ranks_continue(folder: Path, place: str) -> None:
    """Of three in parts: two in parts, one, two with a copy each; of one: two in parts."""
    assert_close(newest(folder / place), newest(folder / "one"), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_the_same_ranks_continue_to_the_bit(folder: Path) -> None:
    assert_close(newest(folder / "two"), newest(folder / "straight"), rtol=0, atol=0)


FILES = ["index.json", "part-00000.pt", "part-00001.pt", "plain.pt"]


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_every_file_of_a_folder_counts(
    written: Path, tmp_path: Path, name: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    copy = shutil.copytree(written, tmp_path / "copy")
    spoil(copy / f"step-{END:08d}" / name, how)
    assert newest(copy) == copy / "step-00000006"
    assert f"step-{END:08d}/{name}: found" in caplog.text and "expected sha256" in caplog.text


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_nor_is_a_damaged_folder_loaded_by_its_path(
    written: Path, tmp_path: Path, name: str, how: str
) -> None:
    """Without the digests of the list only what is no longer readable is noticed."""
    copy = shutil.copytree(written / f"step-{END:08d}", tmp_path / "copy")
    if how == "flipped":
        (copy / name).write_bytes(b"x" + (copy / name).read_bytes()[1:])
    else:
        spoil(copy / name, how)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        checkpoint.read(copy)


def test_another_network_is_refused(written: Path) -> None:
    model, state = toy.fresh()
    model.head = torch.nn.Linear(9, 1)
    with pytest.raises(CheckpointError, match=r"does not fit.*head\.weight"):
        checkpoint.load(state, written / f"step-{END:08d}")


def test_one_rank_continues_what_two_wrote(written: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(written, tmp_path / "copy")
    for place, begun in (("copy", END), ("straight", 0)):
        state = sharded_jobs.state_of(World(), "replicated")
        assert checkpoint.resume(state, tmp_path / place) == (begun > 0) and state.step == begun
        sharded_jobs.train(World(), "replicated", tmp_path / place, END + 2)
    assert_close(newest(copy), newest(tmp_path / "straight"), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_what_is_not_finite_on_one_rank_is_not_written(tmp_path: Path, zygote: Zygote) -> None:
    call, folder = "tests.pipeline.sharded_jobs:one_rank_is_not_finite", tmp_path / "checkpoints"
    said = ranks.run(zygote, tmp_path, 2, call, folder)
    assert [entry.step for entry in listed(folder)] == [2]
    assert "step 4 was not saved: its weights or moments are not finite" in said[0]

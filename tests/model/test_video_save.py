"""Sessions on disk and answers in files: to the bit, small in memory, and refused where foreign."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from model.sam2 import SAM2, build_sam2
from model.video_predictor import VideoPredictor
from model.video_session import VideoSession
from model.video_store import Answer, AnswerStore
from pipeline.errors import CheckpointError, DataError, StorageError
from tests.model.videos import box_shape, noise


def begin(predictor: VideoPredictor) -> VideoSession:
    """Stops in the middle of a second propagation, with a prompt of which nothing is made yet."""
    session = predictor.session(noise(12))
    session.add_mask(1, 4, box_shape(5, 5))
    session.add_box(3, 2, [20, 8, 45, 30], [[30, 20]], [1])
    list(session.propagate())
    session.add_points(5, 4, [[50, 30]], [0])
    for found in session.propagate(2):
        if found.frame == 6:
            break
    session.add_points(7, 2, [[30, 20]], [1])
    return session


def go_on(session: VideoSession) -> list[Tensor]:
    found = [session.masks(7).low]
    found += [answer.low for answer in session.propagate(7)]
    found.append(session.add_points(7, 2, [[40, 25]], [0]).low)
    found.append(session.clear_prompts(5, 4).low)
    found += [answer.low for answer in session.propagate(9, backwards=True)]
    return found


@pytest.mark.parametrize("budget", [1 << 30, 1])
def test_going_on_later_is_the_same_to_the_bit(network: SAM2, tmp_path: Path, budget: int) -> None:
    predictor = VideoPredictor(network, memory_budget=budget, exclusive=True)
    session = begin(predictor)
    session.save(tmp_path / "session.zip")
    expected = go_on(session)
    # settings that change numbers come from the file
    resumed = VideoPredictor(network).resume(tmp_path / "session.zip", np.stack(noise(12)))
    assert resumed.settings.exclusive
    assert resumed.ids == [2, 4]
    found = go_on(resumed)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    resumed.save(tmp_path / "again.zip")
    session.save(tmp_path / "session.zip")
    with (
        zipfile.ZipFile(tmp_path / "again.zip") as a,
        zipfile.ZipFile(tmp_path / "session.zip") as b,
    ):
        assert {n: a.read(n) for n in a.namelist()} == {n: b.read(n) for n in b.namelist()}


def test_how_much_memory_there_is_changes_no_bit(network: SAM2, tmp_path: Path) -> None:
    runs = []
    for budget in (1 << 30, 100_000):
        session = begin(
            VideoPredictor(network, memory_budget=budget, spill_folder=tmp_path, offload=True)
        )
        assert session.store.used <= budget
        runs.append(go_on(session))
        session.close()
        assert session.store.used == 0
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    assert list(tmp_path.iterdir()) == []  # the file has no name, and goes with the session


def test_a_session_is_refused_where_it_does_not_belong(network: SAM2, tmp_path: Path) -> None:
    path = tmp_path / "session.zip"
    predictor = VideoPredictor(network)
    begin(predictor).save(path)
    torch.manual_seed(1)
    with pytest.raises(CheckpointError, match=r"was saved with weights \w{12}, and these are"):
        VideoPredictor(build_sam2("micro")).resume(path, noise(12))
    with pytest.raises(DataError, match="found frames 11; expected frames 12"):
        predictor.resume(path, noise(11))
    with pytest.raises(DataError, match="found height 44"):
        predictor.resume(path, noise(12, 44))
    with pytest.raises(DataError, match="found first_frame"):
        predictor.resume(path, noise(12)[::-1])
    with pytest.raises(CheckpointError, match="does not exist"):
        predictor.resume(tmp_path / "other.zip", noise(12))


def test_a_damaged_session_is_named(network: SAM2, tmp_path: Path) -> None:
    path, broken = tmp_path / "session.zip", tmp_path / "broken.zip"
    predictor = VideoPredictor(network)
    begin(predictor).save(path)
    content = path.read_bytes()
    for damage in (
        content[: len(content) // 2],
        content[:60_000] + b"\xff" * 100 + content[60_100:],
        b"no archive",
        b"",
    ):
        broken.write_bytes(damage)
        with pytest.raises(CheckpointError, match=r"broken\.zip is not a whole saved session"):
            predictor.resume(broken, noise(12))
    with zipfile.ZipFile(broken, "w") as archive:
        archive.writestr("session.json", json.dumps({"format": "sam2-pipeline video session 9"}))
    with pytest.raises(CheckpointError, match="with the release that wrote it"):
        predictor.resume(broken, noise(12))


def answer(value: float) -> Answer:
    return Answer(
        torch.full((1, 1, 8, 8), value),
        torch.full((1, 16), value),
        torch.full((1, 1), value),
        torch.full((1, 4, 2, 2), value, dtype=torch.bfloat16),
    )


def test_a_store_gives_back_what_it_got(tmp_path: Path) -> None:
    size = answer(0).nbytes
    store = AnswerStore(torch.device("cpu"), limit=3 * size, folder=tmp_path)
    shelf = store.shelf()
    for t in range(20):
        shelf[t] = answer(t)
        assert store.used <= 3 * size
    for t in range(20):
        for found, given in zip(shelf[t], answer(t), strict=True):
            assert torch.equal(found, given)
    shelf[4] = answer(40)._replace(memory=None)
    assert shelf[4].memory is None
    assert shelf[4].low.max() == 40
    # the room of what was dropped is used again
    length = store._end
    for t in range(10, 20):
        del shelf[t]
    for t in range(30, 40):
        shelf[t] = answer(t)
    assert store._end <= length + 2 * size
    assert sorted(shelf) == [*range(10), *range(30, 40)]
    shelf.clear()
    assert store.used == 0


def test_no_room_on_disk(tmp_path: Path) -> None:
    store = AnswerStore(torch.device("cpu"), limit=1, folder=tmp_path / "missing")
    shelf = store.shelf()
    shelf[0] = answer(0)
    with pytest.raises(StorageError, match="give `spill_folder` another place"):
        shelf[1] = answer(1)

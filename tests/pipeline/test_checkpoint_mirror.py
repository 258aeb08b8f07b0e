"""Checkpoints in a second place, here an S3 server and a file system in memory: the newest is
fetched from there, and an upload that was cut off does not count."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest

from pipeline import checkpoint, mirror, saving
from pipeline.checkpoint import TrainState
from pipeline.checkpoint_list import Keep, listed
from pipeline.errors import CheckpointError, StorageError
from pipeline.loop import fit
from pipeline.settings import LoopConfig
from tests import s3
from tests.pipeline import toy


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3.moto_server() as address, s3.pointed_at(address):
        yield address


@pytest.fixture
def url() -> str:
    return f"memory://{uuid4().hex}/run"


def train(folder: Path, url: str, steps: int, **settings: Any) -> TrainState:
    _, state = toy.fresh(dropout=0.5)
    checkpoint.resume(state, folder, mirror=url)
    config = LoopConfig(log_every=5, mirror=url, **{"save_every": 2, **settings})
    batches = toy.batches(state.step, steps)
    task = toy.ToyTask(state.model)
    return fit(task, batches, state, config, total=steps, clip=1.0, folder=folder)


def files(url: str) -> dict[str, bytes]:
    store, inner = fsspec.core.url_to_fs(url)
    return {str(name).rsplit("/", 1)[-1]: store.cat_file(name) for name in store.find(inner)}


def damage(url: str, part: str, content: bytes | None) -> None:
    store, inner = fsspec.core.url_to_fs(url)
    for name in store.find(inner):
        if part in str(name):
            store.rm_file(name) if content is None else store.pipe_file(name, content)


def test_another_machine_continues_from_object_storage(server: str, tmp_path: Path) -> None:
    straight = train(tmp_path / "straight", "", toy.TOTAL)
    url = "s3://checkpoints/run"
    fsspec.filesystem("s3").mkdir("checkpoints")
    train(tmp_path / "here", url, 7, save_every=5, keep=1)
    assert sorted(name[:13] for name in files(url)) == [
        "manifest.copy", "manifest.json", "step-00000005", "step-00000007"
    ]  # fmt: skip
    there = train(tmp_path / "there", url, toy.TOTAL, save_every=20)
    assert toy.equal(toy.weights(there.model), toy.weights(straight.model))
    assert checkpoint.step_of(next((tmp_path / "there").glob("*12.pt"))) == toy.TOTAL


@pytest.mark.parametrize("content", [None, b"", b"half"])
def test_a_broken_newest_there_is_passed_over(
    tmp_path: Path, url: str, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    train(tmp_path / "here", url, 6)
    damage(url, "step-00000006", content)
    _, state = toy.fresh()
    assert checkpoint.resume(state, tmp_path / "there", mirror=url)
    assert state.step == 4
    assert "step-00000006" in caplog.text and "expected sha256" in caplog.text
    damage(url, "step-00000004", content)
    with pytest.raises(CheckpointError, match="no checkpoint is intact"):
        checkpoint.resume(state, tmp_path / "elsewhere", mirror=url)
    assert not list((tmp_path / "elsewhere").glob(".*"))


def test_damaged_lists_there(tmp_path: Path, url: str, caplog: pytest.LogCaptureFixture) -> None:
    train(tmp_path / "here", url, 6)
    damage(url, "manifest.json", b"{")
    assert mirror.fetch_newer(url, tmp_path / "there", -1) == 6
    assert "manifest.json is damaged" in caplog.text
    damage(url, "manifest.copy.json", b"{")
    with pytest.raises(CheckpointError, match=r"manifest\.copy\.json is damaged"):
        mirror.fetch_newer(url, tmp_path / "elsewhere", -1)
    mirror.upload(tmp_path / "here", url, Keep())
    assert mirror.fetch_newer(url, tmp_path / "elsewhere", -1) == 6


def test_a_machine_that_begins_with_the_newest_deletes_nothing_that_is_kept(
    tmp_path: Path, url: str
) -> None:
    kept = {"keep": 1, "keep_every": 4, "save_every": 2}
    train(tmp_path / "here", url, 11, **kept)
    train(tmp_path / "there", url, toy.TOTAL, **kept)
    assert [entry.step for entry in listed(tmp_path / "there")] == [12]
    names = sorted(name[:13] for name in files(url) if name.startswith("step"))
    assert names == ["step-00000004", "step-00000008", "step-00000012"]
    assert mirror.fetch_newer(url, tmp_path / "third", -1, before=12) == 8


def test_what_is_newer_counts(tmp_path: Path, url: str) -> None:
    """Here, where the store was away for a while; there, where the folder is an old copy."""
    train(tmp_path / "here", url, 4)
    train(tmp_path / "here", "", 6)
    _, state = toy.fresh()
    assert checkpoint.resume(state, tmp_path / "here", mirror=url) and state.step == 6
    assert mirror.fetch_newer(url, tmp_path / "here", 6) is None
    train(tmp_path / "here", url, 8)
    assert mirror.fetch_newer(url, tmp_path / "old", -1, before=8) == 6
    _, state = toy.fresh()
    assert checkpoint.resume(state, tmp_path / "old", mirror=url) and state.step == 8


def test_an_upload_that_was_cut_off_does_not_count(tmp_path: Path, url: str) -> None:
    train(tmp_path / "here", url, 4)
    fsspec.filesystem("memory").pipe_file(f"{url}/step-00000099-0123456789ab.pt", b"half")
    assert mirror.fetch_newer(url, tmp_path / "there", -1) == 4
    train(tmp_path / "here", url, 6)
    assert not any(name.startswith("step-00000099") for name in files(url))


def test_training_goes_on_while_the_store_is_away(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put = mirror.put

    def away(source: Path, target: str) -> None:
        if "step-00000004" in target or "step-00000006" in target:
            raise StorageError(f"{target}: 503")
        put(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(mirror, "put", away)
        train(tmp_path / "here", url, 9)
        assert "503" in caplog.text and caplog.text.count("was not saved") == 1
        assert "lacks the last step" not in caplog.text
        assert train(tmp_path / "two", f"{url}/two", 6).step == 6
    assert "the mirror lacks the last step, 6: " in caplog.text
    assert mirror.fetch_newer(url, tmp_path / "there", -1) == 9


def test_what_a_finished_run_could_not_copy_is_copied_later(
    server: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A bucket that nobody has made yet, on the S3 server."""
    url, folder = "s3://later/run", tmp_path / "here"
    assert train(folder, url, 6).step == 6
    assert caplog.text.count("the mirror lacks the last step, 6: ") == 1
    with pytest.raises(StorageError, match="s3://later/run"):
        mirror.catch_up(folder)
    fsspec.filesystem("s3").mkdir("later")
    assert mirror.catch_up(folder) and not mirror.catch_up(folder)
    assert mirror.fetch_newer(url, tmp_path / "there", -1) == 6


def test_a_run_that_was_killed_before_its_last_copy_makes_it_when_it_is_started_again(
    tmp_path: Path, url: str
) -> None:
    train(tmp_path, "", 6)
    assert not mirror.catch_up(tmp_path), "no mirror was asked for"
    train(tmp_path, url, 6)
    assert mirror.fetch_newer(url, tmp_path / "there", -1) == 6
    assert not mirror.lacks(tmp_path, url) and mirror.lacks(tmp_path, f"{url}/two")


def test_a_store_that_hangs_does_not_keep_a_run_that_is_done(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    over = threading.Event()
    monkeypatch.setattr(saving, "MIRROR_SECONDS", 0.2)
    monkeypatch.setattr(saving, "CLOSE_SECONDS", 0.2)
    monkeypatch.setattr(mirror, "put", lambda source, target: over.wait(30))
    train(tmp_path, "", 6)
    assert train(tmp_path, url, 6).step == 6
    over.set()
    assert "the mirror lacks the last step, 6: no answer in 0 s" in caplog.text


def test_a_store_that_cannot_be_read_is_no_reason_to_start_over(
    server: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = "unknownstore://bucket/run"
    _, state = toy.fresh()
    with pytest.raises(StorageError, match="no storage of this kind"):
        checkpoint.resume(state, tmp_path, mirror=url)
    state.step = 3
    checkpoint.save(state, tmp_path)
    assert checkpoint.resume(state, tmp_path, mirror=url)
    assert "training continues from" in caplog.text

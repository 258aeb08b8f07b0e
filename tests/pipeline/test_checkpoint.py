"""A checkpoint is there or it is not, and loading one executes nothing."""

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pipeline import checkpoint, plain_files
from pipeline.checkpoint_list import COPY, MANIFEST, listed
from pipeline.errors import CheckpointError, StorageError
from tests.pipeline import toy


def saved(folder: Path, steps: int = 3, keep: int = 2) -> list[Path]:
    _, state = toy.fresh()
    paths = []
    for state.step in range(1, steps + 1):
        state.model.head.bias.data.fill_(float(state.step))
        paths.append(checkpoint.save(state, folder, keep=keep))
    return paths


def test_the_newest_few_are_kept_and_found(tmp_path: Path) -> None:
    paths = saved(tmp_path)
    assert [path.exists() for path in paths] == [False, True, True]
    assert checkpoint.latest_valid(tmp_path) == paths[-1]
    model, state = toy.fresh()
    state.notes["x"] = 1.0
    assert checkpoint.resume(state, tmp_path)
    assert (state.step, state.notes, model.head.bias.item()) == (3, {}, 3.0)
    assert not checkpoint.resume(state, tmp_path / "empty")


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped", "gone"])
def test_a_broken_newest_one_is_passed_over(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    _, older, newest = saved(tmp_path)
    content = bytearray(newest.read_bytes())
    if damage == "gone":
        newest.unlink()
    else:
        content[len(content) // 2] ^= 1
        keep = {"truncated": len(content) // 2, "empty": 0, "flipped": len(content)}[damage]
        newest.write_bytes(content[:keep])
    assert checkpoint.latest_valid(tmp_path) == older
    assert newest.name in caplog.text and "broken" in caplog.text


def test_when_all_are_broken_nothing_starts_over_in_silence(tmp_path: Path) -> None:
    for path in saved(tmp_path)[1:]:
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="no checkpoint is intact"):
        checkpoint.latest_valid(tmp_path)
    for name in (MANIFEST, COPY):
        (tmp_path / name).write_text("{")
    with pytest.raises(CheckpointError, match="manifest"):
        checkpoint.latest_valid(tmp_path)


def test_a_digest_mismatch_names_both(tmp_path: Path) -> None:
    path = saved(tmp_path)[-1]
    digest = listed(tmp_path)[-1].files[path.name].sha256
    _, state = toy.fresh()
    checkpoint.load(state, path, digest)
    with pytest.raises(CheckpointError) as raised:
        checkpoint.load(state, path, "0" * 64)
    assert digest in str(raised.value) and "0" * 64 in str(raised.value)


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (os.environ["BOMB_MARK"],)


def test_pickled_code_is_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "executed"
    monkeypatch.setenv("BOMB_MARK", str(mark))
    torch.save({"format": 1, "model": Bomb()}, tmp_path / "bomb.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Bomb(), protocol=2))
    _, state = toy.fresh()
    for name in ("bomb.pt", "plain.pt"):
        with pytest.raises(CheckpointError, match=r"was not loaded|cannot be read"):
            checkpoint.load(state, tmp_path / name)
    assert not mark.exists()


def test_another_model_is_refused_with_the_reason(tmp_path: Path) -> None:
    path = saved(tmp_path)[-1]
    model, state = toy.fresh()
    model.head = torch.nn.Linear(9, 1)
    with pytest.raises(CheckpointError, match=r"does not fit.*head\.weight"):
        checkpoint.load(state, path)


def test_a_disk_that_lies_or_is_full_leaves_the_old_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = saved(tmp_path)
    _, state = toy.fresh()
    state.step = 9
    with monkeypatch.context() as patch:
        patch.setattr(plain_files, "sha256", lambda path: "f" * 64)
        with pytest.raises(StorageError, match="reads back"):
            checkpoint.save(state, tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="No space left"):
            checkpoint.save(state, tmp_path)
    assert checkpoint.latest_valid(tmp_path) == paths[-1]
    assert not list(tmp_path.glob(".step-*"))


SAVER = """
import sys
from pathlib import Path
from pipeline import checkpoint
from tests.pipeline import toy
_, state = toy.fresh()
state.model.register_buffer("ballast", __import__("torch").zeros(2_000_000))
print("ready", flush=True)
while True:
    state.step += 1
    checkpoint.save(state, Path(sys.argv[1]))
"""


def test_kill_during_save_leaves_a_loadable_one(tmp_path: Path) -> None:
    """A writer that saves without pause is cut off at ten moments; an intact one is always
    there."""
    last = 0
    process = subprocess.Popen([sys.executable, "-c", SAVER, tmp_path], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    while not listed(tmp_path):
        time.sleep(0.01)
    for moment in range(10):
        time.sleep(0.003 * moment)
        process.send_signal(signal.SIGSTOP)  # as good as dead: nothing more is written
        found = checkpoint.latest_valid(tmp_path)
        assert found is not None
        step = checkpoint.read_plain(found)["step"]
        assert step >= last
        last = step
        process.send_signal(signal.SIGCONT)
    process.kill()
    process.wait()
    assert checkpoint.latest_valid(tmp_path) is not None
    _, state = toy.fresh()
    state.step = 10**6
    checkpoint.save(state, tmp_path)
    assert not list(tmp_path.glob(".step-*"))

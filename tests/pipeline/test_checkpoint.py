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

from pipeline import checkpoint, checkpoint_list, plain_files
from pipeline.checkpoint_list import COPY, MANIFEST, listed, parse
from pipeline.errors import CheckpointError, StorageError
from pipeline.storage import write_json
from tests.pipeline import toy

DAMAGE = ["truncated", "empty", "flipped", "gone"]


def spoil(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
        return
    content[len(content) // 2] ^= 1
    kept = {"truncated": len(content) // 2, "empty": 0, "flipped": len(content)}[how]
    path.write_bytes(content[:kept])


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


@pytest.mark.parametrize("how", DAMAGE)
def test_a_broken_newest_one_is_passed_over(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    _, older, newest = saved(tmp_path)
    expected = listed(tmp_path)[-1].files[newest.name].sha256
    spoil(newest, how)
    assert checkpoint.latest_valid(tmp_path) == older
    found = "no file" if how == "gone" else f"sha256 {plain_files.sha256(newest)}"
    assert f"{newest}: found {found}, expected sha256 {expected}" in caplog.text


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("name", [MANIFEST, COPY])
def test_a_damaged_list_is_replaced_by_its_copy(
    tmp_path: Path, name: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    newest = saved(tmp_path)[-1]
    spoil(tmp_path / name, how)
    assert checkpoint.latest_valid(tmp_path) == newest
    assert (f"{tmp_path / name} is" in caplog.text) == (name == MANIFEST), "the copy is not asked"
    _, state = toy.fresh()
    state.step = 4
    checkpoint.save(state, tmp_path)
    assert [entry.step for entry in listed(tmp_path)] == [3, 4]
    assert (tmp_path / MANIFEST).read_bytes() == (tmp_path / COPY).read_bytes()


def test_any_bit_of_a_list_counts(tmp_path: Path) -> None:
    """What a flipped bit may leave readable is never another list."""
    saved(tmp_path)
    content, expected = (tmp_path / MANIFEST).read_bytes(), listed(tmp_path)
    for place in range(0, len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 7
        try:
            found = parse(bytes(flipped))
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        assert found == expected, (place, flipped[place])


def test_lists_that_are_gone_are_no_reason_to_start_over(tmp_path: Path) -> None:
    saved(tmp_path)
    for name in (MANIFEST, COPY):
        (tmp_path / name).unlink()
    with pytest.raises(
        CheckpointError, match=r"manifest\.json is missing; .*copy\.json is missing"
    ):
        checkpoint.latest_valid(tmp_path)


def test_a_list_of_the_first_format_is_read(tmp_path: Path) -> None:
    """It did not say whether values are finite, so that is looked at."""
    paths = saved(tmp_path, keep=9)
    values = checkpoint.read(paths[-1])
    values["model"]["head.bias"].fill_(float("nan"))
    torch.save(values, paths[-1])
    rows = [
        {"file": path.name, "step": step, "sha256": plain_files.sha256(path), "bytes": 1}
        for step, path in enumerate(paths, 1)
    ]
    (tmp_path / COPY).unlink()
    write_json(tmp_path / MANIFEST, {"format": 1, "checkpoints": rows})
    assert checkpoint.latest_valid(tmp_path) == paths[1]
    assert [entry.finite for entry in listed(tmp_path)] == [None] * 3
    _, state = toy.fresh()
    assert checkpoint.resume(state, tmp_path) and state.step == 2
    state.step = 3
    checkpoint.save(state, tmp_path)
    assert [entry.finite for entry in listed(tmp_path)] == [None, True]


def test_a_broken_one_does_not_push_out_the_good(tmp_path: Path) -> None:
    """Training went on from the one before it: what is later counts no more."""
    spoil(saved(tmp_path, keep=9)[-1], "flipped")
    _, state = toy.fresh()
    assert checkpoint.resume(state, tmp_path) and state.step == 2
    state.step = 3
    again = checkpoint.save(state, tmp_path, keep=1)
    assert checkpoint.latest_valid(tmp_path) == again


def test_a_step_that_is_saved_again_does_not_touch_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a stop, when a validation that was put off is made up for; killed before it is
    listed, the first one still counts."""
    first = saved(tmp_path, keep=1)[-1]
    _, state = toy.fresh()
    assert checkpoint.resume(state, tmp_path)
    state.notes["validation"] = 1.0
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_list, "add", lambda *_: (_ for _ in ()).throw(OSError("killed")))
        with pytest.raises(StorageError, match="killed"):
            checkpoint.save(state, tmp_path, keep=1)
    assert checkpoint.latest_valid(tmp_path) == first
    second = checkpoint.save(state, tmp_path, keep=1)
    assert checkpoint.latest_valid(tmp_path) == second and checkpoint.step_of(second) == 3
    assert checkpoint.read(second)["notes"] == {"validation": 1.0}
    assert [path.name for path in tmp_path.glob("step-*")] == [second.name]


def test_only_what_belongs_to_checkpoints_is_tidied_up(tmp_path: Path) -> None:
    saved(tmp_path)
    for name in (".step-00000009.pt.1.part", ".manifest.json.x.part", ".skipped.jsonl.x.part"):
        (tmp_path / name).touch()
    saved(tmp_path)
    assert [path.name for path in tmp_path.glob(".*")] == [".skipped.jsonl.x.part"]


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


def test_pickled_code_is_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "executed"
    monkeypatch.setenv("BOMB_MARK", str(mark))
    torch.save({"format": 1, "model": toy.Bomb()}, tmp_path / "bomb.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(toy.Bomb(), protocol=2))
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
        step = checkpoint.read(found)["step"]
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

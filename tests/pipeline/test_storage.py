"""Files are whole or absent, and a folder that cannot be used is named before work starts."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.errors import StorageError


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), storage.atomic_file(path, "w") as file:
        file.write("half of the n")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_json_goes_there_and_back(tmp_path: Path) -> None:
    storage.write_json(tmp_path / "deep" / "x.json", {"a": [1, 2], "b": None})
    assert storage.read_json(tmp_path / "deep" / "x.json") == {"a": [1, 2], "b": None}
    (tmp_path / "half.json").write_text('{"a": ')
    assert storage.read_json(tmp_path / "half.json") is None


def test_remote_storage_is_used_alike(tmp_path: Path) -> None:
    source = tmp_path / "x.bin"
    source.write_bytes(b"123")
    for target in ("memory://bucket/folder/x.bin", tmp_path / "folder" / "x.bin"):
        storage.put(source, target)
        assert storage.exists(target)
        assert storage.sha256(target) == hashlib.sha256(b"123").hexdigest()
        assert storage.list_files(str(target).rsplit("/", 1)[0], ".bin") == ["x.bin"]
        with storage.open_file(target) as file:
            assert file.read() == b"123"


def test_a_missing_file_or_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="nowhere"):
        storage.open_file(tmp_path / "nowhere")
    with pytest.raises(StorageError, match="nowhere"):
        storage.list_files(tmp_path / "nowhere")
    with pytest.raises(StorageError, match="no storage of this kind"):
        storage.exists("nosuchprotocol://x")


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=r"run folder .*file/runs.* cannot be written"):
        storage.require_writable(tmp_path / "file" / "runs")
    assert storage.require_writable(tmp_path / "runs") == tmp_path / "runs"


def test_too_little_space_is_refused_with_both_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 9, 1_500_000))
    storage.require_space(tmp_path / "not yet" / "there", 1_000_000, "the world")
    with pytest.raises(StorageError, match=r"the world needs 2\.0 GB .* 1\.5 MB are free"):
        storage.require_space(tmp_path, 2_000_000_000, "the world")


WRITER = """
import sys, threading, time
from pipeline.storage import write_json

def write():
    begun.set()
    while True:
        write_json(sys.argv[1], {"step": list(range(1000))})

begun = threading.Event()
threading.Thread(target=write, daemon=True).start()
begun.wait()
time.sleep(0.05)
"""


def test_a_process_that_ends_finishes_the_file_its_thread_is_writing(tmp_path: Path) -> None:
    for _ in range(2):
        subprocess.run([sys.executable, "-c", WRITER, str(tmp_path / "a.json")], check=True)
        assert storage.read_json(tmp_path / "a.json") is not None
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]

"""The list of a data set: made once, shared, made again when something changed, small however long."""

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from data import manifest_writer
from data.manifest import Manifest
from data.manifest_writer import COLUMNS, write_manifest
from data.sources import open_dataset, open_listing
from data.spec import DatasetSpec
from pipeline.diskcache import DiskCache, cache_folder, disk_cache
from pipeline.errors import DataError, StorageError
from tests.data import lookalikes as like

MILLIONS = 2_000_000


@pytest.fixture(autouse=True)
def _fresh_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SAM2_CACHE", str(tmp_path / "cache"))


def spec_of(root, format="sa1b", **fields):
    return DatasetSpec(format=format, root=str(root), **fields)


def made(path):
    """When the manifest of a listing was written."""
    return path.stat().st_mtime_ns


def test_it_is_made_once_and_found_again(tmp_path):
    spec = spec_of(like.sa1b(tmp_path / "sa1b", count=12))
    first = open_listing(spec)
    again = open_listing(spec)
    assert (again.path, made(again.path), again.digest) == (
        first.path,
        made(first.path),
        first.digest,
    )
    assert again.names == tuple(f"sa_{n}" for n in range(1, 13))
    assert again.names[-2:] == ("sa_11", "sa_12")
    assert first.path.parent.parent == tmp_path / "cache"


def test_it_depends_on_where_and_what_but_not_on_the_current_folder(tmp_path, monkeypatch):
    root = like.sa1b(tmp_path / "sa1b")
    whole = open_listing(spec_of(root))
    monkeypatch.chdir(tmp_path)
    assert open_listing(spec_of("sa1b")).path == whole.path
    assert open_listing(spec_of(root, exclude=("sa_2",))).names == ("sa_1", "sa_3")
    (root / "bad.txt").write_text("sa_1\nsa_99\n")
    assert open_listing(spec_of(root, exclude_list="bad.txt")).names == ("sa_2", "sa_3")
    (root / "bad.txt").write_text("sa_1\nsa_2\n")
    assert open_listing(spec_of(root, exclude_list="bad.txt")).names == ("sa_3",)


@pytest.mark.parametrize("change", ["add", "remove", "edit", "touch a list"])
def test_it_is_made_again_when_something_changed(tmp_path, change):
    root = like.sav_val(tmp_path / "val") if change == "touch a list" else like.davis(tmp_path)
    format = "sav_val" if change == "touch a list" else "davis"
    before = open_listing(spec_of(root, format))
    labels = root / "Annotations/480p/bear"
    if change == "add":
        like.save(root / "JPEGImages/480p/bear/00006.jpg", like.picture(6))
        like.save(labels / "00006.png", np.ones((like.H, like.W), np.uint8))
    elif change == "remove":
        (labels / "00005.png").unlink()
    elif change == "edit":
        like.save(labels / "00002.png", np.ones((like.H, like.W), np.uint8))
    else:
        (root / "sav_val.txt").write_text("sav_000007\nsav_000008\n")
        with pytest.raises(DataError, match="first 'sav_000008'"):
            open_listing(spec_of(root, format))
        return
    after = open_listing(spec_of(root, format))
    assert after.digest != before.digest
    assert after.frame_count(0) == {"add": 7, "remove": 5, "edit": 6}[change]


def test_identity_is_that_of_the_content_not_of_place_or_time(tmp_path):
    one, other = like.coco_set(tmp_path / "a"), like.coco_set(tmp_path / "b")
    os.utime(other / "val2017/000000000009.jpg", ns=(1, 1))
    digest = open_listing(spec_of(one, "coco")).digest
    assert open_listing(spec_of(other, "coco")).digest == digest
    source = other / "annotations/instances_val2017.json"
    source.write_text(source.read_text().replace("4.0", "5.0"))  # as long as before
    assert open_listing(spec_of(other, "coco")).digest != digest


@pytest.mark.parametrize("format", ["sa1b", "sav", "sav_val", "davis", "folder"])
def test_what_the_annotations_of_a_small_set_say_is_its_identity(tmp_path, monkeypatch, format):
    """Also where they are as long as before; those of a large set are not read for it."""
    root = getattr(like, format)(tmp_path / "set")
    ending = {"sa1b": ".json", "sav": "_manual.json"}.get(format, ".png")
    path = next(path for path in sorted(root.rglob(f"*{ending}")) if path.parent.name != "images")
    before = open_listing(spec_of(root, format)).digest
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"?")
    after = open_listing(spec_of(root, format)).digest
    assert after != before
    os.utime(path, ns=(1, 1))  # listed again
    assert open_listing(spec_of(root, format)).digest == after
    path.write_bytes(content)
    assert open_listing(spec_of(root, format)).digest == before
    monkeypatch.setattr(manifest_writer, "SMALL_BYTES", 10)
    os.utime(path, ns=(1, 1))
    large = open_listing(spec_of(root, format)).digest
    path.write_bytes(content[:-1] + b"?")
    assert open_listing(spec_of(root, format)).digest == large != before


def test_identity_is_the_same_in_tars_however_much_is_read_for_it(tmp_path, monkeypatch):
    root = like.sa1b(tmp_path / "set")
    packed = like.sa1b_tar(tmp_path / "tar", root)
    for limit in (2048, 6, 5):
        monkeypatch.setattr(manifest_writer, "SMALL_FILES", limit)
        monkeypatch.setenv("SAM2_CACHE", str(tmp_path / f"cache {limit}"))
        assert open_listing(spec_of(root)).digest == open_listing(spec_of(packed)).digest


def test_a_broken_manifest_is_made_again(tmp_path):
    spec = spec_of(like.sa1b(tmp_path / "sa1b"))
    path = open_listing(spec).path
    whole = path.read_bytes()
    for broken in (b"", whole[: len(whole) // 2], whole[:100], b"x" * 5000):
        path.write_bytes(broken)
        assert open_listing(spec).names == ("sa_1", "sa_2", "sa_3")


def test_a_manifest_that_changed_while_in_use(tmp_path):
    root = like.sa1b(tmp_path / "sa1b")
    sent = pickle.dumps(open_dataset(spec_of(root)))
    (root / "sa_3.jpg").unlink()
    (root / "sa_3.json").unlink()
    open_dataset(spec_of(root))
    with pytest.raises(DataError, match="was made anew: the data set changed while in use"):
        pickle.loads(sent)


def test_a_cache_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SAM2_CACHE", str(tmp_path / "file/inside"))
    with pytest.raises(StorageError, match="set SAM2_CACHE"):
        open_listing(spec_of(like.sa1b(tmp_path / "sa1b")))
    monkeypatch.setenv("SAM2_CACHE_GB", "lots")
    with pytest.raises(StorageError, match="SAM2_CACHE_GB is 'lots'"):
        disk_cache()


def digest_of(spec):
    return open_listing(spec).digest


def test_many_processes_ask_at_once(tmp_path):
    spec = spec_of(like.sa1b(tmp_path / "sa1b", count=60))
    with multiprocessing.get_context("forkserver").Pool(4) as pool:
        digests = pool.map(digest_of, [spec] * 8)
    assert set(digests) == {open_listing(spec).digest}
    left = [path.name for path in (cache_folder() / "manifests").iterdir()]
    assert not [name for name in left if name.endswith(".part")]


def millions(path):
    """A manifest of two million pictures of SA-1B in 200 tars, straight from numbers."""
    names = [f"sa_{n}".encode() for n in range(MILLIONS)]
    ends = np.cumsum([len(name) for name in names])
    files = [f"sa_{n:06d}.tar".encode() for n in range(200)]
    rows = np.arange(MILLIONS)
    columns = {
        "name_ends": ends,
        "frame_ends": rows + 1,
        "part_ends": rows + 1,
        "frame_number": np.zeros(MILLIONS),
        "frame_file": rows // 10_000,
        "frame_start": rows % 10_000 * 900_000,
        "frame_size": np.full(MILLIONS, 700_000),
        "part_frame": np.zeros(MILLIONS),
        "part_object": np.zeros(MILLIONS),
        "part_file": rows // 10_000,
        "part_start": rows % 10_000 * 900_000 + 700_000,
        "part_size": np.full(MILLIONS, 200_000),
        "file_name_ends": np.cumsum([len(name) for name in files]),
        "file_folder": np.zeros(200),
        "file_size": np.full(200, 9e9),
        "file_stamp": np.ones(200),
    }
    typed = {name: np.asarray(column, COLUMNS[name]) for name, column in columns.items()}
    typed["names"] = np.frombuffer(b"".join(names), np.uint8)
    typed["file_names"] = np.frombuffer(b"".join(files), np.uint8)
    header = {"digest": "d", "folders": ["/sa1b"], "seen": {}, "watched": [], "errors": {}}
    write_manifest(path, header, typed)


USE = """
import gc, json, pickle, sys, time
import numpy as np, psutil
from data.manifest import Manifest
def private():
    gc.collect()
    memory = psutil.Process().memory_info()
    return memory.rss - memory.shared  # without pages of files, which all processes share
before = private()
started = time.perf_counter()
manifest = pickle.loads(bytes.fromhex(sys.argv[1]))
opened = time.perf_counter() - started
rng = np.random.default_rng(0)
for item in rng.integers(len(manifest), size=20_000).tolist():
    place, (part,) = manifest.picture(item, 0), manifest.parts(item)
    assert manifest.names[item] == f"sa_{item}"
    assert (place.path, part.place.start) == (f"/sa1b/sa_{item // 10000:06d}.tar", place.start + 700_000)
print(json.dumps({"count": len(manifest), "private": private() - before, "opened": opened}))
"""


def test_two_million_entries(tmp_path):
    """A worker that gets it and looks up 20,000 random entries takes under 50 MB beyond the shared map."""
    path = tmp_path / "millions"
    millions(path)
    sent = pickle.dumps(Manifest(path)).hex()
    ran = subprocess.run(
        [sys.executable, "-c", USE, sent], capture_output=True, text=True, timeout=250, check=False
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["count"] == MILLIONS
    assert found["private"] < 50e6


def test_an_index_of_masklets_is_made_once(tmp_path, monkeypatch):
    """Samples of a video read its json through once, then only their rows, in any process."""
    from data import masklets

    dataset = open_dataset(spec_of(like.sav(tmp_path / "sav"), "sav"))
    calls = []
    index = masklets.index_masklets
    monkeypatch.setattr(
        masklets, "index_masklets", lambda place: calls.append(place) or index(place)
    )
    from pipeline.cache import SHARED

    for _ in range(3):
        SHARED.clear()  # as in another process
        dataset.load(0, [0, 3])
    assert len(calls) == 1


# ---- the cache of files ----


def test_files_of_another_user_are_used(tmp_path, monkeypatch):
    """Only the owner of a file may note when it was last used."""
    cache = DiskCache(tmp_path / "c", 100_000)
    cache.read("a", lambda: b"there")

    def refuse(path):
        raise PermissionError(1, "Operation not permitted", str(path))

    monkeypatch.setattr(os, "utime", refuse)
    assert cache.read("a", lambda: b"made anew") == b"there"


def test_the_cache_is_bounded_and_keeps_what_is_used(tmp_path):
    cache = DiskCache(tmp_path / "c", 100_000)
    for number in range(40):
        cache.read(f"{number}", lambda: bytes(5_000))
        cache.read("favourite", lambda: b"f" * 5_000)
        time.sleep(0.002)
    cache.sweep()
    files = [path for path in (tmp_path / "c").glob("??/*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 100_000
    assert cache.read("favourite", lambda: b"made again") == b"f" * 5_000
    assert cache.read("0", lambda: b"made again") == b"made again"


def write_until_killed(folder):
    cache = DiskCache(folder, 1 << 40)
    number = 0
    while True:
        cache.read(f"{number % 50}", lambda n=number: bytes([n % 50]) * 300_000)
        number += 1
        if number % 50 == 0:
            for key in range(50):
                cache.drop(f"{key}")


def test_a_writer_that_is_killed_leaves_no_half_file(tmp_path):
    for pause in (0.05, 0.1, 0.15):
        process = multiprocessing.get_context("forkserver").Process(
            target=write_until_killed, args=(tmp_path,)
        )
        process.start()
        while not any(tmp_path.glob("??/*")):
            time.sleep(0.01)
        time.sleep(pause)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        cache = DiskCache(tmp_path, 1 << 40)
        for key in range(50):
            content = cache.read(f"{key}", lambda k=key: bytes([k]) * 300_000)
            assert content == bytes([key]) * 300_000
    for stray in tmp_path.glob("??/.*"):
        os.utime(stray, (1, 1))  # as if it had lain there for long
    DiskCache(tmp_path, 1).sweep()
    assert not list(tmp_path.glob("??/.*"))


def shared_reads(folder, seed):
    cache = DiskCache(folder, 60_000)
    rng = np.random.default_rng(seed)
    return all(
        cache.read(f"{key}", lambda k=key: bytes([k]) * 4_000) == bytes([key]) * 4_000
        for key in rng.integers(0, 40, size=400).tolist()
    )


def test_processes_share_a_cache_that_is_too_small(tmp_path):
    with multiprocessing.get_context("forkserver").Pool(4) as pool:
        assert pool.starmap(shared_reads, [(tmp_path, seed) for seed in range(4)]) == [True] * 4

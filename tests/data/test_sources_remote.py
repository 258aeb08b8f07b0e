"""Every format from an object store: the same samples as from a folder, also from worker processes and through a
network that fails."""

import logging
import multiprocessing
import shutil
import tarfile
import threading
from concurrent.futures import ProcessPoolExecutor

import fsspec
import numpy as np
import pytest

from data import manifest_writer
from data.extract import ExtractOptions, extract_frames
from data.mixture import TrainingClips, loader
from data.settings import Augment, ClipSampling, Mixture
from data.sources import open_dataset, sa1b
from data.sources.sav import list_videos
from data.spec import DatasetSpec
from pipeline import fetch, remote
from pipeline.cache import SHARED
from pipeline.errors import ConfigError, DataError, StorageError
from tests import s3
from tests.data import lookalikes as like
from tests.data.three_items import cut


@pytest.fixture(scope="session")
def endpoint():
    with s3.moto_server() as address:
        yield address


@pytest.fixture
def bucket(endpoint, tmp_path, monkeypatch):
    """A fresh place in the store, and a cache of its own."""
    monkeypatch.setenv("SAM2_CACHE", str(tmp_path / "cache"))
    with s3.pointed_at(endpoint):
        yield f"s3://{s3.BUCKET}/{tmp_path.name}"


def opened(format, root, **fields):
    return open_dataset(DatasetSpec(format=format, root=str(root), **fields))


def sa1b_tar(root):
    return like.sa1b_tar(root, like.sa1b(root.parent / "unpacked"))


FORMATS = {
    "sa1b": ("sa1b", like.sa1b, {}),
    "sa1b in tars": ("sa1b", sa1b_tar, {}),
    "sav": ("sav", like.sav, {"annotations": "both"}),
    "sav_val": ("sav_val", like.sav_val, {}),
    "davis": ("davis", like.davis, {}),
    "coco": ("coco", like.coco_set, {}),
    "folder": ("folder", like.folder, {}),
}


def assert_same(here, there):
    assert tuple(here.names) == tuple(there.names)
    assert here.digest == there.digest
    for index in range(len(here)):
        a, b = here.load(index), there.load(index)
        np.testing.assert_array_equal(a.frames, b.frames)
        np.testing.assert_array_equal(a.masks, b.masks)
        assert (a.object_ids, a.frame_numbers) == (b.object_ids, b.frame_numbers)
        frames = list(zip(here.stream(index), there.stream(index), strict=True))
        assert all(m == n and (p == q).all() for (m, p), (n, q) in frames)


@pytest.mark.parametrize("case", FORMATS)
@pytest.mark.parametrize("protocol", ["memory", "s3"])
def test_a_store_gives_what_a_folder_gives(tmp_path, bucket, case, protocol):
    format, make, fields = FORMATS[case]
    local = make(tmp_path / "local")
    url = bucket if protocol == "s3" else f"memory://{tmp_path.name}"
    url = s3.upload(local, url)
    there = opened(format, url, **fields)
    assert_same(opened(format, local, **fields), there)
    SHARED.clear()
    assert_same(there, opened(format, f"{url}/", **fields))  # from the caches


def test_extracted_frames_from_a_store(tmp_path, bucket):
    local = like.sav(tmp_path / "sav", videos=1)
    extract_frames(
        local / "sav_000/sav_000001.mp4", tmp_path / "frames/sav_000001", ExtractOptions(every=4)
    )
    s3.upload(tmp_path / "sav", f"{bucket}/sav")
    s3.upload(tmp_path / "frames", f"{bucket}/frames")
    assert_same(
        opened("sav", local, frames=str(tmp_path / "frames")),
        opened("sav", f"{bucket}/sav", frames=f"{bucket}/frames"),
    )
    with pytest.raises(DataError, match="frames are extracted from local videos"):
        list_videos(DatasetSpec(format="sav", root=f"{bucket}/sav"))


def test_what_is_missing_in_a_store_is_named(bucket, tmp_path):
    for format, (_, _, fields) in FORMATS.items():
        if " " not in format:
            with pytest.raises(DataError, match=f"{bucket} does not exist; expected"):
                opened(format, bucket, **fields)
    s3.upload(like.davis(tmp_path / "davis"), bucket)
    (tmp_path / "list").mkdir()
    (tmp_path / "list/val.txt").write_text("bear\n")
    with pytest.raises(DataError, match=r"val\.txt cannot be read"):
        opened("davis", bucket, split="val.txt")
    s3.upload(tmp_path / "list", bucket)
    dataset = opened("davis", bucket, split="val.txt", exclude=("wolf",))
    fsspec.filesystem("s3").rm_file(f"{bucket}/JPEGImages/480p/bear/00003.jpg")
    with pytest.raises(DataError, match=r"00003\.jpg is not there"):
        dataset.load(0)


def test_a_changed_object_is_read_anew(bucket, tmp_path):
    local = like.davis(tmp_path / "davis")
    s3.upload(local, bucket)
    before = opened("davis", bucket).load(0, [0])
    like.save(local / "JPEGImages/480p/bear/00000.jpg", like.picture(99))
    s3.upload(local, bucket)
    SHARED.clear()
    after = opened("davis", bucket)
    assert_same(opened("davis", local), after)
    assert (before.frames != after.load(0, [0]).frames).any()


def read_much(dataset, seed, count):
    """In a worker: random samples, and how many were right."""
    rng = np.random.default_rng(seed)
    return sum(
        bool(dataset.load(int(rng.integers(len(dataset)))).masks.any()) for _ in range(count)
    )


@pytest.mark.parametrize(
    "method",
    ["fork", *(pytest.param(m, marks=pytest.mark.slow) for m in ("forkserver", "spawn"))],
)
def test_workers_read_after_their_parent_did(bucket, tmp_path, method):
    s3.upload(like.sa1b_tar(tmp_path / "tar", like.sa1b(tmp_path / "sa1b", count=80)), bucket)
    dataset = opened("sa1b", bucket)
    assert dataset.load(0).masks.any()  # the parent's connections are open
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(4, mp_context=context) as pool:
        made = [pool.submit(read_much, dataset, seed, 40) for seed in range(4)]
        assert [done.result() for done in made] == [40] * 4  # 320 reads


@pytest.mark.parametrize("answer", [503, 500, 0])
def test_a_store_that_fails_now_and_then(bucket, endpoint, tmp_path, monkeypatch, answer):
    monkeypatch.setattr(remote, "PAUSES", (0.01,) * 5)
    local = like.davis(tmp_path / "davis")
    s3.upload(local, bucket)
    proxy = s3.FlakyProxy(endpoint, lambda path, before: answer if before < 2 else None)
    with s3.pointed_at(proxy.address, AWS_MAX_ATTEMPTS="1"):
        assert_same(opened("davis", local), opened("davis", bucket))
    assert proxy.failed > 20
    proxy.close()


def test_a_store_that_stays_away_is_no_fault_of_the_data(bucket, endpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "PAUSES", (0.01,) * 3)
    s3.upload(like.davis(tmp_path / "davis"), bucket)
    dataset = opened("davis", bucket)
    for answer, tries in ((503, 4), (403, 1)):
        proxy = s3.FlakyProxy(endpoint, lambda path, before, status=answer: status)
        with (
            s3.pointed_at(proxy.address, AWS_MAX_ATTEMPTS="1"),
            pytest.raises(StorageError, match=r"00000\.\w+ cannot be read .* check the address"),
        ):
            dataset.load(0)
        assert max(proxy.asked.values()) == tries
        proxy.close()


def test_training_stops_with_one_line_when_its_store_is_gone(
    bucket, endpoint, tmp_path, monkeypatch
):
    """Also from a worker; and no sample is set aside for it."""
    s3.upload(like.davis(tmp_path / "davis"), bucket)
    monkeypatch.setattr(remote, "PAUSES", ())
    proxy = s3.FlakyProxy(endpoint, lambda path, before: 403 if ".jpg" in path else None)
    with s3.pointed_at(proxy.address, AWS_MAX_ATTEMPTS="1"):
        source = TrainingClips(
            {"bear": opened("davis", bucket)},
            Mixture(video_batch=1),
            ClipSampling(frames=2),
            Augment(),
            32,
            seed=0,
        )
        for workers in (0, 1):
            with pytest.raises(
                StorageError, match=r"\.jpg cannot be read \(.*; check the address"
            ) as caught:
                list(loader(source, start_step=0, stop_step=2, workers=workers))
            assert "\n" not in str(caught.value)
    proxy.close()


def test_credentials_are_shown_nowhere(bucket, endpoint, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(remote, "PAUSES", ())
    caplog.set_level(logging.INFO)
    s3.upload(like.davis(tmp_path / "davis"), bucket)
    dataset = opened("davis", bucket)
    proxy = s3.FlakyProxy(endpoint, lambda path, before: 403)
    with s3.pointed_at(proxy.address), pytest.raises(StorageError) as caught:
        dataset.load(0)
    proxy.close()
    monkeypatch.setattr(fetch, "filesystem", lambda path: (_Leaky(), str(path)))
    with pytest.raises(StorageError) as leaky, s3.pointed_at(endpoint):
        fetch.read_remote("s3://clips/x")
    written = [p.read_bytes() for p in (tmp_path / "cache").rglob("*") if p.is_file()]
    for text in (str(caught.value), str(leaky.value), caplog.text, *map(repr, written)):
        assert s3.SECRET not in text
        assert s3.CREDENTIALS["AWS_ACCESS_KEY_ID"] not in text
    assert "key *** of ftp://***@host is bad" in str(leaky.value)
    with pytest.raises(ConfigError, match="root holds a password"):
        DatasetSpec(format="davis", root="s3://me:pw@host/bucket")
    with pytest.raises(ConfigError, match="root holds a password"):
        DatasetSpec(format="davis", root="https://host/x?X-Amz-Signature=abc")


class _Leaky:
    def cat_file(self, path):
        raise OSError(f"key {s3.SECRET} of ftp://u:{s3.SECRET}@host is bad")


def test_tars_are_read_in_place(bucket, tmp_path, monkeypatch):
    """Opening asks for headers, a sample for its two members: never for the whole tar. (Of a small data set opening
    asks for the annotations, too.)"""
    monkeypatch.setattr(manifest_writer, "SMALL_BYTES", 0)
    source = like.sa1b(tmp_path / "sa1b", count=4)
    for path in source.glob("*.jpg"):
        path.write_bytes(path.read_bytes() + bytes(200_000))
    s3.upload(like.sa1b_tar(tmp_path / "tar", source), bucket)
    total = (tmp_path / "tar/sa_000000.tar").stat().st_size
    calls = []
    read = fetch.read_remote

    def counted(path, start=0, size=None):
        calls.append(size or total)
        return read(path, start, size)

    monkeypatch.setattr(fetch, "read_remote", counted)
    dataset = opened("sa1b", bucket)
    assert 0 < sum(calls) < total / 4
    calls.clear()
    dataset.load(2)
    assert len(calls) == 2
    calls.clear()
    SHARED.clear()
    dataset.load(2)
    assert calls == []  # from the disk


def test_several_tars_are_listed_at_a_time(bucket, tmp_path, monkeypatch):
    source = like.sa1b(tmp_path / "sa1b", count=4)
    tars = tmp_path / "tars"
    tars.mkdir()
    for number in range(1, 5):
        with tarfile.open(tars / f"sa_00000{number}.tar", "w") as tar:
            for ending in ("jpg", "json"):
                tar.add(source / f"sa_{number}.{ending}", arcname=f"./sa_{number}.{ending}")
    s3.upload(tars, bucket)
    together, met = threading.Barrier(4, timeout=30), threading.local()
    read = sa1b.read_range

    def waiting(path, start, size):
        if not hasattr(met, "others"):  # once in every thread
            met.others = together.wait()
        return read(path, start, size)

    monkeypatch.setattr(sa1b, "read_range", waiting)
    assert opened("sa1b", bucket).names == ("sa_1", "sa_2", "sa_3", "sa_4")


def test_one_tar_that_is_cut_off_ends_the_listing_of_all(bucket, tmp_path):
    tars = like.sa1b_tar(tmp_path / "tars", like.sa1b(tmp_path / "sa1b"))
    for number in range(1, 4):
        shutil.copyfile(tars / "sa_000000.tar", tars / f"sa_00000{number}.tar")
    cut(tars / "sa_000002.tar")
    s3.upload(tars, bucket)
    with pytest.raises(DataError, match=r"sa_000002\.tar .*fetch it again"):
        opened("sa1b", bucket)

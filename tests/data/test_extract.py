"""Frames out of videos: right ones, whole folders only, no work twice."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from data import extract
from data.extract import extract_frames, extract_many
from pipeline.errors import ConfigError, DataError, StorageError
from pipeline.pictures import read_rgb
from pipeline.video import frame_total, iterate_frames, read_frames
from tests.data import lookalikes as like


@pytest.fixture
def video(tmp_path):
    frames = [like.picture(t * 8, (48, 64)) for t in range(23)]
    return like.save_video(tmp_path / "videos" / "sav_000001.mp4", frames)


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


def test_every_fourth_frame_by_its_own_number(tmp_path, video):
    report = extract_frames(video, tmp_path / "out", every=4)
    assert (report.frames, report.decoded, report.reused) == (6, 23, False)
    assert [n for n in listing(tmp_path / "out") if n.endswith(".jpg")] == [
        f"{number:05d}.jpg" for number in range(0, 23, 4)
    ]
    for number, frame in enumerate(iterate_frames(video)):
        if number % 4 == 0:
            got = read_rgb(tmp_path / "out" / f"{number:05d}.jpg")
            assert np.abs(got.astype(int) - frame).mean() < 3


def test_finished_folders_are_left_alone(tmp_path, video):
    first = extract_frames(video, tmp_path / "out", every=4)
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()}
    second = extract_frames(video, tmp_path / "out", every=4)
    assert second.reused
    assert (second.frames, second.bytes) == (first.frames, first.bytes)
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize("harm", ["missing", "short", "record", "settings"])
def test_folders_that_are_not_whole_are_made_again(tmp_path, video, harm):
    out = tmp_path / "out"
    extract_frames(video, out, every=4)
    if harm == "missing":
        (out / "00008.jpg").unlink()
    if harm == "short":
        (out / "00008.jpg").write_bytes(b"")
    if harm == "record":
        (out / extract.RECORD).unlink()
    report = extract_frames(video, out, every=2 if harm == "settings" else 4)
    assert not report.reused
    assert report.frames == (12 if harm == "settings" else 6)
    assert json.loads((out / extract.RECORD).read_text())["frames"] == report.frames
    assert read_rgb(out / "00008.jpg").shape == (48, 64, 3)
    assert listing(tmp_path) == ["out", "videos"]


@pytest.mark.parametrize("damage", ["empty", "cut", "nonsense", "no"])
def test_broken_videos_are_named_and_leave_nothing(tmp_path, video, damage):
    content = video.read_bytes()
    if damage == "no":
        video.unlink()
    else:
        video.write_bytes(
            {"empty": b"", "cut": content[: len(content) // 2]}.get(damage, b"x" * 999)
        )
    with pytest.raises(DataError, match=r"sav_000001\.mp4"):
        extract_frames(video, tmp_path / "out", every=4)
    assert listing(tmp_path) == ["videos"]


def test_truncation_behind_the_index_is_noticed(tmp_path, video):
    """A file with its index in front opens and plays, and simply ends too early."""
    import av

    front = tmp_path / "front.mp4"
    with (
        av.open(str(video)) as source,
        av.open(str(front), "w", options={"movflags": "faststart"}) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    front.write_bytes(front.read_bytes()[: front.stat().st_size * 3 // 4])
    with pytest.raises(DataError, match=r"front\.mp4"):
        extract_frames(front, tmp_path / "out", every=4)
    assert not (tmp_path / "out").exists()


def test_what_a_killed_run_left_is_removed(tmp_path, video):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f".out.{dead.pid}.part").mkdir()
    alive = tmp_path / f".out.{os.getppid()}.part"
    alive.mkdir()
    extract_frames(video, tmp_path / "out", every=4)
    assert listing(tmp_path) == [alive.name, "out", "videos"]


def test_an_error_in_the_middle_leaves_nothing(tmp_path, video, monkeypatch):
    monkeypatch.setattr(
        extract.json, "dumps", lambda _: (_ for _ in ()).throw(OSError(28, "No space left"))
    )
    with pytest.raises(StorageError, match="No space left"):
        extract_frames(video, tmp_path / "out", every=4)
    assert listing(tmp_path) == ["videos"]


def test_a_folder_that_cannot_be_written(tmp_path, video):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        extract_frames(video, tmp_path / "file" / "out", every=4)
    with pytest.raises(ConfigError, match="every=0"):
        extract_frames(video, tmp_path / "out", every=0)


@pytest.mark.parametrize("workers", [1, 2])
def test_many(tmp_path, video, workers):
    videos = [video]
    for number in (2, 3):
        videos.append(video.with_name(f"sav_{number:06d}.mp4"))
        videos[-1].write_bytes(video.read_bytes())
    seen = []
    reports = extract_many(
        videos, tmp_path / "out", every=4, workers=workers, progress=lambda *a: seen.append(a[:2])
    )
    assert [report.video for report in reports] == [str(path) for path in videos]
    assert seen == [(1, 3), (2, 3), (3, 3)]
    videos[1].write_bytes(b"")
    with pytest.raises(DataError, match=r"1 of 3 videos.*sav_000002\.mp4"):
        extract_many(videos, tmp_path / "again", every=4, workers=workers)
    assert listing(tmp_path / "again") == ["sav_000001", "sav_000003"]


def test_frames_by_number_are_those_of_a_pass_through(video):
    passed = list(iterate_frames(video))
    assert frame_total(video) == len(passed) == 23
    for numbers in ([0], [22, 3], [11, 12, 13], [5, 5], [20]):
        for number, frame in zip(numbers, read_frames(video, numbers), strict=True):
            np.testing.assert_array_equal(frame, passed[number])
    with pytest.raises(DataError, match="ends before frame 23"):
        read_frames(video, [3, 23])

"""Frames out of videos: right ones, whole folders only, no work twice."""

import json
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from data import extract
from data.extract import ExtractOptions, extract_frames
from data.extract_many import extract_many
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
    report = extract_frames(video, tmp_path / "out")
    assert (report.frames, report.decoded, report.reused) == (6, 23, False)
    assert [n for n in listing(tmp_path / "out") if n.endswith(".jpg")] == [
        f"{number:05d}.jpg" for number in range(0, 23, 4)
    ]
    for number, frame in enumerate(iterate_frames(video)):
        if number % 4 == 0:
            got = read_rgb(tmp_path / "out" / f"{number:05d}.jpg")
            assert np.abs(got.astype(int) - frame).mean() < 3


def test_finished_folders_are_left_alone(tmp_path, video):
    first = extract_frames(video, tmp_path / "out")
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()}
    second = extract_frames(video, tmp_path / "out")
    assert second.reused
    assert (second.frames, second.bytes) == (first.frames, first.bytes)
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize("harm", ["missing", "short", "renamed", "record", "settings"])
def test_folders_that_are_not_whole_are_made_again(tmp_path, video, harm):
    out = tmp_path / "out"
    extract_frames(video, out)
    if harm == "missing":
        (out / "00008.jpg").unlink()
    if harm == "short":
        (out / "00008.jpg").write_bytes(b"")
    if harm == "renamed":
        (out / "00008.jpg").rename(out / "00009.jpg")
    if harm == "record":
        (out / extract.RECORD).unlink()
    report = extract_frames(video, out, ExtractOptions(every=2 if harm == "settings" else 4))
    assert not report.reused
    assert report.frames == (12 if harm == "settings" else 6)
    assert json.loads((out / extract.RECORD).read_text())["frames"] == report.frames
    assert read_rgb(out / "00008.jpg").shape == (48, 64, 3)
    assert listing(tmp_path) == ["out", "videos"]


def test_a_folder_of_something_else_is_not_replaced(tmp_path, video):
    notes = tmp_path / "out" / "notes.txt"
    notes.parent.mkdir()
    notes.write_text("precious")
    with pytest.raises(
        StorageError, match=r"out is to be replaced by frames, but holds notes\.txt"
    ):
        extract_frames(video, tmp_path / "out")
    assert notes.read_text() == "precious"
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
        extract_frames(video, tmp_path / "out")
    assert listing(tmp_path) == ["videos"]


def test_truncation_behind_the_index_is_noticed(tmp_path, video):
    """A file with its index in front opens and plays, and simply ends too early."""
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
        extract_frames(front, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_a_killed_run_left_is_removed(tmp_path, video):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f".out.{dead.pid}.part").mkdir()
    alive = tmp_path / f".out.{os.getppid()}.part"
    alive.mkdir()
    extract_frames(video, tmp_path / "out")
    assert listing(tmp_path) == [alive.name, "out", "videos"]


def test_an_error_in_the_middle_leaves_nothing(tmp_path, video, monkeypatch):
    monkeypatch.setattr(
        extract.json, "dumps", lambda _: (_ for _ in ()).throw(OSError(28, "No space left"))
    )
    with pytest.raises(StorageError, match="No space left"):
        extract_frames(video, tmp_path / "out")
    assert listing(tmp_path) == ["videos"]


def test_a_folder_that_cannot_be_written(tmp_path, video):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        extract_frames(video, tmp_path / "file" / "out")
    with pytest.raises(ConfigError, match="every=0"):
        extract_frames(video, tmp_path / "out", ExtractOptions(every=0))
    for wrong in ({"fps": 0.0}, {"short_side": 9, "long_side": 9}, {"long_side": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            ExtractOptions(**wrong)


@pytest.mark.parametrize("workers", [1, 2])
def test_many(tmp_path, video, workers):
    videos = [video]
    for number in (2, 3):
        videos.append(video.with_name(f"sav_{number:06d}.mp4"))
        videos[-1].write_bytes(video.read_bytes())
    seen = []
    reports = extract_many(
        videos, tmp_path / "out", workers=workers, progress=lambda *a: seen.append(a[:2])
    )
    assert [report.video for report in reports.reports] == [str(path) for path in videos]
    assert seen == [(1, 3), (2, 3), (3, 3)]
    videos[1].write_bytes(b"")
    again = extract_many(videos, tmp_path / "again", workers=workers)
    assert [report.video for report in again.reports] == [str(videos[0]), str(videos[2])]
    with pytest.raises(DataError, match=r"1 of 3 videos.*sav_000002\.mp4 is empty"):
        again.check()
    assert listing(tmp_path / "again") == ["sav_000001", "sav_000003"]
    assert again.summary()["failed"][0]["video"] == str(videos[1])


def test_frames_by_number_are_those_of_a_pass_through(video):
    passed = list(iterate_frames(video))
    assert frame_total(video) == len(passed) == 23
    for numbers in ([0], [22, 3], [11, 12, 13], [5, 5], [20]):
        for number, frame in zip(numbers, read_frames(video, numbers), strict=True):
            np.testing.assert_array_equal(frame, passed[number])
    with pytest.raises(DataError, match="ends before frame 23"):
        read_frames(video, [3, 23])


def sizes(folder):
    return {read_rgb(path).shape[:2] for path in folder.glob("*.jpg")}


def test_frames_can_be_shrunk_and_are_never_enlarged(tmp_path, video):
    for fields, expected in (
        ({"short_side": 24}, (24, 32)),
        ({"long_side": 32}, (24, 32)),
        ({"short_side": 300}, (48, 64)),
    ):
        report = extract_frames(video, tmp_path / "out", ExtractOptions(**fields))
        assert not report.reused, "other options, other frames"
        assert sizes(tmp_path / "out") == {expected}


def annotated(video, **fields):
    return like.save_json(video.with_name(f"{video.stem}_manual.json"), fields)


def test_the_frame_count_is_that_of_the_annotation(tmp_path, video):
    annotated(video, video_frame_count=23.0)
    assert extract_many([video], tmp_path / "out").reports
    annotated(video, video_frame_count=24.0)
    said = extract_many([video], tmp_path / "other").failures[str(video)]
    for part in ("sav_000001.mp4", "found 23 frames", "expected 24", "_manual.json", "fetch both"):
        assert part in said
    annotated(video, masklet=[])
    said = extract_many([video], tmp_path / "other").failures[str(video)]
    assert "_manual.json, video_frame_count" in said
    assert listing(tmp_path) == ["other", "out", "videos"] and not listing(tmp_path / "other")


def test_annotations_from_elsewhere(tmp_path, video):
    other = video.with_name("sav_000002.mp4")
    other.write_bytes(video.read_bytes())
    folder = tmp_path / "json"
    like.save_json(folder / "sav_000" / "sav_000001_auto.json", {"video_frame_count": 23})
    found = extract_many([video, other], tmp_path / "out", annotations=folder)
    assert [report.video for report in found.reports] == [str(video)]
    assert "sav_000002_manual.json" in found.failures[str(other)]
    with pytest.raises(DataError, match="nowhere is no folder"):
        extract_many([video], tmp_path / "out", annotations=tmp_path / "nowhere")


MEMORY = r"""
import re, sys
from pathlib import Path
from data.extract import extract_frames
for name in ("short", "long"):
    extract_frames(Path(sys.argv[1]) / f"{name}.mp4", Path(sys.argv[1]) / name)
    # Not ru_maxrss, which starts from the peak of the program that started this one.
    print(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_memory_does_not_grow_with_the_length(tmp_path):
    """4K frames, 25 MB each when decoded: 36 of them cost what 12 do."""
    frame = like.picture(3, (2160, 3840))
    for name, count in (("short", 12), ("long", 36)):
        with av.open(str(tmp_path / f"{name}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=24, options={"preset": "ultrafast"})
            stream.width, stream.height, stream.pix_fmt = 3840, 2160, "yuv420p"
            one = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="yuv420p")
            for number in range(count):
                one.pts = number
                container.mux(stream.encode(one))
            container.mux(stream.encode())
    answer = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, check=True
    )
    short, long = (int(line) / 1024 for line in answer.stdout.split())
    assert long - short < 50, f"{short:.0f} MB for 12 frames, {long:.0f} MB for 36"

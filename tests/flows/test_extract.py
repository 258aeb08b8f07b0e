"""`extract-frames` as a person types it: a bad video has its line, the others are done, jobs share
the work."""

import json
import shutil
from pathlib import Path

import pytest

from flows.cli import main
from tests.data import lookalikes as like


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    for number in range(4):
        frames = [like.picture(8 * t, (48, 64)) for t in range(9)]
        like.save_video(tmp_path / "videos" / f"v{number}.mp4", frames)
    return tmp_path / "videos"


def extract(videos: Path, *words: object) -> int:
    out = videos.parent / "out"
    return main([str(w) for w in ("extract-frames", "--videos", videos, "--out", out, *words)])


def report(videos: Path) -> dict:
    return json.loads((videos.parent / "out" / "extraction.json").read_text())


def test_broken_videos_are_listed_and_the_others_done(videos, capsys):
    (videos / "v1.mp4").write_bytes(b"")
    (videos / "v2.mp4").write_bytes((videos / "v2.mp4").read_bytes()[:900])
    assert extract(videos, "--workers", 1) == 2
    said = capsys.readouterr()
    assert "6 frames of 2 videos" in said.out
    lines = said.err.splitlines()
    assert [line.startswith("error: ") for line in lines] == [True] * 3
    assert "v1.mp4 is empty" in lines[0] and "v2.mp4" in lines[1]
    assert lines[2] == "error: 2 of 4 videos failed"
    assert [Path(item["video"]).name for item in report(videos)["failed"]] == ["v1.mp4", "v2.mp4"]
    like.save_video(videos / "v1.mp4", [like.picture(0, (48, 64))])
    (videos / "v2.mp4").unlink()
    assert extract(videos, "--workers", 1) == 0
    assert (report(videos)["extracted"], report(videos)["reused"]) == (1, 2)


def test_jobs_share_the_videos(videos):
    assert extract(videos, "--jobs", 2, "--launcher", "local", "--fps", 12, "--long-side", 32) == 0
    assert (report(videos)["videos"], report(videos)["frames"]) == (4, 20)
    jobs = videos.parent / "out" / ".jobs"
    assert sorted(path.name for path in jobs.glob("*-of-*")) == ["1-of-2", "2-of-2"]
    assert extract(videos, "--fps", 12, "--long-side", 32, "--workers", 1) == 0
    assert report(videos)["reused"] == 4


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--every", "0"], "every=0"),
        (["--fps", "2", "--every", "3"], "--fps"),
        (["--short-side", "9", "--long-side", "9"], "--long-side"),
        (["--jobs", "0"], "--jobs 0"),
        (["--jobs", "2", "--launcher", "inline"], "--launcher local or slurm"),
        (["--slurm", "partition=cpu"], "--launcher"),
        (["--launcher", "slurm", "--slurm", "partitoin=cpu"], "did you mean 'partition'"),
        (["--annotations", "nowhere"], "nowhere"),
    ],
)
def test_misuse_is_one_line(videos, words, told, capsys):
    assert extract(videos, "--workers", 1, *words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and told in lines[0]


def test_shards_forget_what_has_to_be_looked_at_again(videos):
    """A video that was broken or is another now, and frames that were deleted, are extracted by the
    same command."""
    whole = (videos / "v1.mp4").read_bytes()
    (videos / "v1.mp4").write_bytes(b"")
    assert extract(videos, "--jobs", 2, "--workers", 1) == 2
    (videos / "v1.mp4").write_bytes(whole)
    shutil.rmtree(videos.parent / "out" / "v2")
    assert extract(videos, "--jobs", 2, "--workers", 1) == 0
    assert len(list((videos.parent / "out").glob("v*/*.jpg"))) == 12
    like.save_video(videos / "v0.mp4", [like.picture(8 * t, (48, 64)) for t in range(5)])
    assert extract(videos, "--jobs", 2, "--workers", 1) == 0
    assert len(list((videos.parent / "out").glob("v*/*.jpg"))) == 11

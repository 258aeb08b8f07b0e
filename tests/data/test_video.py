"""Videos as cameras make them: turned, of uneven rate, trimmed, without times, broken."""

import cv2
import numpy as np
import pytest

from data.extract import ExtractOptions, extract_frames
from pipeline.errors import DataError
from pipeline.pictures import read_rgb
from pipeline.video import frame_times, frame_total, iterate_frames, numbers_at_rate, read_frames
from tests.data import films
from tests.data import lookalikes as like


def coarse(picture: np.ndarray) -> list[list[tuple[int, ...]]]:
    """The colours of the four corners, 0 or 1 a channel."""
    return [[tuple((picture[y, x] > 127).astype(int)) for x in (4, -5)] for y in (4, -5)]


RED, GREEN, BLUE, BLACK = (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0)
SHOWN = {
    "none": [[RED, GREEN], [BLUE, BLACK]],
    "quarter clockwise": [[BLUE, RED], [BLACK, GREEN]],
    "half": [[BLACK, BLUE], [GREEN, RED]],
    "quarter counter-clockwise": [[GREEN, BLACK], [RED, BLUE]],
    "mirrored": [[GREEN, RED], [BLACK, BLUE]],
    "upside down mirrored": [[BLUE, BLACK], [RED, GREEN]],
    "quarter and mirrored": [[RED, BLUE], [GREEN, BLACK]],
}


@pytest.mark.parametrize("turn", films.TURNS)
def test_frames_are_upright_everywhere(tmp_path, turn):
    """Streamed, by number, and extracted: the same pixels, as players show them."""
    video = films.turned(tmp_path / "phone.mp4", turn)
    streamed = next(iterate_frames(video))
    assert coarse(streamed) == SHOWN[turn]
    np.testing.assert_array_equal(read_frames(video, [2])[0], list(iterate_frames(video))[2])
    extract_frames(video, tmp_path / "out", ExtractOptions(every=1))
    assert coarse(read_rgb(tmp_path / "out" / "00000.jpg")) == SHOWN[turn]
    if "mirrored" not in turn:  # which OpenCV does not look at
        ok, theirs = cv2.VideoCapture(str(video)).read()
        assert ok
        np.testing.assert_array_equal(theirs[..., ::-1], streamed)


def brightness(path) -> int:
    return round(float(read_rgb(path).mean()) / 8)


def test_uneven_times(tmp_path):
    """A number is a rank; `fps` takes what is on the screen at each tick, each frame once."""
    times = [0.0, 0.04, 0.08, 0.5, 1.2, 1.24, 1.9, 2.0, 2.04]
    video = films.uneven(tmp_path / "screen.mp4", times)
    np.testing.assert_allclose(frame_times(video), times, atol=1e-3)
    extract_frames(video, tmp_path / "ranks", ExtractOptions(every=4))
    assert {p.name: brightness(p) for p in (tmp_path / "ranks").glob("*.jpg")} == {
        "00000.jpg": 0,
        "00004.jpg": 4,
        "00008.jpg": 8,
    }
    report = extract_frames(video, tmp_path / "ticks", ExtractOptions(fps=2))
    assert (report.frames, report.decoded) == (4, 9)
    assert {p.name: brightness(p) for p in (tmp_path / "ticks").glob("*.jpg")} == {
        f"{number:05d}.jpg": number for number in (0, 3, 5, 7)
    }
    assert extract_frames(video, tmp_path / "ticks", ExtractOptions(fps=2)).reused


def test_a_rate_above_that_of_the_video_keeps_every_frame_once():
    assert numbers_at_rate(np.arange(5) / 24, fps=100) == [0, 1, 2, 3, 4]
    assert numbers_at_rate(np.arange(24) / 24, fps=6) == [0, 4, 8, 12, 16, 20]
    assert numbers_at_rate(np.array([0.0]), fps=6) == [0]


def test_a_trimmed_video_is_not_taken_for_a_truncated_one(tmp_path):
    """Its header counts the frames that an edit list hides."""
    full = like.save_video(tmp_path / "full.mp4", [like.picture(8 * t) for t in range(30)])
    video = films.cut_at_the_front(tmp_path / "trimmed.mp4", full, 9)
    frames = list(iterate_frames(video))
    assert len(frames) == frame_total(video) == 21
    np.testing.assert_array_equal(frames[0], read_frames(video, [0])[0])
    assert np.abs(frames[0].astype(int) - like.picture(72)).mean() < 8


@pytest.mark.parametrize("name", ["clip.avi", "clip.mkv", "clip.ts", "clip.h264"])
def test_other_containers_by_number(tmp_path, name):
    """AVI and raw streams have no times for reordered frames; there frames are counted."""
    frames = [np.full((48, 64, 3), 8 * t, np.uint8) for t in range(20)]
    video = like.save_video(tmp_path / name, frames)
    assert frame_total(video) == 20
    found = [round(float(frame.mean()) / 8) for frame in read_frames(video, [0, 7, 13, 19])]
    assert found == [0, 7, 13, 19]


def test_a_file_without_pictures(tmp_path):
    with pytest.raises(DataError, match=r"sound\.mp4 holds no video stream \(found audio\)"):
        next(iterate_frames(films.sound_only(tmp_path / "sound.mp4")))


def test_a_matroska_file_that_breaks_off(tmp_path):
    """It counts no frames; its length says that some are missing."""
    video = like.save_video(tmp_path / "long.mkv", [like.picture(t) for t in range(60)])
    video.write_bytes(video.read_bytes()[: video.stat().st_size * 2 // 3])
    with pytest.raises(
        DataError, match=r"long\.mkv is truncated: found .* seconds, expected the 2"
    ):
        list(iterate_frames(video))

"""Frames from folders, files and arrays: in any order the same, and named where they are broken."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from model import frames as module
from model.frames import open_frames
from pipeline.errors import DataError
from tests.model.videos import noise


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 frames of 48 x 64 whose brightness is their number, a key frame every 10."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream: Any = container.add_stream("libx264", rate=24, options={"crf": "1", "g": "10"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(40):
            picture = np.full((48, 64, 3), 5 * number + 20, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def numbers(found: Iterator[NDArray[np.uint8]]) -> list[int]:
    return [round((float(frame.mean()) - 20) / 5) for frame in found]


@pytest.mark.parametrize("room", [8, 1000])
def test_a_video_file_in_any_order(film: Path, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_BYTES", room * 48 * 64 * 3)
    frames = open_frames(film)
    assert (len(frames), frames.size) == (40, (48, 64))
    in_order = [frames[t].copy() for t in range(40)]
    assert numbers(iter(in_order)) == list(range(40))
    groups = [t for first in range(36, -1, -4) for t in range(first, first + 4)]
    jumps = [0, 39, 3, 17, 16, 15, 38, 2]
    for order in (groups, jumps, list(range(39, -1, -1)), list(range(20, 40))):
        for t in order:
            assert np.array_equal(frames[t], in_order[t]), (order, t)


def test_reading_backwards_decodes_a_film_a_few_times_only(
    film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    stream = module.iterate_from

    def spy(path: Path, first: int) -> Iterator[NDArray[np.uint8]]:
        for frame in stream(path, first):
            decoded.append(first)
            yield frame

    monkeypatch.setattr(module, "iterate_from", spy)
    monkeypatch.setattr(module, "KEPT_BYTES", 20 * 48 * 64 * 3)
    frames = open_frames(film)
    for t in range(39, -1, -1):
        assert frames[t] is not None
    assert len(decoded) <= 60


def test_a_video_file_that_ends_early(film: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(film.read_bytes()[: film.stat().st_size * 4 // 5])
    with pytest.raises(DataError, match=r"cut\.mp4 is truncated: found \d+ frames, expected 40"):
        open_frames(cut)


def test_a_damaged_frame_of_a_video_file_is_named(
    film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: Path, first: int) -> Iterator[NDArray[np.uint8]]:
        yield from (np.zeros((48, 64, 3), np.uint8) for _ in range(7))
        raise DataError(f"{path}: damaged")

    frames = open_frames(film)
    monkeypatch.setattr(module, "iterate_from", broken)
    monkeypatch.setattr(module, "AHEAD", 8)
    with pytest.raises(DataError, match=r"film\.mp4: frame 37 cannot be read: .*damaged"):
        for t in range(30, 40):
            assert frames[t] is not None


@pytest.mark.parametrize(
    "names", [["9.jpg", "10.PNG", "00011.jpeg"], ["a1.png", "b0.png", "c.png"]]
)
def test_a_folder_of_pictures(tmp_path: Path, names: list[str]) -> None:
    for value, name in enumerate(names):
        Image.new("RGB", (32, 24), (80 * value,) * 3).save(tmp_path / name)
    (tmp_path / ".hidden.jpg").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no picture")
    frames = open_frames(str(tmp_path))
    assert (len(frames), frames.size) == (3, (24, 32))
    assert [int(frames[t].mean()) for t in (2, 0, 1)] == [160, 0, 80]


def test_a_broken_picture_and_one_of_another_size(tmp_path: Path) -> None:
    for t in range(4):
        Image.new("RGB", (32, 24)).save(tmp_path / f"{t}.png")
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:40])
    Image.new("RGB", (30, 24)).save(tmp_path / "3.png")
    frames = open_frames(tmp_path)
    assert frames[1].shape == (24, 32, 3)
    with pytest.raises(DataError, match=r"2\.png is not a whole picture"):
        frames[2]
    with pytest.raises(DataError, match=r"3\.png \(frame 3\) is 24 x 30"):
        frames[3]


@pytest.mark.parametrize("kind", [list, np.stack, lambda f: torch.from_numpy(np.stack(f)), tuple])
def test_arrays(kind: Any) -> None:
    given = noise(3)
    frames = open_frames(kind(given))
    assert (len(frames), frames.size) == (3, (40, 60))
    assert np.array_equal(frames[2], given[2])
    assert len(list(frames)) == 3  # type: ignore[call-overload]
    assert open_frames(frames) is frames


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ([], "the given frames are none"),
        (np.zeros((2, 4, 4, 3), np.float32), r"frame 0 of the given frames is float32 \[4, 4, 3\]"),
        (np.zeros((4, 4, 3), np.uint8), r"frame 0 of the given frames is uint8 \[4, 3\]"),
        (7, "a video cannot be a int"),
        ("/nowhere/at/all.mp4", r"all\.mp4 does not exist"),
    ],
)
def test_no_video(source: Any, named: str) -> None:
    with pytest.raises(DataError, match=named):
        open_frames(source)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no pictures"):
        open_frames(tmp_path)


def test_a_list_with_a_frame_of_another_size() -> None:
    frames = open_frames([*noise(2), np.zeros((4, 4, 3), np.uint8)])
    with pytest.raises(DataError, match="frame 2 of the given frames is 4 x 4"):
        frames[2]

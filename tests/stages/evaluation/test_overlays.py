"""Masks on pictures, and films a browser plays."""

import av
import numpy as np
import pytest
from PIL import Image

from pipeline.errors import DataError
from stages.evaluation import media
from stages.evaluation.media import data_url, picture_url, write_video
from stages.evaluation.overlays import Shown, colour, film, panel, strip


def clip(frames: int = 4, height: int = 24, width: int = 40) -> Shown:
    rng = np.random.default_rng(0)
    masks = np.zeros((frames, 2, height, width), bool)
    masks[:, 0, 4:14, 4:14] = True
    masks[:, 1, 10:20, 20:34] = True
    pictures = rng.integers(80, 120, (frames, height, width, 3), np.uint8)
    return Shown("clip", pictures, masks, {"before": masks[::-1], "after": masks})


def test_panel_tints_objects_and_dims_the_rest():
    shown = clip()
    frame = shown.frames[0].copy()
    picture = panel(frame, shown.truth[0], height=96)
    assert picture.shape == (96, 160, 3)
    assert (frame == shown.frames[0]).all()
    inside = picture[36, 36].astype(int)
    assert np.abs(inside - (np.array(colour(0)) + 100) // 2).max() < 25
    assert picture[90, 5].mean() < 75
    plain = panel(frame, height=24)
    assert (plain == frame).all()


def test_colours_repeat_after_the_palette():
    assert colour(0) == colour(8)
    assert len({colour(i) for i in range(8)}) == 8


def test_overlapping_and_empty_masks_are_drawn():
    masks = np.ones((3, 20, 20), bool)
    masks[2] = False
    assert panel(np.zeros((20, 20, 3), np.uint8), masks, masks, height=40).shape == (40, 40, 3)


def test_strip_has_a_row_for_each_answer():
    low, high = strip(clip(), columns=3, height=40), strip(clip(), columns=3, height=60)
    assert high.shape[0] - low.shape[0] == 3 * 20
    assert strip(clip(2), columns=6, height=40).shape[1] < low.shape[1]


def test_film_holds_short_clips_and_has_even_sides():
    frames = list(film([clip(3), clip(5, 30, 41)], height=45, title="held out"))
    assert len(frames) == 5
    assert all(frame.shape == frames[0].shape for frame in frames)
    assert frames[0].shape[0] % 2 == 0
    assert frames[0].shape[1] % 2 == 0


def test_mp4_plays(tmp_path):
    frames = [np.full((32, 48, 3), value, np.uint8) for value in (0, 120, 240)]
    path = write_video(frames, tmp_path / "new" / "film.mp4", fps=12)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert [round(float(frame.mean()), -1) for frame in decoded] == [0, 120, 240]
    assert data_url(path).startswith("data:video/mp4;base64,")


def test_gif_where_there_is_no_encoder(tmp_path, monkeypatch):
    monkeypatch.setattr(media, "_has_h264", lambda: False)
    frames = [np.full((32, 48, 3), value, np.uint8) for value in (0, 120, 240)]
    path = write_video(frames, tmp_path / "film.mp4")
    assert path.suffix == ".gif"
    assert Image.open(path).n_frames == 3


def test_films_that_cannot_be(tmp_path):
    with pytest.raises(DataError, match="no frames to write"):
        write_video([], tmp_path / "film.mp4")
    with pytest.raises(DataError, match="31x20 pixels; h264 wants even sides"):
        write_video([np.zeros((20, 31, 3), np.uint8)], tmp_path / "film.mp4")
    assert not list(tmp_path.iterdir())


def test_picture_url():
    assert picture_url(np.zeros((4, 4, 3), np.uint8)).startswith("data:image/jpeg;base64,")

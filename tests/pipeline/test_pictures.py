"""Pictures as people meet them: turned, 16-bit, transparent."""

from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.pictures import read_rgb

ORIENTATION = 0x0112


def test_upright_follows_the_orientation_tag(tmp_path: Path):
    lying = np.zeros((40, 60, 3), np.uint8)
    lying[:20] = 200  # the upper half, which the tag says is the right one
    tags = Image.Exif()
    tags[ORIENTATION] = 6
    Image.fromarray(lying).save(tmp_path / "a.png", exif=tags)
    assert np.array_equal(read_rgb(tmp_path / "a.png"), lying)
    assert np.array_equal(read_rgb(tmp_path / "a.png", upright=True), np.rot90(lying, -1))


def test_sixteen_bit_grey_keeps_its_shades(tmp_path: Path):
    grey = np.linspace(0, 65535, 40 * 60).reshape(40, 60).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    read = read_rgb(tmp_path / "a.png")
    assert read.dtype == np.uint8 and np.array_equal(read[..., 1], grey >> 8)


def test_transparency_is_dropped(tmp_path: Path):
    colours = np.full((8, 8, 4), (10, 20, 30, 0), np.uint8)
    Image.fromarray(colours, "RGBA").save(tmp_path / "a.png")
    assert (read_rgb(tmp_path / "a.png") == (10, 20, 30)).all()

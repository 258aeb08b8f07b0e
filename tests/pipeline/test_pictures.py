"""Pictures as people meet them: turned, 16-bit, transparent."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import DataError
from pipeline.pictures import open_picture, read_rgb

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


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "CMYK", "RGBA"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str):
    shades = np.zeros((16, 16, 3), np.uint8)
    shades[4:12, 4:12] = 255
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.fromarray(shades).convert(mode).save(path, **({"quality": 100} if mode == "CMYK" else {}))
    read = read_rgb(path)
    assert (read.shape, read.dtype) == ((16, 16, 3), np.uint8)
    assert np.abs(read.astype(int) - shades).max() <= 8


def test_sixteen_bit_colours_keep_their_shades(tmp_path: Path):
    import cv2

    deep = np.full((8, 8, 3), (256 * 10, 256 * 20, 256 * 30), np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), deep[..., ::-1])
    assert (read_rgb(tmp_path / "a.png") == (10, 20, 30)).all()


def test_a_picture_that_claims_billions_of_pixels(tmp_path: Path):
    Image.new("1", (30_000, 30_000)).save(tmp_path / "bomb.png")
    with pytest.raises(DataError, match=r"bomb\.png claims more pixels"):
        read_rgb(tmp_path / "bomb.png")


def test_a_picture_that_is_cut_off_or_none(tmp_path: Path):
    path = tmp_path / "a.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(
        DataError, match=r"a\.jpg is not a whole picture .*; fetch or extract it again"
    ):
        read_rgb(path)
    with pytest.raises(DataError, match="x is not a whole picture"):
        open_picture(b"<html>", "x")
    with pytest.raises(DataError, match=r"b\.jpg cannot be read .*, expected a file"):
        read_rgb(tmp_path / "b.jpg")

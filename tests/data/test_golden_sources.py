"""What our readers find, against what the reference's readers found in the same files."""

import io
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.sources import open_dataset
from data.spec import DatasetSpec
from tests.data import lookalikes as like
from tests.golden.reader import Golden


@pytest.fixture(scope="module")
def golden() -> Golden:
    return Golden("n_datasets.npz")


def crc(mask: np.ndarray) -> int:
    return zlib.crc32(np.packbits(mask).tobytes())


@pytest.mark.parametrize("kind", ["manual", "auto"])
def test_sav_masklets(golden, shared_dir, kind):
    """Columns: frame, object, area, x0, y0, x1, y1, checksum of the mask."""
    spec = DatasetSpec(format="sav", root=str(shared_dir / "data/sav"), annotations=kind)
    dataset = open_dataset(spec)
    numbers = list(dataset.frame_numbers(0))
    assert (len(numbers), numbers[:5], numbers[-1]) == (121, [0, 4, 8, 12, 16], 480)
    rows = golden.array(f"json_{kind}/frame_obj_area_x0y0x1y1_crc")
    for frame in sorted(set(rows[:, 0].tolist())):
        position = numbers.index(frame)
        expected = rows[rows[:, 0] == frame]
        objects = expected[:, 1].tolist()
        masks = dataset.masks(0, position, objects, (848, 480))
        for mask, row in zip(masks, expected, strict=True):
            ys, xs = np.nonzero(mask)
            box = [xs.min(), ys.min(), xs.max(), ys.max()] if len(xs) else row[3:7].tolist()
            assert [int(mask.sum()), *box, crc(mask)] == row[2:].tolist()
        visible = [i for i, area in expected[:, 1:3].tolist() if area]
        assert list(dataset.visible(0, position)) == visible


def test_absent_masklets_are_empty_whether_null_or_zeros(golden, shared_dir, tmp_path):
    """The reference passes null on; ours makes it an absent object."""
    content = json.loads((shared_dir / "data/sav/sav_000001_manual.json").read_text())
    areas = golden.meta["results"]["none"]["load4"]
    content["masklet"][1][2] = None
    content["masklet"][3] = [None] * 5
    folder = tmp_path / "sav_000"
    folder.mkdir()
    (folder / "sav_000001_manual.json").write_text(json.dumps(content))
    frames = tmp_path / "frames"
    for number in range(0, 484, 4):
        like.save(frames / f"sav_000001/{number:05d}.jpg", np.zeros((848, 480, 3), np.uint8))
    spec = DatasetSpec(format="sav", root=str(tmp_path), frames=str(frames))
    dataset = open_dataset(spec)
    masks = dataset.masks(0, 1, range(5), (848, 480))
    found = {str(i): int(mask.sum()) for i, mask in enumerate(masks)}
    assert found["2"] == 0
    assert {i: n for i, n in found.items() if i in "14"} == {i: areas[i] for i in "14"}
    assert dataset.visible(0, 3) == ()


def test_sa1b(golden, tmp_path):
    """Annotations of no area are left out; the rest keep their order."""
    (tmp_path / "sa_17.jpg").write_bytes(golden.array("sa1b/jpeg").tobytes())
    (tmp_path / "sa_17.json").write_text(str(golden.array("sa1b/json")))
    dataset = open_dataset(DatasetSpec(format="sa1b", root=str(tmp_path)))
    expected = golden.meta["results"]["sa1b_default"]
    ids = dataset.visible(0, 0)
    masks = dataset.masks(0, 0, ids, (60, 80))
    assert [int(mask.sum()) for mask in masks] == expected["areas"]
    assert [crc(mask) for mask in masks] == expected["crc"]
    largest = DatasetSpec(format="sa1b", root=str(tmp_path), max_area=0.15)
    chosen = open_dataset(largest).load(0)
    assert (
        chosen.masks.sum(axis=(0, 2, 3)).tolist() == golden.meta["results"]["sa1b_area.15"]["areas"]
    )


@pytest.fixture
def palette(golden, tmp_path) -> Path:
    ends = np.cumsum(golden.array("palette/jpeg_sizes")).tolist()
    raw = golden.array("palette/jpegs").tobytes()
    labels = golden.array("palette/labels")
    for number, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        picture = np.asarray(Image.open(io.BytesIO(raw[start:end])).convert("RGB"))
        like.save(tmp_path / f"JPEGImages/vid/{number:05d}.png", picture)
        like.save(
            tmp_path / f"Annotations/vid/{number:05d}.png", labels[number], like.CLOSE_PALETTE
        )
    return tmp_path


def test_palette_pictures(golden, palette):
    dataset = open_dataset(DatasetSpec(format="davis", root=str(palette)))
    expected = golden.meta["results"]["png_palette"]
    assert list(dataset.frame_numbers(0)) == expected["frames"]
    for position in (0, 5):
        areas = {int(i): n for i, n in expected[f"f{position}"].items()}
        ids = dataset.visible(0, position)
        assert ids == tuple(sorted(areas))
        masks = dataset.masks(0, position, ids, (60, 80))
        assert {i: int(mask.sum()) for i, mask in zip(ids, masks, strict=True)} == areas

"""Run-length masks: exact both ways, and broken ones are refused before C code sees them."""

import json

import numpy as np
import pytest
from pycocotools import mask as coco

from pipeline import rle
from pipeline.errors import DataError


def masks(seed: int = 0, count: int = 6, size: tuple[int, int] = (37, 53)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    out = rng.random((count, *size)) < rng.uniform(0.05, 0.95, (count, 1, 1))
    out[0], out[1] = False, True
    out[2] = False
    out[2, 10:30, 5:40] = True
    return out


def test_masks_are_drawn_into_what_is_given():
    """Only where they lie: the rest of a large array of zeros never takes memory."""
    truth = masks()
    square = [[4.0, 4.0, 12.0, 4.0, 12.0, 10.0, 4.0, 10.0]]
    for mask in truth:
        out = np.zeros(mask.shape, bool)
        assert rle.decode(rle.encode(mask), mask.shape, out=out) is out
        np.testing.assert_array_equal(out, mask)
    out = np.zeros(truth[0].shape, bool)
    assert rle.decode_polygons(square, out.shape, out=out) is out
    np.testing.assert_array_equal(out, rle.decode_polygons(square, out.shape))
    assert rle.decode(None, out.shape, out=out) is out
    out = np.ones(truth[2].shape, bool)
    rle.decode(rle.encode(truth[2]), out.shape, out=out)
    assert out.all(), "nothing but the mask was written"


def test_round_trip_through_json():
    truth = masks()
    stored = json.loads(json.dumps(rle.encode_many(truth)))
    assert [m["size"] for m in stored] == [[37, 53]] * len(truth)
    for mask, back in zip(truth, stored, strict=True):
        np.testing.assert_array_equal(rle.decode(back, (37, 53)), mask)
        assert rle.area(back) == mask.sum()
    assert rle.encode(truth[3]) == stored[3]
    assert rle.bbox(stored[2]) == (5.0, 10.0, 35.0, 20.0)
    assert rle.bbox(stored[0]) == (0.0, 0.0, 0.0, 0.0)
    assert rle.encode_many(truth[:0]) == []


def test_run_lengths_are_those_of_the_mask():
    for mask in masks(3, 12, (61, 44)):
        flat = mask.T.ravel()
        changes = np.flatnonzero(np.diff(flat.astype(int))) + 1
        runs = np.diff(np.concatenate([[0], changes, [flat.size]]))
        if flat[0]:
            runs = np.concatenate([[0], runs])
        np.testing.assert_array_equal(rle.run_lengths(rle.encode(mask)["counts"]), runs)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (5, 8)])
def test_arrays_of_any_shape_and_order_are_encoded(size):
    plain = masks(4, 3, (40, 40))[:, : size[0], : size[1]]
    expected = coco.encode(np.asfortranarray(plain.transpose(1, 2, 0).astype(np.uint8)))
    for same in (plain, np.asfortranarray(plain), plain.astype(np.uint8), plain[:, ::-1][:, ::-1]):
        assert [m["counts"].encode() for m in rle.encode_many(same)] == [
            m["counts"] for m in expected
        ]


def test_absent_object_and_uncompressed_runs():
    assert not rle.decode(None, (4, 5)).any()
    with pytest.raises(DataError, match="null"):
        rle.decode(None)
    mask = rle.decode({"size": [2, 3], "counts": [1, 2, 3]})
    np.testing.assert_array_equal(mask, [[False, True, False], [True, False, False]])


def test_polygons():
    mask = rle.decode_polygons([[2, 2, 8, 2, 8, 6, 2, 6], [12, 1, 14, 1, 14, 3, 12, 3]], (10, 20))
    assert mask[2:6, 2:8].all() and mask[1:3, 12:14].all()
    assert mask.sum() == 24 + 4
    with pytest.raises(DataError, match="three x, y pairs"):
        rle.decode_polygons([[1, 2, 3, 4]], (10, 20), where="a.json")


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"size": [4, 4]}, "expected"),
        ({"size": 4, "counts": "0"}, "expected"),
        ({"size": [0, 4], "counts": "0"}, "size 0x4"),
        ({"size": [4, 4], "counts": [3, 14]}, "cover 17 pixels"),
        ({"size": [4, 4], "counts": [-3, 19]}, "broken"),
        ({"size": [4, 4], "counts": "~~~"}, "broken"),
        ({"size": [4, 4], "counts": "oooo"}, "broken"),
        ({"size": [4, 4], "counts": "ooooooooooooo0"}, "broken"),
        ({"size": [4, 4], "counts": ""}, "cover 0 pixels"),
        ({"size": [4, 4], "counts": "\u00e9"}, "broken"),
    ],
)
def test_broken_masks_are_refused(broken, message):
    with pytest.raises(DataError, match=message) as caught:
        rle.decode(broken, where="sav_000001_manual.json: masklet[3][1]")
    assert str(caught.value).startswith("sav_000001_manual.json: masklet[3][1]")


def test_mask_of_another_size_is_refused():
    with pytest.raises(DataError, match="37x53"):
        rle.decode(rle.encode(masks()[3]), (53, 37), where="a.json")


def test_real_masklets(shared_dir):
    """The SA-V example: our decoding is pycocotools', run by run."""
    data = json.loads((shared_dir / "data" / "sav" / "sav_000001_manual.json").read_text())
    for stored in data["masklet"][0] + data["masklet"][60]:
        runs = rle.run_lengths(stored["counts"])
        raw = coco.decode({"size": stored["size"], "counts": stored["counts"].encode()})
        assert runs.sum() == 848 * 480 and runs[1::2].sum() == raw.sum()
        np.testing.assert_array_equal(rle.decode(stored, (848, 480)), raw.astype(bool))
        assert rle.encode(raw.astype(bool)) == stored

"""The fast way against the exact one, for the same draws."""

import cv2
import numpy as np
import pytest
from PIL import Image

from data.augment import augment_clip, change_clip
from data.changes import ClipChange, FrameChange, Geometry, Shades, draw_changes
from data.exact import change_exactly
from data.settings import Augment, Jitter
from data.types import Clip
from tests.data.test_augment import overlap, scene

PLAIN = (Geometry(), Geometry(flip=True))
TURNED = tuple(
    Geometry(flip=bool(n % 2), rotate=angle, shear=shear)
    for n, (angle, shear) in enumerate([(13.7, -11.3), (-24, 4), (3, 19)])
)
ZOOMED = (Geometry(scale=1.2, shift=(0.08, -0.1)), Geometry(scale=0.8, shift=(-0.1, 0.05)))


def both(clip, geometry, side, **fields):
    change = ClipChange(tuple(FrameChange(geometry, **fields) for _ in clip.frames))
    return change_clip(clip, change, side), change_exactly(clip, change, side)


def psnr(a, b):
    return 10 * np.log10(255**2 / max(((a.astype(float) - b) ** 2).mean(), 1e-6))


@pytest.fixture(params=["dog", "goat", "cows"])
def davis(request, shared_dir):
    """A real frame of 854x480 pixels; grass and fur, the hardest case, on cows."""
    root, name = shared_dir / "data/davis", f"480p/{request.param}/00010"
    frame = np.asarray(Image.open(root / f"JPEGImages/{name}.jpg").convert("RGB"))
    mask = np.asarray(Image.open(root / f"Annotations/{name}.png")) > 0
    return Clip(request.param, "davis", frame[None], mask[None, None], (1,), (10,))


@pytest.mark.parametrize("side", [256, 1024])
@pytest.mark.parametrize("geometry", PLAIN)
def test_a_plain_resize_is_the_same(davis, geometry, side):
    fast, exact = both(davis, geometry, side)
    assert psnr(fast.frames, exact.frames) > (50 if side == 1024 else 40)
    assert overlap(fast.masks, exact.masks) > (0.999 if side == 1024 else 0.99)


@pytest.mark.parametrize("geometry", [TURNED[0], ZOOMED[1]])
def test_a_turned_clip_is_nearer_to_the_truth(davis, geometry):
    """The truth: the exact way on a picture four times as large. One interpolation loses less than
    two, a mask that is sampled once less than one that was first cut to whole pixels."""
    fast, exact = both(davis, geometry, 1024)
    height, width = davis.masks.shape[2:]
    large = (4 * width, 4 * height)
    frame = Image.fromarray(davis.frames[0]).resize(large, Image.Resampling.BICUBIC)
    mask = cv2.resize(davis.masks[0, 0].astype(np.float32), large) > 0.5
    finer = Clip("finer", "davis", np.asarray(frame)[None], mask[None, None], (1,), (10,))
    truth = change_exactly(finer, ClipChange((FrameChange(geometry),)), 1024)
    assert psnr(fast.frames, truth.frames) > max(42, psnr(exact.frames, truth.frames) + 3)
    assert overlap(fast.masks, truth.masks) > max(0.995, overlap(exact.masks, truth.masks))
    assert psnr(fast.frames, exact.frames) > 35
    assert overlap(fast.masks, exact.masks) > 0.985


@pytest.mark.parametrize("geometry", [*PLAIN, *TURNED, *ZOOMED])
@pytest.mark.parametrize("size", [(90, 160), (300, 200)])
def test_smooth_pictures_are_the_same(geometry, size):
    rows, columns = np.mgrid[: size[0], : size[1]]
    smooth = np.stack([120 + 80 * np.sin(rows / 19), 90 + columns / 3, 60 + rows / 4], -1)
    clip = scene(*size, frames=1)
    clip = Clip("s", "t", smooth.astype(np.uint8)[None], clip.masks, (4, 9), (0,))
    fast, exact = both(clip, geometry, 128)
    inside = np.ones((1, 128, 128), bool)
    if geometry.is_affine:  # the edge of what is filled is sharp
        fill = (np.abs(exact.frames.astype(int) - (123, 116, 103)).max(-1) < 8).astype(np.uint8)
        inside[0] = cv2.dilate(fill[0], np.ones((7, 7), np.uint8)) == 0
    assert psnr(fast.frames[inside], exact.frames[inside]) > 40
    assert overlap(fast.masks, exact.masks) > 0.95


@pytest.mark.parametrize(
    "shades",
    [
        Shades(brightness=1.1),
        Shades(brightness=0.9, contrast=1.05, saturation=0.95),
        Shades((2, 1, 3, 0), brightness=1.08, contrast=0.95, saturation=1.05),
    ],
)
@pytest.mark.parametrize("gray", [False, True])
def test_colours_differ_by_rounding(shades, gray):
    """Away from black and white, where the exact way cuts off in between."""
    clip = scene(96, 96, frames=1)
    frames = (40 + clip.frames * 0.6).astype(np.uint8)
    clip = Clip("s", "t", frames, clip.masks, (4, 9), (0,))
    fast, exact = both(
        clip, Geometry(), 96, shades=shades, gray=gray, frame_shades=Shades(contrast=1.04)
    )
    assert np.abs(fast.frames.astype(int) - exact.frames).max() <= 4


def test_both_ways_keep_the_objects_and_the_draws():
    clip = scene(frames=3)
    settings = {
        "rotate": 25,
        "shear": 20,
        "jitter": Jitter(brightness=0.1),
        "blur": 0.5,
        "mosaic": 0.5,
        "each_frame": ("flip", "affine"),
    }
    for seed in range(12):
        fast, exact = (
            augment_clip(clip, Augment(**settings, exact=e), 64, np.random.default_rng(seed))
            for e in (False, True)
        )
        assert fast.object_ids == exact.object_ids
        assert overlap(fast.masks, exact.masks) > 0.85
        assert psnr(fast.frames, exact.frames) > 22  # thin edges at 64 pixels


def test_exact_mode_leaves_a_clip_unturned_that_would_lose_an_object():
    clip = scene(frames=2)
    masks = np.zeros_like(clip.masks)
    masks[:, 0, 1:4, 1:4] = True
    masks[:, 1, 40:60, 60:90] = True
    corner = Clip("c", "t", clip.frames, masks, (4, 9), (0, 1))
    change = draw_changes(Augment(flip=0, rotate=45), 2, np.random.default_rng(1))
    assert abs(change.frames[0].geometry.rotate) > 15
    plain = ClipChange((FrameChange(), FrameChange()))
    np.testing.assert_array_equal(
        change_exactly(corner, change, 64).frames, change_exactly(corner, plain, 64).frames
    )

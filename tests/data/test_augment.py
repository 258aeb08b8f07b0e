"""Where pixels go, and that masks go with them."""

import numpy as np
import pytest
from PIL import Image

from data.augment import augment_clip, change_clip
from data.changes import Geometry, draw_changes
from data.settings import PLAIN, Augment, Jitter
from data.types import Clip
from data.warp import FILL, render, render_masks
from pipeline.errors import ConfigError

SIDE = 64
STRONG = Augment(rotate=25, shear=20, scale=(0.7, 1.4))


def scene(height=90, width=160, frames=3, seed=0) -> Clip:
    """Smooth ground with two bright ellipses; their masks are where the red channel is bright."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    pictures, masks = [], []
    for t in range(frames):
        ellipses = [
            ((x - cx - 2 * t) / rx) ** 2 + ((y - cy) / ry) ** 2 < 1
            for cx, cy, rx, ry in ((50, 45, 25, 18), (110, 40, 17, 22))
        ]
        ground = np.stack([20 + 0 * x, 60 + x / 2, 60 + y / 2], axis=-1)
        ground[np.logical_or(*ellipses)] = (230, 90, 90)
        pictures.append((ground + rng.uniform(-3, 3, ground.shape)).astype(np.uint8))
        masks.append(ellipses)
    return Clip("scene", "test", np.array(pictures), np.array(masks), (4, 9), tuple(range(frames)))


def overlap(a, b):
    return (a & b).sum() / max(1, (a | b).sum())


@pytest.mark.parametrize("size", [(90, 160), (64, 64), (31, 47), (700, 500)])
@pytest.mark.parametrize("side", [32, 96])
def test_plain_resize_is_an_antialiased_resize(size, side):
    clip = scene(*size, frames=1)
    smooth = Image.fromarray(clip.frames[0]).resize((side, side), Image.Resampling.BILINEAR)
    got = change_clip(clip, draw_changes(PLAIN, 1, np.random.default_rng(0)), side)
    error = np.asarray(smooth).astype(float) - got.frames[0]
    assert 10 * np.log10(255**2 / (error**2).mean()) > 36
    for mask, out in zip(clip.masks[0], got.masks[0], strict=True):
        grey = Image.fromarray(mask.astype(np.float32))
        expected = np.asarray(grey.resize((side, side), Image.Resampling.BILINEAR)) >= 0.5
        assert overlap(expected, out) > 0.97 or expected.sum() + out.sum() < 60


def test_no_change_at_its_own_size_is_exact():
    clip = scene(160, 160)
    got = augment_clip(clip, PLAIN, 160, np.random.default_rng(0))
    np.testing.assert_array_equal(got.frames, clip.frames)
    np.testing.assert_array_equal(got.masks, clip.masks)
    flipped = augment_clip(clip, Augment(flip=1.0), 160, np.random.default_rng(0))
    np.testing.assert_array_equal(flipped.frames, clip.frames[:, :, ::-1])
    np.testing.assert_array_equal(flipped.masks, clip.masks[..., ::-1])


def test_masks_move_with_the_picture():
    """The red of the objects and the union of their masks stay together, whatever the draw."""
    clip = scene()
    for seed in range(25):
        got = augment_clip(clip, STRONG, SIDE, np.random.default_rng(seed))
        fill = np.abs(got.frames.astype(int) - FILL).max(axis=-1) < 4
        red = (got.frames[..., 0] > 125) & ~fill
        for t in range(3):
            assert overlap(red[t], got.masks[t].any(axis=0)) > 0.88, (seed, t)


def test_a_clip_moves_as_one():
    clip = scene(frames=1)
    still = Clip(
        clip.name,
        clip.dataset,
        np.repeat(clip.frames, 4, 0),
        np.repeat(clip.masks, 4, 0),
        (4, 9),
        (0, 1, 2, 3),
    )
    colours = Augment(
        rotate=20, jitter=Jitter(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1), blur=0.5
    )
    for seed in range(5):
        got = augment_clip(still, colours, SIDE, np.random.default_rng(seed))
        assert (got.frames == got.frames[:1]).all()
        assert (got.masks == got.masks[:1]).all()
    jitter = augment_clip(
        still, Augment(frame_jitter=Jitter(brightness=0.3)), SIDE, np.random.default_rng(0)
    )
    assert (jitter.masks == jitter.masks[:1]).all()
    assert len({frame.tobytes() for frame in jitter.frames}) == 4


def test_geometry_takes_known_points_home():
    """Output corners and centre of the plain resize, a flip, a zoom and a quarter turn."""
    width, height = 200, 100
    centre, corner = np.array([32, 32, 1.0]), np.array([0, 0, 1.0])
    for geometry, expected in (
        (Geometry(), (0, 0)),
        (Geometry(flip=True), (200, 0)),
        (Geometry(scale=2.0), (50, 25)),
        (Geometry(scale=2.0, shift=(-0.5, 0.5)), (100, 0)),
        (Geometry(scale=0.5), (-100, -50)),
        (Geometry(shift=(0.25, 0)), (-50, 0)),
        (Geometry(shear=45.0), (-50, 0)),
        (Geometry(rotate=90.0), (50, 150)),
    ):
        matrix = geometry.matrix(width, height, 64)
        np.testing.assert_allclose((matrix @ corner)[:2], expected, atol=1e-9)
        if geometry.shift == (0.0, 0.0):
            np.testing.assert_allclose((matrix @ centre)[:2], (100, 50), atol=1e-9)


def test_objects_are_not_pushed_out_of_the_first_frame():
    clip = scene(frames=2)
    masks = np.zeros_like(clip.masks)
    masks[:, 0, 2:8, 2:8] = True  # in the corner: most turns and zooms lose it
    masks[:, 1, 40:60, 60:90] = True
    corner = Clip(clip.name, clip.dataset, clip.frames, masks, (4, 9), (0, 1))
    wild = Augment(rotate=40, scale=(1.5, 3.0))
    for seed in range(20):
        got = augment_clip(corner, wild, SIDE, np.random.default_rng(seed))
        assert got.object_ids == (4, 9)
        assert got.masks[0].any(axis=(1, 2)).all()


def test_objects_too_small_for_the_model_are_dropped():
    clip = scene(400, 400, frames=2)
    masks = clip.masks.copy()
    masks[:, 0] = False
    masks[:, 0, 200, 200] = True
    got = augment_clip(
        Clip("a", "b", clip.frames, masks, (4, 9), (0, 1)), STRONG, 32, np.random.default_rng(1)
    )
    assert got.object_ids == (9,)
    assert got.masks.shape == (2, 1, 32, 32)


def test_no_objects_is_fine():
    clip = scene(frames=2)
    none = Clip("a", "b", clip.frames, clip.masks[:, :0], (), (0, 1))
    got = augment_clip(none, STRONG, SIDE, np.random.default_rng(0))
    assert got.masks.shape == (2, 0, SIDE, SIDE)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7])
def test_masks_are_sampled_alike_in_groups_and_alone(count):
    masks = np.random.default_rng(0).random((count, 50, 70)) > 0.5
    masks[count // 2] = False
    matrix = Geometry(rotate=10, scale=1.2).matrix(70, 50, 32)
    together = render_masks(masks, matrix, 32)
    alone = [render_masks(mask[None], matrix, 32)[0] for mask in masks]
    assert (together != alone).mean() < 0.005  # of noise, where many pixels lie at one half


@pytest.mark.parametrize(
    "box", [(0, 9, 0, 12), (3, 5, 610, 640), (100, 300, 50, 200), (477, 480, 0, 640)]
)
@pytest.mark.parametrize("side", [40, 300, 900])
@pytest.mark.parametrize(
    "geometry", [Geometry(), Geometry(True, 20.0, -12.0), Geometry(scale=0.4, shift=(0.3, 0.2))]
)
def test_a_mask_is_sampled_where_it_is_as_it_would_be_whole(box, side, geometry):
    top, bottom, left, right = box
    mask = np.zeros((480, 640), bool)
    mask[top:bottom, left:right] = (
        np.random.default_rng(0).random((bottom - top, right - left)) < 0.9
    )
    matrix = geometry.matrix(640, 480, side)
    whole = render(mask.view(np.uint8) * np.uint8(255), matrix, side) >= 128
    part = render_masks(mask[None], matrix, side)[0]
    assert (part != whole).sum() <= 0.02 * whole.sum() + 1  # rounding, of noise near one half


def test_frames_may_change_on_their_own():
    clip = scene(frames=1)
    still = Clip(
        "s", "t", np.repeat(clip.frames, 6, 0), np.repeat(clip.masks, 6, 0), (4, 9), (0,) * 6
    )
    own = Augment(rotate=20, gray=0.5, each_frame=("flip", "affine", "gray"))
    got = augment_clip(still, own, SIDE, np.random.default_rng(2))
    assert len({frame.tobytes() for frame in got.frames}) == 6
    assert len({(frame == frame[..., :1]).all() for frame in got.frames}) == 2
    for frame, masks in zip(got.frames, got.masks, strict=True):
        red = frame[..., 0] > 125
        grey = (frame == frame[..., :1]).all()
        assert grey or overlap(red & (np.abs(frame - FILL).max(-1) > 4), masks.any(axis=0)) > 0.8


def test_an_object_that_appears_later_is_kept():
    clip = scene(frames=3)
    masks = clip.masks.copy()
    masks[0, 1] = False
    late = Clip("a", "b", clip.frames, masks, (4, 9), (0, 1, 2))
    for seed in range(10):
        got = augment_clip(late, STRONG, SIDE, np.random.default_rng(seed))
        assert 4 in got.object_ids
        assert got.masks.any(axis=(0, 2, 3)).all()
    masks[1:, 1] = False
    assert augment_clip(late, STRONG, SIDE, np.random.default_rng(0)).object_ids == (4,)


def test_fine_stripes_do_not_alias():
    stripes = np.zeros((600, 600), np.uint8)
    stripes[:, ::2] = 255
    turned = Geometry(rotate=7).matrix(600, 600, 48)
    out = render(stripes, turned, 48, (128, 128, 128, 128))
    assert np.abs(out.astype(int) - 128).max() < 25


def test_colours():
    clip = scene(SIDE, SIDE, frames=1)

    def changed(**fields):
        return augment_clip(
            clip, Augment(flip=0.0, **fields), SIDE, np.random.default_rng(5)
        ).frames[0]

    grey = changed(gray=1.0)
    assert (grey == grey[..., :1]).all()
    luma = clip.frames[0] @ np.array([0.299, 0.587, 0.114])
    assert np.abs(grey[..., 0] - luma).max() <= 1
    hue = changed(jitter=Jitter(hue=0.3))
    assert np.abs(hue @ np.array([0.299, 0.587, 0.114]) - luma).mean() < 4
    assert np.abs(hue.astype(int) - clip.frames[0]).max() > 20
    ratio = changed(jitter=Jitter(brightness=0.2)).astype(float).mean() / clip.frames[0].mean()
    assert 0.8 <= ratio <= 1.2
    assert ratio != 1
    mean = changed(jitter=Jitter(contrast=0.3)) @ np.array([0.299, 0.587, 0.114])
    assert abs(mean.mean() - luma.mean()) < 2


def test_mosaic_shows_the_clip_four_times_and_its_objects_once():
    clip = scene()
    corners = set()
    for seed in range(25):
        got = augment_clip(clip, Augment(flip=0.0, mosaic=1.0), SIDE, np.random.default_rng(seed))
        quarter = SIDE // 2
        tiles = got.frames.reshape(3, 2, quarter, 2, quarter, 3).swapaxes(2, 3)
        assert (tiles == tiles[:, :1, :1]).all()
        shown = got.masks.reshape(3, 2, 2, quarter, 2, quarter).any(axis=(0, 1, 3, 5))
        assert shown.sum() == 1
        corners.add(int(shown.argmax()))
    assert len(corners) == 4


@pytest.mark.parametrize(
    "fields",
    [{"flip": 2}, {"rotate": -1}, {"scale": (1.2, 0.8)}, {"scale": (0, 1)}, {"translate": 2}],
)
def test_settings_are_checked(fields):
    with pytest.raises(ConfigError, match=f"^{next(iter(fields))} is"):
        Augment(**fields)

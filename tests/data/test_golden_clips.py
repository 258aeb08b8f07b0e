"""Exact mode against the reference's own pixels, and its samples against our sampler."""

import io
import random

import numpy as np
import pytest
import torch
from PIL import Image

from data.changes import ClipChange, FrameChange, Geometry, Shades
from data.exact import affine_masks, affine_picture, change_exactly, grey, resize_masks, shade
from data.sampling import choose
from data.settings import ClipSampling
from data.sources import open_dataset
from data.spec import DatasetSpec
from data.types import Clip
from tests.data import lookalikes as like
from tests.golden.reader import Golden

MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def golden() -> Golden:
    return Golden("n_datasets.npz")


@pytest.fixture(scope="module")
def video(golden) -> tuple[np.ndarray, np.ndarray]:
    """Ten frames of 80x60 pixels and their label maps; objects 1, 4 and 200."""
    ends = np.cumsum(golden.array("palette/jpeg_sizes"))
    raw = golden.array("palette/jpegs").tobytes()
    files = [
        raw[end - size : end] for end, size in zip(ends, np.diff(ends, prepend=0), strict=True)
    ]
    pictures = [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]
    return np.stack(pictures), golden.array("palette/labels")


def test_geometry_is_the_references(golden, video):
    frames, labels = video
    picture, mask = Image.fromarray(frames[0]), labels[:1] == 1
    values = golden.meta["affine"]
    turned = Geometry(rotate=values["angle"], shear=values["shear"][0])
    golden.check("tf/affine_img", np.asarray(affine_picture(picture, turned)), 0)
    golden.check("tf/affine_mask", affine_masks(mask, turned).astype(np.uint8), 0)
    resized = picture.resize((64, 64), Image.Resampling.BILINEAR)
    golden.check("tf/resize_img", np.asarray(resized), 0)
    golden.check("tf/resize_mask", resize_masks(mask, 64)[0].astype(np.uint8), 0)
    golden.check("tf/resize_mask_big", resize_masks(mask, 200)[0].astype(np.uint8), 0)
    flipped = change_exactly(clip_of(video, [0], [1]), one(Geometry(flip=True)), 80)
    expected = resize_masks(golden.array("tf/hflip_mask")[None] > 0, 80)
    np.testing.assert_array_equal(flipped.masks[0], expected)


@pytest.mark.parametrize(
    ("key", "shades"),
    [
        ("brightness1.07", Shades(brightness=1.07)),
        ("contrast.97", Shades(contrast=0.97)),
        ("saturation1.03", Shades(saturation=1.03)),
        ("hue.05", Shades(hue=0.05)),
    ],
)
def test_colours_are_the_references(golden, video, key, shades):
    golden.check(f"tf/{key}", np.asarray(shade(Image.fromarray(video[0][0]), shades)), 0)


def test_grey_and_normalised_pixels_are_the_references(golden, video):
    picture = Image.fromarray(video[0][0])
    golden.check("tf/gray", np.asarray(grey(picture)), 0)
    golden.check("tf/normalize", normalised(video[0][0]), 1e-6)


@pytest.mark.parametrize("seed", [10, 11, 12])
def test_mose_clips_are_the_references(golden, video, seed):
    """The whole chain, given the numbers that the reference's generators draw from this seed."""
    identifiers = golden.array(f"mose/seed{seed}/identifier")
    frames, objects = identifiers[:, 0, 2].tolist(), identifiers[0, :, 1].tolist()
    clip = clip_of(video, frames, objects)
    change = reference_draws(seed, video[1], frames, objects)
    got = change_exactly(clip, change, 64)
    golden.check(f"mose/seed{seed}/masks", got.masks, 0)
    pixels = np.stack([normalised(frame) for frame in got.frames])[:, None]
    golden.check(f"mose/seed{seed}/img_batch", pixels, 1e-6)


def test_reference_samples_are_among_ours(golden, video, tmp_path):
    """Windows of four frames, forward or backward, with objects that are seen on the first."""
    frames, labels = video
    for number, (pixels, label) in enumerate(zip(frames, labels, strict=True)):
        like.save(tmp_path / f"JPEGImages/v/{number:05d}.jpg", pixels)
        like.save(tmp_path / f"Annotations/v/{number:05d}.png", label, like.CLOSE_PALETTE)
    dataset = open_dataset(DatasetSpec(format="davis", root=str(tmp_path)))
    sampling = ClipSampling(frames=4, max_objects=2, reverse=0.5)
    draws = [choose(dataset, 0, sampling, np.random.default_rng(n)) for n in range(1500)]
    ours = {(tuple(draw.positions), tuple(draw.objects)) for draw in draws}
    for sample in golden.meta["results"]["sampler_random_seed5_T4_max2_rev.5"]:
        assert (tuple(sample["frames"]), tuple(sorted(sample["ids"]))) in ours
    for positions, objects in ours:
        steps = set(np.diff(positions))
        assert steps in ({1}, {-1})
        assert set(objects) <= set(np.unique(labels[positions[0]])) - {0}
        assert len(objects) == min(2, len(np.unique(labels[positions[0]])) - 1)


def one(geometry: Geometry) -> ClipChange:
    return ClipChange((FrameChange(geometry),))


def normalised(pixels: np.ndarray) -> np.ndarray:
    return ((pixels.astype(np.float32) / 255 - MEAN) / STD).transpose(2, 0, 1)


def clip_of(video: tuple[np.ndarray, np.ndarray], frames: list[int], objects: list[int]) -> Clip:
    pictures, labels = video
    masks = np.stack([np.stack([labels[t] == i for i in objects]) for t in frames])
    return Clip("v", "palette", pictures[frames], masks, tuple(objects), tuple(frames))


def reference_draws(
    seed: int, labels: np.ndarray, frames: list[int], objects: list[int]
) -> ClipChange:
    """What Python's and torch's generators give the reference's chain, in its order."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    assert rng.randrange(len(labels) - len(frames) + 1) == frames[0]
    rng.uniform(0, 1)  # whether to play backwards: never, here
    present = [i for i in dict.fromkeys(labels[frames[0]].ravel().tolist()) if i]
    assert rng.sample(present, 2) == objects
    flip = rng.random() < 0.5
    angle, shear = (float(torch.empty(1).uniform_(-most, most)) for most in (25, 20))
    rng.choice([64])  # the size to resize to
    whole = drawn_shades(0.1, 0.03, 0.03)
    gray = rng.random() < 0.05
    return ClipChange(
        tuple(
            FrameChange(Geometry(flip, angle, shear), whole, gray, drawn_shades(0.1, 0.05, 0.05))
            for _ in frames
        )
    )


def drawn_shades(*most: float) -> Shades:
    order = tuple(torch.randperm(4).tolist())
    return Shades(order, *(float(torch.empty(1).uniform_(1 - m, 1 + m)) for m in most))

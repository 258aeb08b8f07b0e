"""What the scenes of the synthetic world look like, before any file is written."""

import numpy as np
import pytest

from data.world.direct import clip_scene, picture_scene, present
from data.world.motion import Camera, Stage, moving, still
from data.world.scene import Actor, Scene
from data.world.shapes import FAMILIES
from data.world.spec import ANNOTATED_EVERY, WorldSpec
from data.world.sprites import Sprite, make_sprite
from data.world.textures import PHOTOGRAPHS, photograph

SPEC = WorldSpec(seed=11)


def square(side: int, tone: tuple[float, float, float]) -> Sprite:
    """A plain square with two empty pixels around it."""
    cover = np.zeros((side + 4, side + 4), np.float32)
    cover[2:-2, 2:-2] = 1
    paint = np.concatenate([cover[..., None] * 255 * np.float32(tone), cover[..., None]], 2)
    return Sprite("square", paint, None, np.zeros_like(cover), side * 0.71)


def test_masks_are_exactly_what_can_be_seen():
    """Two squares, the red one behind: each mask is the set of pixels of that colour."""
    stage = Stage(64, 48, 1, 0.0)
    actors = (
        Actor(square(20, (1, 0, 0)), still(25.5, 20.5, 0, 1)),
        Actor(square(20, (0, 1, 0)), still(35.5, 24.5, 0, 1)),
        Actor(square(6, (0, 0, 1)), still(20.5, 20.5, 0, 1), annotated=False),
    )
    camera = Camera(np.ones(1), np.zeros((1, 2)))
    scene = Scene(stage, np.zeros((64, 84, 3), np.uint8), actors, camera, (0.0, 0.0))
    view = scene.view(0)
    red, green, blue = (view.picture == [255 * (k == i) for k in range(3)] for i in range(3))
    np.testing.assert_array_equal(view.masks[0], red.all(-1))
    np.testing.assert_array_equal(view.masks[1], green.all(-1))
    assert blue.all(-1).sum() == 36
    assert view.masks[1].sum() == 400
    assert view.masks[0].sum() == 400 - 10 * 16 - 36
    np.testing.assert_array_equal(scene.visible(0), view.masks.sum((1, 2)))


def test_taking_an_object_away_changes_what_its_mask_covers():
    scene = picture_scene(SPEC, "train", 3)
    view = scene.view(0)
    top = scene.objects[-1]
    rest = tuple(a for i, a in enumerate(scene.actors) if i != top)
    without = Scene(scene.stage, scene.canvas, rest, scene.camera, scene.sunlight).view(0)
    changed = np.abs(view.picture.astype(int) - without.picture).sum(-1) > 0
    assert changed[view.masks[-1]].mean() > 0.95


def test_pictures_have_objects_of_learnable_size():
    sizes, counts = [], []
    for index in range(40):
        masks = present(picture_scene(SPEC, "train", index).view(0).masks)
        seen = masks.any((1, 2))
        counts.append(int(seen.sum()))
        sizes += masks[seen].mean((1, 2)).tolist()
        assert (masks.sum(0) <= 1).all()
    assert min(counts) >= 1 and max(counts) <= 4
    low, middle, high = np.percentile(sizes, [10, 50, 95])
    assert low > 0.02 and 0.05 < middle < 0.15 and high < 0.35


@pytest.mark.parametrize("split", ["train", "val"])
def test_clips_move_hide_and_arrive_late(split):
    """Over many clips: the first mask soon misses its object, some come late, some vanish."""
    overlap, late, gone = [], 0, 0
    for index in range(24):
        scene = clip_scene(SPEC, split, "clip", index)
        frames = range(0, SPEC.frames, ANNOTATED_EVERY)
        seen = np.stack([scene.visible(t) for t in frames]) > 24
        assert seen[0].any() and seen.any(0).any()
        late += int((~seen[0] & seen.any(0)).sum())
        first = seen.argmax(0)
        gone += sum(not seen[first[o] :, o].all() for o in range(seen.shape[1]))
        if index < 8:
            masks = np.stack([scene.view(t).masks for t in frames])
            start = masks[0][None]
            union = (masks[1:] | start).sum((-2, -1))
            overlap += ((masks[1:] & start).sum((-2, -1)) / np.maximum(union, 1)).ravel().tolist()
    assert 0.1 < np.mean(overlap) < 0.5
    assert late > 0 and gone > 0


def test_a_still_world_stands_still():
    spec = WorldSpec(seed=2, motion=0.0, frames=9)
    scene = clip_scene(spec, "train", "clip", 0)
    np.testing.assert_array_equal(scene.view(0).masks, scene.view(8).masks)


@pytest.mark.parametrize("role", ["stay", "late", "leave"])
def test_tracks_cover_every_length(role):
    for frames in (1, 2, 40):
        rng = np.random.default_rng(frames)
        for _ in range(20):
            track = moving(rng, Stage(192, 128, frames, 1.0), 30.0, role)
            assert all(values.shape == (frames,) and np.isfinite(values).all() for values in track)


def test_objects_cover_what_was_asked_for():
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for _ in range(30):
            sprite, _ = make_sprite(rng, split, 1500, [])
            assert 1100 < sprite.paint[..., 3].sum() < 1900
            assert sprite.family in FAMILIES[split]
            assert sprite.paint.min() >= 0 and sprite.paint[..., :3].max() <= 255.001
            assert sprite.paint.dtype == np.float32
            assert sprite.paint[0].max() == 0 and sprite.paint[:, -1].max() == 0


def test_splits_share_no_photograph_and_no_object():
    names = {split: {name for name, _ in found} for split, found in PHOTOGRAPHS.items()}
    assert not names["train"] & names["val"]
    pixels = {
        split: [photograph(split, i)[::7, ::7].tobytes() for i in range(len(found))]
        for split, found in PHOTOGRAPHS.items()
    }
    assert not set(pixels["train"]) & set(pixels["val"])
    figures = {split: set(found) for split, found in FAMILIES.items()}
    assert figures["train"] & figures["val"] == {"blob", "shard", "star", "ring"}
    objects = {
        split: {
            actor.sprite.paint.tobytes()
            for i in range(20)
            for actor in picture_scene(SPEC, split, i).actors
        }
        for split in ("train", "val")
    }
    assert len(objects["train"]) > 40 and not objects["train"] & objects["val"]

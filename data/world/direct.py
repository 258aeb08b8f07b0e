"""Who stands where: draws the scenes of pictures and clips from a random stream."""

from __future__ import annotations

import cv2
import numpy as np

from data.world.motion import Stage, Track, camera, moving, still
from data.world.scene import CANVAS_MARGIN, Actor, Scene
from data.world.shapes import Part
from data.world.spec import ANNOTATED_EVERY, MIN_VISIBLE_PIXELS, Split, WorldSpec
from data.world.sprites import Sprite, cut_sprite, make_sprite
from data.world.textures import background, colour, companion

# A scene in which the objects cannot be seen well enough is staged again, at most so often.
_ATTEMPTS = 20


def scene_stream(seed: int, split: Split, kind: str, index: int) -> np.random.Generator:
    """The random stream of one scene, and of no other, so that scenes can be drawn in any order."""
    kinds = ("picture", "clip", "davis")
    return np.random.default_rng([seed, ("train", "val").index(split), kinds.index(kind), index])


def picture_scene(spec: WorldSpec, split: Split, index: int) -> Scene:
    """The scene of one picture: a clip of a single frame."""
    rng = scene_stream(spec.seed, split, "picture", index)
    stage = Stage(spec.width, spec.height, 1, 0.0)
    canvas, shade = _canvas(rng, split, stage)
    count = int(rng.integers(spec.picture_objects[0], spec.picture_objects[1] + 1))
    sprites = _cast(rng, split, stage, count, shade, (0.035, 0.22 if count < 4 else 0.13))
    pillar = _pillar(rng, split, stage) if rng.random() < 0.1 else None
    view, sunlight = camera(rng, stage), _sunlight(rng, stage)
    for _ in range(_ATTEMPTS):
        tracks = _spread(rng, stage, sprites)
        scene = Scene(stage, canvas, _in_depth(rng, sprites, tracks, pillar), view, sunlight)
        shown = scene.visible(0) / _areas(scene)
        if shown.min() > 0.3 and np.median(shown) > 0.6:
            break
    return scene


def clip_scene(spec: WorldSpec, split: Split, kind: str, index: int) -> Scene:
    """The scene of one clip; something in it can be followed from the first frame on."""
    rng = scene_stream(spec.seed, split, kind, index)
    stage = Stage(spec.width, spec.height, spec.frames, spec.motion)
    canvas, shade = _canvas(rng, split, stage)
    count = int(rng.integers(spec.clip_objects[0], spec.clip_objects[1] + 1))
    sprites = _cast(rng, split, stage, count, shade, (0.045, 0.18))
    if count > 1 and rng.random() < 0.06:
        sprites[1] = sprites[0]  # twins: only where they are tells them apart
    pillar = _pillar(rng, split, stage) if rng.random() < 0.2 else None
    view, sunlight = camera(rng, stage), _sunlight(rng, stage)
    roles = [_role(rng, first=i == 0) for i in range(count)]
    for _ in range(_ATTEMPTS):
        tracks = [moving(rng, stage, s.reach, role) for s, role in zip(sprites, roles, strict=True)]
        scene = Scene(stage, canvas, _in_depth(rng, sprites, tracks, pillar), view, sunlight)
        if _well_staged(scene):
            break
    return scene


def _role(rng: np.random.Generator, first: bool) -> str:
    """What an object does over time; the first of a cast is there from the beginning."""
    chance = rng.random()
    if chance < 0.14:
        return "leave"
    if chance < 0.36 and not first:
        return "late"
    return "stay"


def _canvas(rng: np.random.Generator, split: Split, stage: Stage) -> tuple[np.ndarray, np.ndarray]:
    """The background with room for the camera, uint8 RGB, and its mean colour in 0..1."""
    width, height = (int(side * (1 + 2 * CANVAS_MARGIN)) for side in (stage.width, stage.height))
    picture = background(rng, split, width, height)
    return (picture * 255).astype(np.uint8), picture.mean((0, 1))


def _sunlight(rng: np.random.Generator, stage: Stage) -> tuple[float, float]:
    """Where shadows fall, in pixels."""
    return float(rng.uniform(-0.025, 0.025) * stage.unit), float(
        rng.uniform(0.01, 0.03) * stage.unit
    )


def _cast(
    rng: np.random.Generator,
    split: Split,
    stage: Stage,
    count: int,
    shade: np.ndarray,
    share: tuple[float, float],
) -> list[Sprite]:
    """New objects, each covering a random share of the picture, each of a colour of its own."""
    sprites, avoid = [], [shade]
    for _ in range(count):
        part = float(np.exp(rng.uniform(*np.log(share))))
        sprite, tone = make_sprite(rng, split, part * stage.unit**2, avoid)
        sprites.append(sprite)
        avoid.append(tone)
    return sprites


def _pillar(rng: np.random.Generator, split: Split, stage: Stage) -> Actor:
    """A bar that stands in the way and hides what passes behind it; nobody annotates it."""
    half = rng.uniform(0.05, 0.09) * stage.unit
    length = 0.95 * stage.unit
    bar = np.array([[-half, -length], [half, -length], [half, length], [-half, length]])
    tone = colour(rng, vivid=False)
    side = int(2 * length) + 4
    sprite = cut_sprite(rng, split, "pillar", (Part(bar),), side, (tone, companion(rng, tone)))
    x, y = rng.uniform(0.3, 0.7) * stage.width, stage.height / 2
    return Actor(sprite, still(x, y, rng.uniform(-0.25, 0.25), stage.frames), annotated=False)


def _spread(rng: np.random.Generator, stage: Stage, sprites: list[Sprite]) -> list[Track]:
    """Places for the objects of a picture: each as far from the others as the best of ten tries."""
    taken: list[tuple[np.ndarray, float]] = []
    tracks = []
    for sprite in sprites:
        options = rng.uniform(0.14, 0.86, (10, 2)) * (stage.width, stage.height)
        gaps = [
            min((np.hypot(*(o - p)) / (sprite.reach + r) for p, r in taken), default=1.0)
            for o in options
        ]
        place = options[int(np.argmax(np.minimum(gaps, 0.9)))]
        taken.append((place, sprite.reach))
        x, y = place.tolist()
        tracks.append(still(x, y, rng.uniform(-np.pi, np.pi) * rng.choice([0.12, 1.0]), 1))
    return tracks


def _in_depth(
    rng: np.random.Generator, sprites: list[Sprite], tracks: list[Track], pillar: Actor | None
) -> tuple[Actor, ...]:
    """The actors in a random order from back to front, a pillar before them all."""
    order = rng.permutation(len(sprites))
    actors = [Actor(sprites[i], tracks[i]) for i in order]
    return (*actors, pillar) if pillar else tuple(actors)


def _areas(scene: Scene) -> np.ndarray:
    """Pixels each annotated object would cover if nothing hid it, [O]."""
    return np.array([scene.actors[i].sprite.paint[..., 3].sum() for i in scene.objects])


def _well_staged(scene: Scene) -> bool:
    """Can what is there at the start be seen well, and is every object seen often enough?"""
    frames = range(0, scene.stage.frames, ANNOTATED_EVERY)
    shown = np.stack([scene.visible(t) for t in frames]) / _areas(scene)
    start = shown[0][shown[0] > 0.02]
    often = (shown > 0.25).mean(0)
    return bool(len(start) and start.min() > 0.6 and often.min() >= 0.4)


def present(masks: np.ndarray) -> np.ndarray:
    """The masks [..., H, W] without slivers: fewer than MIN_VISIBLE_PIXELS count as absent."""
    keep = masks.sum((-2, -1)) >= MIN_VISIBLE_PIXELS
    return masks & keep[..., None, None]


def limit_threads() -> None:
    """One OpenCV thread: the pictures are small, and the processes are the parallel part."""
    cv2.setNumThreads(1)

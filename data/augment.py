"""Random changes of a clip, and its way to the model's square.

Flip, turn, shear, zoom and the resize are one matrix, so every frame and mask is warped once,
straight to the output size. Colours change by one matrix as well: the stages are not clipped in
between, which differs from a chain of separate operations only where they would saturate.

Coordinates are continuous: the centre of the first pixel is (0.5, 0.5), the picture ends at (W, H).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from data.spec import Augment
from data.types import Clip

FILL = (124, 116, 104)
"""What lies outside the picture: the ImageNet mean, which is 0 after normalisation."""

PREFILTER_FROM = 1.4
"""Source pixels per output pixel above which bilinear sampling would skip pixels and alias."""

LUMA = np.array([0.299, 0.587, 0.114])
TO_YIQ = np.array([LUMA, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
FROM_YIQ = np.linalg.inv(TO_YIQ)


@dataclass(frozen=True)
class Geometry:
    """One draw of where things go, independent of the picture's size."""

    flip: bool = False
    rotate: float = 0.0
    """Degrees."""
    shear: tuple[float, float] = (0.0, 0.0)
    """Degrees along x and y."""
    zoom: float = 1.0
    place: tuple[float, float] = (0.5, 0.5)
    """Where in the range left free by the zoom, 0 to 1 along x and y."""

    def matrix(self, width: int, height: int, side: int) -> np.ndarray:
        """float64 [3, 3] that takes output points (0 .. side) to points of a width x height
        picture."""
        centre = np.array([width, height]) / 2
        turn = np.deg2rad(self.rotate)
        x, y = np.tan(np.deg2rad(self.shear))
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        linear = rotation @ np.array([[1.0, x], [y, 1.0]])
        if self.flip:
            linear = linear @ np.diag([-1.0, 1.0])
        free = (1 - 1 / self.zoom) * (np.array(self.place) - 0.5) * np.array([width, height])

        window = np.diag([width / self.zoom / side, height / self.zoom / side, 1.0])
        window[:2, 2] = centre - centre / self.zoom + free
        back = np.eye(3)
        back[:2, :2] = np.linalg.inv(linear)
        back[:2, 2] = centre - back[:2, :2] @ centre
        return back @ window


def draw_geometry(augment: Augment, rng: np.random.Generator) -> Geometry:
    """One random geometry. The number of draws does not depend on the settings."""
    flip, turn, shear_x, shear_y, zoom, x, y = rng.random(7)
    low, high = np.log(augment.scale)
    return Geometry(
        flip=bool(flip < augment.flip),
        rotate=float((2 * turn - 1) * augment.rotate),
        shear=(float((2 * shear_x - 1) * augment.shear), float((2 * shear_y - 1) * augment.shear)),
        zoom=float(np.exp(low + zoom * (high - low))),
        place=(float(x), float(y)),
    )


def augment_clip(clip: Clip, augment: Augment, side: int, rng: np.random.Generator) -> Clip:
    """`clip` changed at random and resized to side x side.

    A geometry that pushes an object out of the first frame is replaced by the plain resize; an
    object of which that leaves no pixel either is dropped.
    """
    geometry = draw_geometry(augment, rng)
    tiled = rng.random() < augment.mosaic
    inner = side // 2 if tiled else side
    height, width = clip.frames.shape[1:3]

    matrix = geometry.matrix(width, height, inner)
    first = render_masks(clip.masks[0], matrix, inner)
    kept = np.flatnonzero(first.any(axis=(1, 2)))
    if len(kept) < len(first):
        plain = Geometry(flip=geometry.flip).matrix(width, height, inner)
        resized = render_masks(clip.masks[0], plain, inner)
        possible = np.flatnonzero(resized.any(axis=(1, 2)))
        if not np.isin(possible, kept).all():
            matrix, first, kept = plain, resized, possible

    rest = [render_masks(frame[kept], matrix, inner) for frame in clip.masks[1:]]
    masks = np.stack([first[kept], *rest])
    frames = np.stack([render(frame, matrix, inner, FILL) for frame in clip.frames])
    frames = change_colours(frames, augment, rng)
    if tiled:
        frames, masks = tile(frames, masks, side, int(rng.integers(4)))
    return Clip(
        name=clip.name,
        dataset=clip.dataset,
        frames=frames,
        masks=masks,
        object_ids=tuple(clip.object_ids[i] for i in kept),
        frame_numbers=clip.frame_numbers,
    )


def resize_clip(clip: Clip, side: int) -> Clip:
    """`clip` resized to side x side, every object kept."""
    height, width = clip.frames.shape[1:3]
    matrix = Geometry().matrix(width, height, side)
    return Clip(
        name=clip.name,
        dataset=clip.dataset,
        frames=np.stack([render(frame, matrix, side, FILL) for frame in clip.frames]),
        masks=np.stack([render_masks(frame, matrix, side) for frame in clip.masks]),
        object_ids=clip.object_ids,
        frame_numbers=clip.frame_numbers,
    )


def render(
    picture: np.ndarray, matrix: np.ndarray, side: int, fill: tuple[int, ...] = (0, 0, 0, 0)
) -> np.ndarray:
    """Sample a uint8 picture [H, W] or [H, W, C], C up to 4, at side x side output pixels.

    matrix: float [3, 3], output points to picture points. Where it makes the picture much smaller,
    the picture is averaged first, each axis by its own factor.
    """
    picture, matrix = _prefilter(picture, matrix)
    height, width = picture.shape[:2]
    # OpenCV puts pixel centres at whole numbers.
    pixels = matrix[:2].copy()
    pixels[:, 2] += matrix[:2, :2] @ (0.5, 0.5) - 0.5
    colour = picture.ndim == 3 and picture.shape[2] == 3
    if colour:  # four channels are sampled at twice the speed of three
        picture = cv2.cvtColor(picture, cv2.COLOR_RGB2RGBA)
    # The outermost half pixel has no neighbour. Where nothing lies outside, repeat the edge rather
    # than mix in the fill.
    border = cv2.BORDER_REPLICATE if _covers(matrix, side, width, height) else cv2.BORDER_CONSTANT
    out = cv2.warpAffine(
        picture,
        pixels,
        (side, side),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=border,
        borderValue=fill,
    )
    return cv2.cvtColor(out, cv2.COLOR_RGBA2RGB) if colour else out


def render_masks(masks: np.ndarray, matrix: np.ndarray, side: int) -> np.ndarray:
    """Bool masks [O, H, W] sampled as grey pictures and cut at one half: bool [O, side, side]."""
    out = np.zeros((len(masks), side, side), dtype=bool)
    shown = [o for o, mask in enumerate(masks) if mask.any()]
    for start in range(0, len(shown), 4):
        group = shown[start : start + 4]
        # Up to four masks are the channels of one picture; three are slow, see `render`.
        planes = [
            masks[o].view(np.uint8) for o in (group + group[:1] if len(group) == 3 else group)
        ]
        grey = cv2.merge(planes) * np.uint8(255)
        sampled = render(grey, matrix, side).reshape(side, side, len(planes))
        for plane, o in enumerate(group):
            np.greater_equal(sampled[..., plane], 128, out=out[o])
    return out


def _prefilter(picture: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The picture averaged until bilinear sampling skips none of it, and the matrix that fits it.

    Halvings are exact averages and cheap; what is left, less than a factor of two, is a box as wide
    as an output pixel. An odd last row or column, less than half an output pixel, is cut off.
    """
    steps = np.hypot(matrix[:2, 0], matrix[:2, 1])
    while steps.max() >= 2:
        x, y = (2 if step >= 2 else 1 for step in steps)
        height, width = picture.shape[0] // y, picture.shape[1] // x
        if not height or not width:
            break
        whole = picture[: height * y, : width * x]
        picture = cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)
        matrix = np.diag([1 / x, 1 / y, 1.0]) @ matrix
        steps = steps / (x, y)
    if steps.max() > PREFILTER_FROM:
        picture = cv2.sepFilter2D(
            picture, -1, _box(steps[0]), _box(steps[1]), borderType=cv2.BORDER_REPLICATE
        )
    return picture, matrix


def change_colours(frames: np.ndarray, augment: Augment, rng: np.random.Generator) -> np.ndarray:
    """uint8 [T, H, W, 3] with one colour change for the clip, a further one per frame, and maybe
    blur."""
    strengths = (augment.brightness, augment.contrast, augment.saturation)
    draws = rng.random(6)
    mean = _mean_luma(frames[0])
    change = _colour_matrix(
        [1 + (2 * draw - 1) * most for draw, most in zip(draws, strengths, strict=False)],
        angle=2 * np.pi * (2 * draws[3] - 1) * augment.hue,
        gray=bool(draws[4] < augment.gray),
        mean=mean,
    )
    jitter = 1 + (2 * rng.random((len(frames), 3)) - 1) * augment.frame_jitter
    if augment.frame_jitter:
        out = np.empty_like(frames)
        for frame, target, factors in zip(frames, out, jitter, strict=True):
            further = _colour_matrix(list(factors), angle=0.0, gray=False, mean=mean)
            cv2.transform(frame, _chain(change, further), dst=target)
    elif np.allclose(change, np.eye(3, 4), atol=1e-9):
        out = frames
    else:
        tall = frames.reshape(-1, frames.shape[2], 3)
        out = cv2.transform(tall, change).reshape(frames.shape)
    if draws[5] < augment.blur:
        sigma = float(rng.uniform(0.1, 1.0)) * frames.shape[1] / 256
        out = np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in out])
    return out


def tile(
    frames: np.ndarray, masks: np.ndarray, side: int, corner: int
) -> tuple[np.ndarray, np.ndarray]:
    """The clip four times in a 2x2 grid of side x side; the masks only in the given corner, 0 to
    3."""
    half = frames.shape[1]
    grid = np.tile(frames, (1, 2, 2, 1))
    placed = np.zeros((*masks.shape[:2], side, side), dtype=bool)
    top, left = (corner // 2) * half, (corner % 2) * half
    placed[:, :, top : top + half, left : left + half] = masks
    return grid, placed


def _box(step: float) -> np.ndarray:
    """Three taps that average `step` pixels (1 to 2), or one tap where that is not needed."""
    if step <= PREFILTER_FROM:
        return np.ones(1)
    return np.array([(step - 1) / 2, 1, (step - 1) / 2]) / step


def _covers(matrix: np.ndarray, side: int, width: int, height: int) -> bool:
    """Whether all that is sampled lies inside the picture, up to half a pixel."""
    corners = matrix[:2] @ np.array([[0, side, 0, side], [0, 0, side, side], [1, 1, 1, 1]])
    low, high = corners.min(axis=1), corners.max(axis=1)
    return bool((low >= -0.5).all() and (high <= np.array([width, height]) + 0.5).all())


def _mean_luma(frame: np.ndarray) -> float:
    return float(frame[::2, ::2].mean(axis=(0, 1)) @ LUMA)


def _colour_matrix(factors: list[float], angle: float, gray: bool, mean: float) -> np.ndarray:
    """[3, 4] for brightness, contrast (about `mean`), saturation, hue and grey, in this order."""
    brightness, contrast, saturation = factors
    to_luma = np.ones((3, 1)) * LUMA
    colour = saturation * np.eye(3) + (1 - saturation) * to_luma
    if angle:
        cos, sin = np.cos(angle), np.sin(angle)
        colour = FROM_YIQ @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]) @ TO_YIQ @ colour
    if gray:
        colour = to_luma @ colour
    linear = colour * (brightness * contrast)
    offset = colour @ np.full(3, (1 - contrast) * brightness * mean)
    return np.hstack([linear, offset[:, None]])


def _chain(first: np.ndarray, then: np.ndarray) -> np.ndarray:
    """The [3, 4] colour change that does one after the other."""
    return np.hstack([then[:, :3] @ first[:, :3], then[:, :3] @ first[:, 3:] + then[:, 3:]])

"""How far the fast way of changing clips is from the exact one, and both from the truth, on real frames.

`python -m benchmarks.fidelity DAVIS` takes the middle annotated frame of every video in a folder of DAVIS layout. The
truth is the exact way on a frame four times as large, where interpolation loses next to nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

import cv2
import numpy as np
from PIL import Image

from data.augment import change_clip
from data.changes import ClipChange, draw_changes
from data.exact import change_exactly
from data.settings import Augment
from data.sources import open_dataset
from data.spec import DatasetSpec
from data.types import Clip

SIDE, DRAWS = 1024, 3
KINDS = {
    "flip and resize": Augment(),
    "turn and shear": Augment(rotate=25, shear=20),
    "zoom": Augment(scale=(0.8, 1.2)),
}
PAIRS = (("fast", "exact"), ("fast", "truth"), ("exact", "truth"))


def main(root: str) -> None:
    """Print, for every kind of change and pair of ways, the range over all frames and draws."""
    clips = list(_frames(root))
    for kind, augment in KINDS.items():
        for pair in PAIRS:
            found = [
                (*_distance(clip, _draw(augment, draw), pair), clip.name)
                for clip in clips
                for draw in range(DRAWS)
            ]
            frames, masks = [f for f, _, _ in found], [m for _, m, _ in found]
            low = sorted({name for f, _, name in found if f < 40})
            print(
                f"{kind}, {pair[0]} against {pair[1]}: frames {min(frames):.1f} to {max(frames):.1f} dB, "
                f"masks IoU {min(masks):.4f} to {max(masks):.4f}"
                + (f"; below 40 dB: {', '.join(low)}" if low else "")
            )


def _frames(root: str) -> Iterator[Clip]:
    dataset = open_dataset(DatasetSpec(format="davis", root=root))
    for index in range(len(dataset)):
        yield dataset.load(index, [dataset.frame_count(index) // 2])


def _draw(augment: Augment, draw: int) -> ClipChange:
    return draw_changes(augment, 1, np.random.default_rng(draw))


def _distance(clip: Clip, change: ClipChange, pair: Sequence[str]) -> tuple[float, float]:
    """PSNR of the frames in dB and IoU of the masks between two ways of making `change`."""
    a, b = (_changed(clip, change, way) for way in pair)
    error = ((a.frames.astype(float) - b.frames) ** 2).mean()
    overlap = (a.masks & b.masks).sum() / max(1, (a.masks | b.masks).sum())
    return 10 * float(np.log10(255**2 / max(error, 1e-6))), float(overlap)


def _changed(clip: Clip, change: ClipChange, way: str) -> Clip:
    if way == "fast":
        return change_clip(clip, change, SIDE)
    return change_exactly(_larger(clip) if way == "truth" else clip, change, SIDE)


def _larger(clip: Clip) -> Clip:
    size = (4 * clip.frames.shape[2], 4 * clip.frames.shape[1])
    frame = Image.fromarray(clip.frames[0]).resize(size, Image.Resampling.BICUBIC)
    masks = [cv2.resize(mask.astype(np.float32), size) > 0.5 for mask in clip.masks[0]]
    return replace(clip, frames=np.asarray(frame)[None], masks=np.stack(masks)[None])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("give one folder of DAVIS layout: python -m benchmarks.fidelity DAVIS")
    cv2.setNumThreads(1)
    main(sys.argv[1])

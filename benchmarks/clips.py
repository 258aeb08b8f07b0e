"""Training samples at 1024 px, one worker's share: the MOSE transforms on clips and 64 masks of a picture.

`python -m benchmarks.clips` prints these lines alone. The plain way is exact mode: the reference's chain of operations,
without its float copies of the frames.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from benchmarks.measure import Row, compare, megabytes, threads
from data.collate import collate
from data.mixture import TrainingClips
from data.settings import Augment, ClipSampling, Mixture
from data.sources import open_dataset
from data.spec import DatasetSpec, Format
from pipeline import rle
from pipeline.cache import SHARED
from pipeline.storage import write_json
from stages.recipe import load_recipe
from stages.settings import TrainStage

SIDE, FRAMES, OBJECTS = 1024, 8, 3
SIZES = ((854, 480), (1920, 1080))
PICTURE, MASKS = (2250, 1500), 64
SAMPLES = 2
"""Made in one turn, each from another place of the endless sequence."""


def clip_rows() -> list[Row]:
    """Draw the files, then make samples from them."""
    with tempfile.TemporaryDirectory() as folder, threads(1), _one_cv_thread():
        roots = [draw_video(Path(folder) / f"{width}", width, height) for width, height in SIZES]
        rows = [
            _row(f"{FRAMES} frames x {OBJECTS} objects from {width}x{height} JPEG", "davis", root)
            for (width, height), root in zip(SIZES, roots, strict=True)
        ]
        picture = draw_picture(Path(folder) / "sa1b", *PICTURE, MASKS)
        return [
            *rows,
            _row(f"{MASKS} masks of a {PICTURE[0]}x{PICTURE[1]} picture", "sa1b", picture),
        ]


def _row(what: str, form: Format, root: Path) -> Row:
    cpu: tuple[list[float], list[float]] = ([], [])
    fast, exact = (_timed(sampler(form, root, bool(way)), cpu[way]) for way in (0, 1))
    row = compare(what, ("one warp", fast), ("operation by operation", exact), pairs=3)
    rates = [f"{SAMPLES / min(seconds):.1f}" for seconds in cpu]  # a busy machine adds to some
    peaks = [megabytes(_peak(form, root, exact)) for exact in (False, True)]
    note = f"{rates[0]} against {rates[1]} samples per CPU second, {peaks[0]} against {peaks[1]}"
    return replace(row, note=f"{note}; {SAMPLES} samples a turn at {SIDE} px")


def _timed(make: Callable[[], None], seconds: list[float]) -> Callable[[], None]:
    """`make`, noting the CPU time of every call in `seconds`."""

    def call() -> None:
        began = time.process_time()
        make()
        seconds.append(time.process_time() - began)

    return call


def sampler(form: Format, root: Path, exact: bool) -> Callable[[], None]:
    """Makes SAMPLES batches of one from files that are not cached."""
    stage = load_recipe(["recipe=mose_finetune"]).stages["finetune"]
    assert isinstance(stage, TrainStage)
    augment = replace(stage.augment, exact=exact) if form == "davis" else Augment(exact=exact)
    clips = TrainingClips(
        {"data": open_dataset(DatasetSpec(format=form, root=str(root)))},
        mixture=Mixture(),
        sampling=ClipSampling(frames=FRAMES, max_objects=OBJECTS, image_objects=(MASKS, MASKS)),
        augment=augment,
        image_size=SIDE,
        seed=0,
    )

    def make() -> None:
        for step in range(SAMPLES):
            SHARED.clear()
            batch = collate([clips.sample(step, 0)], clips.kind(step), [0])
            assert len(batch.masks) in (OBJECTS, MASKS)

    return make


def draw_video(root: Path, width: int, height: int) -> Path:
    """FRAMES JPEG frames and label maps of OBJECTS ellipses in the DAVIS layout."""
    for number in range(FRAMES):
        masks = _ellipses(OBJECTS, width, height, 0.06 * height, 0.2 * height, number)
        labels = (masks * np.arange(1, OBJECTS + 1, dtype=np.uint8)[:, None, None]).max(axis=0)
        for what, pixels in (("JPEGImages", _scene(width, height)), ("Annotations", labels)):
            path = root / what / "v" / f"{number:05d}.{'jpg' if pixels.ndim == 3 else 'png'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(pixels)
            if pixels.ndim == 2:
                image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
            image.save(path, quality=90)
    return root


def draw_picture(root: Path, width: int, height: int, masks: int) -> Path:
    """One picture with run-length masks in the SA-1B layout: many small ones, few large ones."""
    root.mkdir(parents=True)
    Image.fromarray(_scene(width, height)).save(root / "sa_1.jpg", quality=90)
    found = rle.encode_many(_ellipses(masks, width, height, 12, 0.3 * height, 0))
    annotations = [
        {"id": i, "segmentation": mask, "area": rle.area(mask), "bbox": list(rle.bbox(mask))}
        for i, mask in enumerate(found, 1)
    ]
    size = {"image_id": 1, "width": width, "height": height, "file_name": "sa_1.jpg"}
    write_json(root / "sa_1.json", {"image": size, "annotations": annotations})
    return root


def _scene(width: int, height: int) -> np.ndarray:
    """uint8 [height, width, 3] with detail of all sizes, as a photograph has."""
    rng, picture = np.random.default_rng(0), np.full((height, width, 3), 128.0, np.float32)
    for cells in (4, 16, 64, 256):
        noise = rng.normal(0, 120 / cells**0.5, (cells, cells, 3)).astype(np.float32)
        picture += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    return picture.clip(0, 255).astype(np.uint8)


def _ellipses(
    count: int, width: int, height: int, least: float, most: float, shift: int
) -> np.ndarray:
    """bool [count, height, width], radii from `least` to `most` pixels, evenly in the logarithm."""
    rng = np.random.default_rng(1)
    rows, columns = np.ogrid[:height, :width]
    masks = np.empty((count, height, width), bool)
    for mask in masks:
        radius = np.exp(rng.uniform(np.log(least), np.log(most)))
        x, y = rng.uniform(0.2, 0.8, 2) * (width, height) + shift
        mask[:] = (columns - x) ** 2 + ((rows - y) * rng.uniform(0.6, 1.6)) ** 2 < radius**2
    return masks


def _peak(form: Format, root: Path, exact: bool) -> int:
    """Bytes that making samples adds to a fresh process at most."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_growth, (form, root, exact))


def _growth(form: Format, root: Path, exact: bool) -> int:
    make = sampler(form, root, exact)
    with threads(1), _one_cv_thread():
        before = _kilobytes("VmRSS")
        make()
        return (_kilobytes("VmHWM") - before) * 1024


def _kilobytes(field: str) -> int:
    """A line of Linux's account of this process: VmRSS is what it holds, VmHWM the most it held."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split(f"{field}:")[1].split()[0])


@contextmanager
def _one_cv_thread() -> Iterator[None]:
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


if __name__ == "__main__":
    for found in clip_rows():
        print(f"{found.what}: {found.ratio:.1f} x, {found.note}")

"""J&F against PyPI vos-benchmark, in one process each: one mask, a video in memory, a video of PNG files.

`python -m benchmarks.jf` prints these lines and where the time of a frame goes. Every pair is first compared: one
mask scores the same to the last bit, a video to 1e-12.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from benchmarks.measure import Row, compare
from data.labels import label_png
from stages.evaluation import mask_files, masks
from stages.evaluation.folders import compare as compare_folders
from stages.evaluation.folders import score_video_folder
from stages.evaluation.jf import Protocol, VideoScorer
from stages.evaluation.masks import score_masks

WIDTH, HEIGHT, OBJECTS, FRAMES = 854, 480, 3, 24
GOOD, POOR = 2.0, 12.0
"""Pixels by which a prediction misses; F reaches over 8."""
ALL_FRAMES = Protocol(skip_first_and_last=False)


def contour_rows() -> list[Row]:
    """Ours against the published evaluator; nothing where that is not installed."""
    try:
        from vos_benchmark.evaluator import Evaluator  # noqa: F401
    except ImportError:
        return []
    cv2.setNumThreads(1)
    rows = [_one_mask(192, 128), _one_mask(WIDTH, HEIGHT)]
    for word, miss in (("good", GOOD), ("poor", POOR)):
        truth, guess = _video(0.0), _video(miss)
        rows += [_in_memory(word, truth, guess), _from_files(word, truth, guess)]
    return rows


def _one_mask(width: int, height: int) -> Row:
    from vos_benchmark.evaluator import Evaluator

    truth = _disc(width, height, 0.45 * width, 0.5 * height, height / 4)
    guess = _disc(width, height, 0.47 * width, 0.52 * height, height / 4)

    def ours() -> tuple[float, float]:
        score = score_masks(truth, guess)
        return 100 * score.region, 100 * score.contour

    def theirs() -> tuple[float, float]:
        evaluator = Evaluator()
        evaluator.feed_frame(guess.astype(np.uint8), truth.astype(np.uint8))
        region, contour = evaluator.conclude()
        return region[1], contour[1]

    assert ours() == theirs()
    what = f"J and F of a {width}x{height} mask"
    return compare(
        what, ("score_masks", ours), ("vos-benchmark", theirs), pairs=15, note="same figures"
    )


def _in_memory(word: str, truth: np.ndarray, guess: np.ndarray) -> Row:
    """As validation scores: what the network says is bool already, and so is the truth."""
    from vos_benchmark.evaluator import Evaluator

    ids = range(1, OBJECTS + 1)
    planes = [[labels == i for i in ids] for labels in truth]
    guesses = [[labels == i for i in ids] for labels in guess]
    stacked = [(np.stack(a), np.stack(b)) for a, b in zip(planes, guesses, strict=True)]

    def ours() -> list[tuple[float, float]]:
        scorer = VideoScorer("v", list(ids), ALL_FRAMES)
        for number, (true_masks, found) in enumerate(stacked):
            scorer.add(number, true_masks, found)
        return [(score.j, score.f) for score in scorer.result().objects]

    def theirs() -> list[tuple[float, float]]:
        evaluator = Evaluator()
        for labels, found in zip(truth, guess, strict=True):
            evaluator.feed_frame(found, labels)
        region, contour = evaluator.conclude()
        return [(region[i], contour[i]) for i in ids]

    np.testing.assert_allclose(ours(), theirs(), rtol=0, atol=1e-12)
    return _rated(f"J&F in memory, {word} masks", ours, theirs)


def _from_files(word: str, truth: np.ndarray, guess: np.ndarray) -> Row:
    from vos_benchmark.benchmark import VideoEvaluator

    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for side, maps in (("gt", truth), ("pred", guess)):
            (root / side / "v").mkdir(parents=True)
            for number, labels in enumerate(maps):
                (root / side / "v" / f"{number:05d}.png").write_bytes(label_png(labels))
        comparison = compare_folders(root / "gt", root / "pred", protocol=ALL_FRAMES)
        evaluator = VideoEvaluator(str(root / "gt"), str(root / "pred"), skip_first_and_last=False)

        def ours() -> list[tuple[float, float]]:
            video = score_video_folder(comparison, "v")
            return [(score.j, score.f) for score in video.objects]

        def theirs() -> list[tuple[float, float]]:
            _, region, contour = evaluator("v")
            return [(region[i], contour[i]) for i in sorted(region)]

        np.testing.assert_allclose(ours(), theirs(), rtol=0, atol=1e-12)
        return _rated(f"J&F of PNG files, {word} masks", ours, theirs)


def _rated(what: str, ours: Callable[[], object], theirs: Callable[[], object]) -> Row:
    row = compare(
        f"{what}, {WIDTH}x{HEIGHT}, {OBJECTS} objects",
        ("ours", ours),
        ("vos-benchmark", theirs),
        pairs=7,
        clock=time.process_time,
    )
    rates = [1000 * OBJECTS * FRAMES / each for each in (row.better_ms, row.plain_ms)]
    return row.noted(f"{rates[0]:.0f} against {rates[1]:.0f} object-frames/s; same figures")


def _video(miss: float) -> np.ndarray:
    """uint8 [T, H, W]: three wavy discs that move; `miss` pixels away from where they should be."""
    starts = ((220, 240, 90), (500, 160, 60), (650, 330, 110))
    maps = np.zeros((FRAMES, HEIGHT, WIDTH), np.uint8)
    for t, labels in enumerate(maps):
        for number, (x, y, radius) in enumerate(starts, 1):
            centre = (x + 3 * t + miss, y + 2 * np.sin(t) + miss / 2)
            labels[_disc(WIDTH, HEIGHT, *centre, radius)] = number
    return maps


def _disc(width: int, height: int, x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    wave = 1 + 0.15 * np.sin(9 * np.arctan2(rows - y, columns - x))
    return np.hypot(columns - x, rows - y) < radius * wave


def _profile() -> None:
    """Where the time of a frame goes, each part by itself."""
    truth, guess = _video(0.0)[5], _video(GOOD)[5]
    ids = range(1, OBJECTS + 1)
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "00000.png"
        file.write_bytes(label_png(truth))
        cut, cut_guess = masks.crop_to_both(truth, guess)
        pairs = [masks.crop_to_both(cut == i, cut_guess == i) for i in ids]
        contours = [[masks._contour(m.view(np.uint8)) for m in pair] for pair in pairs]
        disk = np.fromfunction(lambda y, x: (x - 8) ** 2 + (y - 8) ** 2 <= 64, (17, 17))
        disk = disk.astype(np.uint8)

        def both(count: Callable[[np.ndarray, np.ndarray], object]) -> None:
            for a, b in contours:
                count(a, b)
                count(b, a)

        parts: dict[str, Callable[[], object]] = {
            "read two label maps": lambda: [mask_files.read_labels(file) for _ in range(2)],
            "look for new objects in both": lambda: [
                mask_files.new_values(m, list(ids)) for m in (truth, guess)
            ],
            "… by a histogram": lambda: [mask_files.values_of(m) for m in (truth, guess)],
            "cut both maps": lambda: masks.crop_to_both(truth, guess),
            "planes of both": lambda: [mask_files.planes(m, list(ids)) for m in (cut, cut_guess)],
            "contours": lambda: [masks._contour(m.view(np.uint8)) for p in pairs for m in p],
            "far pixels": lambda: [masks._far_apart(a, b, 8) for a, b in contours],
            "… by an integer's bits alone": lambda: both(
                lambda a, b: masks._around(masks._bits(b, 8), 8, 256)
            ),
            "… by a disk": lambda: both(lambda a, b: cv2.countNonZero(a & cv2.dilate(b, disk))),
            "… by exact distances": lambda: both(
                lambda a, b: cv2.distanceTransform(1 - b, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
            ),
            "… by a disk, not cut": lambda: [cv2.dilate(truth, disk) for _ in range(2 * OBJECTS)],
        }
        print(f"\none frame of {OBJECTS} objects, CPU milliseconds")
        for name, call in parts.items():
            call()
            times = []
            for _ in range(15):
                began = time.process_time()
                call()
                times.append(1000 * (time.process_time() - began))
            print(f"  {name:<32} {np.median(times):.2f}")


if __name__ == "__main__":
    for line in contour_rows():
        print(
            f"{line.what}: {line.better_ms:.2f} ms against {line.plain_ms:.2f} ms, "
            f"{line.ratio:.1f} x; {line.note}"
        )
    _profile()

"""Whole data sets, drawn at random with a liking for what goes wrong, scored by us and by PyPI
vos-benchmark."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from vos_benchmark.benchmark import VideoEvaluator

from stages.evaluation.folders import score_folders
from stages.evaluation.jf import Protocol
from tests.stages.evaluation.conftest import write_labels

KINDS = ("empty", "full", "pixel", "box", "corner", "noise")


@st.composite
def videos(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Label maps [T, H, W] of a truth and a prediction: objects are empty, fill the frame, are one
    pixel or touch the border; some appear late, vanish, or exist on one side only."""
    shape = draw(st.integers(3, 5)), draw(st.integers(2, 60)), draw(st.integers(2, 160))
    numbers = draw(
        st.lists(st.sampled_from([1, 2, 3, 7, 200]), min_size=1, max_size=3, unique=True)
    )
    sides = []
    for _ in range(2):
        maps = np.zeros(shape, np.uint8)
        for number in numbers:
            first = draw(st.integers(0, shape[0] - 1))
            last = draw(st.integers(first, shape[0]))
            kind = draw(st.sampled_from(KINDS))
            chance = np.random.default_rng(draw(st.integers(0, 9)))
            for labels in maps[first:last]:
                labels[_mask(kind, shape[1], shape[2], chance)] = number
        sides.append(maps)
    return sides[0], sides[1]


def _mask(kind: str, height: int, width: int, chance: np.random.Generator) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    y, x = int(chance.integers(height)), int(chance.integers(width))
    if kind == "full":
        mask[:] = True
    elif kind == "pixel":
        mask[y, x] = True
    elif kind == "box":
        mask[y : y + 1 + int(chance.integers(30)), x : x + 1 + int(chance.integers(60))] = True
    elif kind == "corner":
        mask[-1 - y // 2 :, -1 - x // 2 :] = True
    elif kind == "noise":
        mask = chance.random((height, width)) < 0.4
    return mask


@given(st.lists(videos(), min_size=1, max_size=2), st.booleans())
@settings(max_examples=120, deadline=None)
def test_random_data_sets_score_as_the_reference_scores_them(drawn, skip):
    folder = Path(tempfile.mkdtemp())
    try:
        expected = {}
        for number, (truth, prediction) in enumerate(drawn):
            truth[1, 0, 0] = 1  # one object at least has a score, else ours is an error
            write_labels(folder / "gt" / f"v{number}", truth)
            write_labels(folder / "pred" / f"v{number}", prediction)
            name, region, contour = VideoEvaluator(f"{folder}/gt", f"{folder}/pred", skip)(
                f"v{number}"
            )
            expected[name] = {key: (region[key], contour[key]) for key in region}
        scores = score_folders(
            folder / "gt", folder / "pred", protocol=Protocol(skip_first_and_last=skip)
        )
        for video in scores.videos:
            found = {score.object_id: (score.j, score.f) for score in video.objects}
            assert set(found) == set(expected[video.name])
            for key, value in found.items():
                np.testing.assert_allclose(value, expected[video.name][key], rtol=0, atol=1e-9)
        pairs = [pair for video in expected.values() for pair in video.values()]
        np.testing.assert_allclose((scores.j, scores.f), np.mean(pairs, axis=0), rtol=0, atol=1e-9)
    finally:
        shutil.rmtree(folder)

"""J and F of masks in memory."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from vos_benchmark.evaluator import Evaluator

from pipeline.errors import DataError
from stages.evaluation import masks as masks_module
from stages.evaluation.jf import Protocol, VideoScores, score_video
from stages.evaluation.masks import crop_to_both, score_masks


def reference(truth: np.ndarray, prediction: np.ndarray) -> tuple[float, float]:
    """J and F (percent) of PyPI vos-benchmark for label maps with one object, [T, H, W]."""
    evaluator = Evaluator()
    for true_mask, guess in zip(truth, prediction, strict=True):
        evaluator.feed_frame(guess.astype(np.uint8), true_mask.astype(np.uint8))
    region, contour = evaluator.conclude()
    return region[1], contour[1]


@st.composite
def masks(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """A pair of masks, with a liking for what goes wrong: empty, full, one pixel, stripes, touching
    the border."""
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 200))
    pair = []
    for _ in range(2):
        mask = np.zeros((height, width), bool)
        kind = draw(st.sampled_from(["empty", "full", "pixel", "box", "noise", "stripes"]))
        y, x = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        if kind == "full":
            mask[:] = True
        elif kind == "pixel":
            mask[y, x] = True
        elif kind == "box":
            mask[y : draw(st.integers(y, height)), x : draw(st.integers(x, width))] = True
        elif kind == "noise":
            mask = np.random.default_rng(draw(st.integers(0, 99))).random((height, width)) < 0.5
        elif kind == "stripes":
            mask[:, :: x + 1] = True
        pair.append(mask)
    return pair[0], pair[1]


@given(masks())
@settings(max_examples=300, deadline=None)
def test_equals_vos_benchmark_on_single_frames(pair):
    truth, prediction = pair
    if not truth.any():
        truth[0, 0] = True
    expected = reference(truth[None], prediction[None])
    score = score_masks(truth, prediction)
    assert (100 * score.region, 100 * score.contour) == pytest.approx(expected, abs=1e-9)


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_equals_vos_benchmark_on_videos_with_gaps(seed):
    rng = np.random.default_rng(seed)
    truth, prediction = (rng.random((2, 9, 1, 30, 50)) < 0.4) & (rng.random((2, 9, 1, 1, 1)) < 0.6)
    truth[4] = True
    video = score_video(truth, prediction, protocol=Protocol(skip_first_and_last=False))
    assert (video.j, video.f) == pytest.approx(reference(truth[:, 0], prediction[:, 0]), abs=1e-9)


def test_masks_that_lie_otherwise_in_memory_score_alike():
    rng = np.random.default_rng(3)
    truth, prediction = rng.random((2, 60, 40)) < 0.3
    expected = score_masks(truth, prediction)
    assert score_masks(np.asfortranarray(truth), np.asfortranarray(prediction)) == expected
    assert score_masks(truth[::-1, ::-1][::-1, ::-1], prediction) == expected


@pytest.mark.parametrize(
    "case", ["sav_good/strict/skip", "sav_good/strict/noskip", "sav_empty/noskip"]
)
def test_golden_objects(golden, case):
    protocol = Protocol(skip_first_and_last="noskip" not in case)
    for video, objects in golden.results[case]["per_object"].items():
        for name, expected in objects.items():
            truth, guess = (
                golden.masks(f"sav/{video}/{name}/{side}")[:, None] for side in ("gt", "pred")
            )
            score = score_video(truth, guess, protocol=protocol)
            assert [score.j, score.f] == pytest.approx(expected, abs=1e-9)


def test_late_objects_by_both_conventions():
    truth = np.zeros((6, 1, 8, 8), bool)
    truth[3:, 0, 2:5, 2:5] = True
    guess = np.roll(truth, 3, axis=2)
    sav = score_video(truth, guess, protocol=Protocol(skip_first_and_last=False))
    davis = score_video(truth, guess, protocol=Protocol("davis", skip_first_and_last=False))
    assert sav.objects[0].frames == (3, 4, 5)
    assert sav.j == 0.0
    assert davis.j == 50.0
    assert "DAVIS" in str(Protocol("davis"))


def test_false_alarm_before_the_first_sight_starts_the_count():
    truth = np.zeros((5, 1, 8, 8), bool)
    truth[3:, 0, 2:5, 2:5] = True
    guess = truth.copy()
    guess[1, 0, 0, 0] = True
    score = score_video(truth, guess, protocol=Protocol(skip_first_and_last=False)).objects[0]
    assert score.frames == (1, 2, 3, 4)
    assert score.j == 75.0
    assert score.presence == 75.0


def test_return_after_a_gap_is_scored_apart():
    truth = np.zeros((7, 2, 12, 12), bool)
    truth[:, :, 2:8, 2:8] = True
    truth[2:4, 0] = False
    guess = truth.copy()
    guess[5:, 0] = False
    lost, steady = score_video(truth, guess, protocol=Protocol(skip_first_and_last=False)).objects
    assert lost.returned.tolist() == [False] * 4 + [True] * 3
    assert lost.jf_returned == pytest.approx(100 / 3)
    assert steady.jf_returned is None


def test_sparse_annotation_and_unseen_objects():
    mask = np.zeros((2, 10, 10), bool)
    mask[0, 3:6, 3:6] = True
    prediction = {frame: mask for frame in range(9)}
    score = score_video({0: mask, 4: mask, 8: mask}, prediction, object_ids=(7, 9))
    assert score.objects[0].frames == (4,)
    assert score.objects[0].object_id == 7
    assert score.unscored == (9,)
    assert score.jf == 100.0


def test_scoring_and_reporting_need_no_torch():
    modules = "masks jf folders summary report overlays media"
    lines = [f"import stages.evaluation.{name}" for name in modules.split()]
    code = "; ".join([*lines, "import sys", "sys.exit('torch' in sys.modules)"])
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_means_are_over_objects_not_videos():
    truth = np.zeros((1, 3, 10, 10), bool)
    truth[..., 2:6, 2:6] = True
    guess = truth.copy()
    guess[:, 2] = False
    protocol = Protocol(skip_first_and_last=False)
    three = score_video(truth, guess, protocol=protocol)
    one = score_video(truth[:, :1], guess[:, :1], protocol=protocol)
    assert VideoScores((three, one), protocol).j == 75.0


def test_missing_frames_and_wrong_sizes_are_named():
    truth = np.ones((3, 1, 4, 4), bool)
    with pytest.raises(DataError, match=r"clip: no prediction for annotated frames 2"):
        score_video(truth, truth[:2], name="clip")
    with pytest.raises(DataError, match=r"frame 1: the prediction has shape \(1, 2, 4\)"):
        score_video(truth, truth[:, :, :2], name="clip")


@pytest.mark.filterwarnings("ignore::DeprecationWarning:pycocotools")
def test_equals_vos_benchmark_on_real_masklets(shared_dir: Path):
    """Every sixth annotated frame of a real SA-V video against itself moved by (9, 12) pixels."""
    masklet = json.loads((shared_dir / "data/sav/sav_000001_manual.json").read_text())["masklet"]
    truth = np.stack(
        [coco_mask.decode(frame).transpose(2, 0, 1).astype(bool) for frame in masklet[::6]]
    )
    guess = np.zeros_like(truth)
    guess[:, :, 12:, 9:] = truth[:, :, :-12, :-9]
    guess[8:10, 1] = False
    for score in score_video(truth, guess, protocol=Protocol(skip_first_and_last=False)).objects:
        row = int(score.object_id)
        assert (score.j, score.f) == pytest.approx(
            reference(truth[:, row], guess[:, row]), abs=1e-9
        )


def test_recall_and_decay_by_hand():
    """DAVIS's definitions on eight frames: J is 1, .75, .5, .25, 0, 0, 0, 0 of an object of 4 rows;
    the quarters of eight frames are frames 1-3, 3-5, 5-6 and 6-8."""
    truth = np.zeros((8, 1, 30, 30), bool)
    truth[:, 0, 10:14, 5:25] = True
    guess = truth.copy()
    for t in range(8):
        guess[t, 0, 10 : 10 + min(t, 4)] = False
    (score,) = score_video(truth, guess, protocol=Protocol(skip_first_and_last=False)).objects
    assert score.region.tolist() == [1, 0.75, 0.5, 0.25, 0, 0, 0, 0]
    assert score.j_recall == 25.0
    assert score.j_decay == pytest.approx(100 * (2.25 / 3 - 0))
    assert 0 < score.f_recall < 100 and score.f_decay > 0


def test_one_frame_neither_decays_nor_fails():
    mask = np.ones((1, 1, 6, 6), bool)
    mask[..., :3] = False
    (score,) = score_video(mask, mask, protocol=Protocol(skip_first_and_last=False)).objects
    assert (score.j_recall, score.j_decay, score.f_decay) == (100.0, 0.0, 0.0)


@pytest.mark.parametrize("reach", [0, 1, 2, 5, 8, 18, 37])
def test_bars_make_the_disk(reach):
    y, x = np.mgrid[-reach - 1 : reach + 2, -reach - 1 : reach + 2]
    dot, disk = ((x * x + y * y <= r * r).astype(np.uint8) for r in (0, reach))
    stride = dot.shape[1] + reach
    found = masks_module._around(masks_module._bits(dot, reach), reach, stride)
    assert found == masks_module._bits(disk, reach)
    core, _ = masks_module._steps(reach)
    assert not (np.pad(core, [(1 + reach - side // 2,) * 2 for side in core.shape]) > disk).any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (30, 1), (17, 23), (40, 64)])
def test_far_pixels_are_those_that_measuring_finds(shape):
    """Also at the edges: what is near must not come from another row."""
    rng = np.random.default_rng(5)
    for reach in range(1, 12):
        pair = [(rng.random(shape) < share).astype(np.uint8) for share in (0.02, 0.1)]
        for contour in pair:
            contour[rng.integers(shape[0]), [0, -1]] = 1
        places = [np.argwhere(contour) for contour in pair]
        squares = ((places[0][:, None] - places[1][None]) ** 2).sum(2)
        far = [int((squares.min(axis) > reach * reach).sum()) for axis in (1, 0)]
        assert masks_module._far_apart(*pair, reach) == tuple(far), reach


def test_a_cut_out_scores_as_the_whole_frame():
    rng = np.random.default_rng(8)
    labels, guess = np.zeros((2, 90, 120), np.uint8)
    for each in (labels, guess):
        for number in (1, 2):
            y, x = rng.integers(0, 60, 2)
            each[y : y + 40, x : x + 60] = number
    cut, cut_guess = crop_to_both(labels, guess)
    assert cut.size < labels.size
    for number in (1, 2):
        assert score_masks(cut == number, cut_guess == number, labels.shape) == score_masks(
            labels == number, guess == number
        )


def test_scores_say_at_what_size_they_were_taken():
    small, large = np.ones((3, 1, 4, 6), bool), np.ones((3, 1, 8, 12), bool)
    videos = tuple(score_video(each, each, name=str(each.shape)) for each in (large, small))
    assert VideoScores(videos).sizes == "6x4 to 12x8"
    assert VideoScores(videos[:1]).sizes == "12x8"
    assert VideoScores(()).sizes == ""

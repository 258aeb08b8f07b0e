"""J&F of folders: the reference evaluator's numbers, and a clear word about everything that does
not fit."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from vos_benchmark.benchmark import benchmark

from pipeline.errors import DataError
from stages.evaluation.details import read_details
from stages.evaluation.folders import score_folders
from stages.evaluation.jf import Protocol
from stages.evaluation.score_files import clear_scores, results_csv, write_scores
from tests.stages.evaluation.conftest import write_labels, write_masks

SAV_GOOD = {
    "vid_plain": ["000", "001", "002"],
    "vid_large": ["000", "007"],
    "vid_edges": ["000", "001"],
}
SAV_GOOD["vid_perfect"] = ["000"]
ALL_FRAMES = Protocol(skip_first_and_last=False)


def check(scores, expected):
    assert [scores.jf, scores.j, scores.f] == pytest.approx(
        [expected[key] for key in ("global_jf", "global_j", "global_f")], abs=1e-9
    )
    found = {v.name: {str(o.object_id): [o.j, o.f] for o in v.objects} for v in scores.videos}
    assert set(found) == set(expected["per_object"])
    for video, objects in expected["per_object"].items():
        assert set(found[video]) == set(objects)
        for name, values in objects.items():
            assert found[video][name] == pytest.approx(values, abs=1e-9)


@pytest.mark.parametrize(
    ("case", "protocol"), [("strict/skip", Protocol()), ("strict/noskip", ALL_FRAMES)]
)
def test_golden_sav(golden, tmp_path, case, protocol):
    scores = score_folders(*golden.write_sav(tmp_path, SAV_GOOD), protocol=protocol)
    check(scores, golden.results[f"sav_good/{case}"])
    assert results_csv(scores) == golden.results[f"sav_good/{case}"]["csv"]


@pytest.mark.parametrize(
    ("case", "videos"),
    [
        ("davis_good", ["d_plain", "d_late_missing", "d_extra"]),
        ("davis_only_first_last", ["d_plain", "d_only_first_last"]),
        ("davis_single", ["d_plain", "d_single"]),
    ],
)
@pytest.mark.parametrize(("mode", "protocol"), [("skip", Protocol()), ("noskip", ALL_FRAMES)])
def test_golden_davis(golden, tmp_path, case, videos, mode, protocol):
    scores = score_folders(*golden.write_davis(tmp_path, videos), protocol=protocol)
    check(scores, golden.results[f"{case}/{mode}"])
    assert results_csv(scores) == golden.results[f"{case}/{mode}"]["csv"]


def test_object_seen_on_no_scored_frame_is_left_out_and_named(golden, tmp_path):
    """The reference evaluator fails here; the other objects keep their score."""
    objects = {"vid_empty": ["000", "001", "002", "003"]}
    scores = score_folders(*golden.write_sav(tmp_path, objects))
    check(scores, golden.results["sav_empty_without_003/skip"])
    assert scores.videos[0].unscored == ("003",)
    check(
        score_folders(tmp_path / "gt", tmp_path / "pred", protocol=ALL_FRAMES),
        golden.results["sav_empty/noskip"],
    )


def test_sparse_truth_and_extra_objects(golden, tmp_path):
    truth, prediction = golden.write_sav(tmp_path, {"vid_plain": ["000", "001", "002"]})
    for path in truth.rglob("*.png"):
        if path.stem in ("00004", "00016"):
            path.unlink()
    check(score_folders(truth, prediction), golden.results["sav_sparse_gt/strict"])
    truth, prediction = golden.write_sav(tmp_path / "extra", {"vid_plain": ["000", "001"]})
    shutil.rmtree(truth / "vid_plain" / "001")
    check(score_folders(truth, prediction), golden.results["sav_extra_object_in_pred"])


def test_missing_video(golden, tmp_path):
    truth, prediction = golden.write_sav(tmp_path, SAV_GOOD)
    shutil.move(prediction / "vid_plain", prediction / "vid_other")
    with pytest.raises(
        DataError, match=r"no prediction for vid_plain; predictions without truth: vid_other"
    ):
        score_folders(truth, prediction)
    check(
        score_folders(truth, prediction, strict=False),
        golden.results["sav_missing_video/nonstrict"],
    )


def test_processes_change_nothing(golden, tmp_path):
    scores = score_folders(*golden.write_sav(tmp_path, SAV_GOOD), workers=2)
    check(scores, golden.results["sav_good/2proc"])


def test_equals_vos_benchmark_on_random_label_maps(tmp_path):
    """Late, vanished, spurious, one-pixel and full-frame objects in one data set."""
    rng = np.random.default_rng(5)
    for number in range(4):
        for side in ("gt", "pred"):
            maps = np.zeros((8, 40, 70), np.uint8)
            for value in range(1, 5 if side == "pred" else 4):
                for labels in maps[rng.integers(0, 4) : rng.integers(5, 9)]:
                    y, x = rng.integers(0, 30), rng.integers(0, 60)
                    labels[y : y + rng.integers(1, 40), x : x + rng.integers(1, 70)] = value
            if number == 1:
                maps[3] = 1
            write_labels(tmp_path / side / f"v{number}", maps)
    for skip in (True, False):
        jf, j, f, objects = benchmark(
            [str(tmp_path / "gt")],
            [str(tmp_path / "pred")],
            num_processes=1,
            verbose=False,
            skip_first_and_last=skip,
        )
        (tmp_path / "pred" / "results.csv").unlink()
        scores = score_folders(
            tmp_path / "gt", tmp_path / "pred", protocol=Protocol(skip_first_and_last=skip)
        )
        assert [scores.jf, scores.j, scores.f] == pytest.approx([jf[0], j[0], f[0]], abs=1e-9)
        for video in scores.videos:
            region, contour = objects[0][video.name]
            assert {o.object_id: (o.j, o.f) for o in video.objects} == {
                key: pytest.approx((region[key], contour[key]), abs=1e-9) for key in region
            }


@pytest.fixture
def pair(tmp_path) -> tuple[Path, Path]:
    maps = np.zeros((4, 20, 30), np.uint8)
    maps[:, 4:12, 5:20] = 1
    write_labels(tmp_path / "gt" / "v", maps)
    write_labels(tmp_path / "pred" / "v", maps)
    return tmp_path / "gt", tmp_path / "pred"


def test_grey_masks_of_davis_2016_are_object_one(pair):
    truth, prediction = pair
    for path in truth.rglob("*.png"):
        Image.fromarray((np.asarray(Image.open(path)) > 0).astype(np.uint8) * 255).save(path)
    assert score_folders(truth, prediction).jf == 100.0


def test_truth_is_not_accepted_as_prediction(pair, tmp_path):
    truth, _ = pair
    (tmp_path / "link").symlink_to(truth)
    for other in (truth, tmp_path / "link"):
        with pytest.raises(DataError, match="the true masks themselves"):
            score_folders(truth, other)
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "v").symlink_to(truth / "v")
    with pytest.raises(DataError, match="a link"):
        score_folders(truth, tmp_path / "copy")


def test_missing_frame(pair):
    truth, prediction = pair
    (prediction / "v" / "00002.png").unlink()
    with pytest.raises(DataError, match=r"v/00002.png: no such mask"):
        score_folders(truth, prediction)


def test_wrong_size(pair):
    truth, prediction = pair
    write_labels(prediction / "v", np.zeros((4, 10, 15)))
    with pytest.raises(DataError, match=r"00001.png: 15x10 pixels, the truth has 30x20"):
        score_folders(truth, prediction)


def test_colour_picture(pair):
    truth, prediction = pair
    Image.new("RGB", (30, 20)).save(prediction / "v" / "00001.png")
    with pytest.raises(DataError, match=r"00001.png: a colour picture \(mode RGB\)"):
        score_folders(truth, prediction)


def test_broken_picture(pair):
    truth, prediction = pair
    path = prediction / "v" / "00001.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=r"00001.png: not a readable PNG"):
        score_folders(truth, prediction)


def test_several_values_in_a_single_mask(tmp_path):
    masks = np.ones((4, 6, 6), bool)
    write_masks(tmp_path / "gt" / "v" / "000", masks)
    write_masks(tmp_path / "pred" / "v" / "000", masks)
    values = np.arange(36, dtype=np.uint8).reshape(6, 6)
    Image.fromarray(values).save(tmp_path / "pred" / "v" / "000" / "00004.png")
    with pytest.raises(
        DataError, match=r"000/00004.png: values 1, 2, 3, 4, 5, 6, 7, 8 and 27 more besides 0"
    ):
        score_folders(tmp_path / "gt", tmp_path / "pred")


def test_folders_without_videos(tmp_path, pair):
    truth, _ = pair
    with pytest.raises(DataError, match="no such folder of predicted masks"):
        score_folders(truth, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no video in common"):
        score_folders(truth, tmp_path / "empty", strict=False)


def test_nothing_visible_is_no_score(tmp_path):
    for side in ("gt", "pred"):
        write_labels(tmp_path / side / "v", np.zeros((4, 6, 6)))
    with pytest.raises(DataError, match="no object is visible on a scored frame"):
        score_folders(tmp_path / "gt", tmp_path / "pred")


def test_objects_only_predicted_are_named(pair, golden, tmp_path):
    truth, prediction = pair
    maps = np.zeros((4, 20, 30), np.uint8)
    maps[:, 4:12, 5:20] = 1
    maps[2, 15:, 20:] = 9
    write_labels(prediction / "v", maps)
    (video,) = score_folders(truth, prediction).videos
    assert video.unscored == (9,) and video.objects[0].object_id == 1
    truth, prediction = golden.write_sav(tmp_path / "sav", {"vid_plain": ["000", "001"]})
    shutil.rmtree(truth / "vid_plain" / "001")
    assert score_folders(truth, prediction).videos[0].unscored == ("001",)


def test_a_prediction_of_hard_links_is_the_truth(pair):
    truth, prediction = pair
    for path in prediction.rglob("*.png"):
        path.unlink()
        path.hardlink_to(truth / path.relative_to(prediction))
    with pytest.raises(DataError, match="a link"):
        score_folders(truth, prediction)


def test_a_whole_data_set_is_not_the_folder_of_its_masks(pair, tmp_path):
    truth, prediction = pair
    (tmp_path / "DAVIS" / "Annotations").mkdir(parents=True)
    shutil.move(truth, tmp_path / "DAVIS" / "Annotations" / "480p")
    with pytest.raises(DataError, match=r"whole data set, expected .*Annotations/480p"):
        score_folders(tmp_path / "DAVIS", prediction)


def test_a_split_scores_its_videos_alone(golden, tmp_path):
    truth, prediction = golden.write_sav(tmp_path, SAV_GOOD)
    shutil.rmtree(prediction / "vid_large")
    scores = score_folders(truth, prediction, names=["vid_plain", "vid_edges"])
    assert [video.name for video in scores.videos] == ["vid_edges", "vid_plain"]
    with pytest.raises(DataError, match="no video vid_none, which the split names"):
        score_folders(truth, prediction, names=["vid_none"])


def test_sixteen_bits_are_not_a_colour_picture(pair):
    truth, prediction = pair
    Image.fromarray(np.zeros((20, 30), np.uint16)).save(prediction / "v" / "00001.png")
    with pytest.raises(DataError, match=r"00001.png: 16 bits a pixel \(mode I;16\)"):
        score_folders(truth, prediction)


def test_files_say_how_their_numbers_were_made(golden, tmp_path):
    scores = score_folders(*golden.write_sav(tmp_path, SAV_GOOD))
    places = write_scores(scores, tmp_path / "out")
    found = json.loads(places["scores"].read_text())
    assert found["jf"] == scores.jf and found["j_recall"] == scores.mean("j_recall")
    assert found["protocol"]["late_objects"] == "sav" and found["protocol"]["skip_first_and_last"]
    assert found["split"] == scores.split and found["resolution"] == scores.sizes
    assert found["tool"].startswith("sam2-pipeline ")
    assert found["by_video"]["vid_large"]["objects"]["007"]["frames"] > 0
    assert places["objects"].read_text() == golden.results["sav_good/strict/skip"]["csv"]
    lines = places["videos"].read_text().splitlines()
    assert lines[0].startswith("sequence") and len(lines) == 2 + len(SAV_GOOD)
    large = next(video for video in scores.videos if video.name == "vid_large")
    assert f"vid_large   ,  2, {large.jf:>4.1f}, {large.j:>4.1f}, {large.f:>4.1f}" in lines
    assert read_details(places["details"]).videos.sizes == scores.sizes
    clear_scores(tmp_path / "out")
    assert not any((tmp_path / "out").iterdir())

"""What is measured is written down, and the report tells it from the folders alone."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import StageError
from pipeline.video import frame_total, read_frames
from stages.contract import StageResult, StageSpec, write_spec
from stages.evaluate import drawn
from stages.evaluation.jf import ObjectScore, VideoScore, VideoScores
from stages.evaluation.summary import read_summary
from stages.job import run_stage
from tests.stages.conftest import Workshop

EVALUATIONS = ["start.evaluate", "image_pretrain.evaluate", "video_train.evaluate"]


@pytest.fixture(scope="module")
def evaluated(
    workshop: Workshop, pretrained: StageResult, tracked: StageResult
) -> dict[str, StageResult]:
    given = dict(zip(EVALUATIONS, (None, pretrained.checkpoint, tracked.checkpoint), strict=True))
    return {name: workshop.run(workshop.spec(name, weights)) for name, weights in given.items()}


def report_spec(workshop: Workshop, *, evaluations: list[str], place: str = "report") -> StageSpec:
    settings = {**workshop.planned["report"].settings, "evaluations": evaluations}
    return workshop.spec("report", place=place, **settings)


def test_every_evaluation_has_pictures_videos_and_a_baseline(workshop: Workshop, evaluated):
    for name, result in evaluated.items():
        metrics = result.metrics
        assert 0 <= metrics["image/miou@1"] <= 1 and 0 <= metrics["image/miou@3"] <= 1
        assert 0 <= metrics["video/jf"] <= 100 and 0 < metrics["video/baseline_jf"] <= 100
        summary = read_summary(workshop.folder / name / "summary.json")
        assert summary.metrics() == {k: v for k, v in metrics.items() if k != "video/baseline_jf"}
        baseline = read_summary(workshop.folder / name / "baseline.json")
        assert baseline.video is not None and baseline.image is None
        assert baseline.video.jf == metrics["video/baseline_jf"]
    assert len({result.metrics["video/baseline_jf"] for result in evaluated.values()}) == 1
    assert len({result.metrics["video/jf"] for result in evaluated.values()}) > 1


def test_the_masks_kept_for_the_report_fit_the_videos(evaluated):
    folder = Path(evaluated["video_train.evaluate"].files["masks"])
    files = sorted(folder.glob("*.npz"))
    assert len(files) == 2
    with np.load(files[0]) as stored:
        frames, _, height, width = stored["shape"]
        assert (frames, height, width) == (4, 64, 96)
        assert len(stored["bits"]) == -(-int(np.prod(stored["shape"])) // 8)


def test_the_first_the_worst_and_the_best_videos_are_drawn():
    seen = np.ones(3, bool)
    levels = {"a": 0.5, "b": 0.9, "c": 0.2, "d": 0.1, "e": 0.6, "f": 0.3}
    videos = [
        VideoScore(name, (ObjectScore(1, (0, 1, 2), np.full(3, j), np.full(3, j), seen, seen),))
        for name, j in levels.items()
    ]
    scores = VideoScores((*videos, VideoScore("empty", ())))
    names = [*levels, "empty"]
    assert drawn(names, scores, 1) == [0, 1, 2, 3]
    assert drawn(names, scores, 3) == [0, 1, 2, 3]
    assert drawn(names, scores, 0) == []


def test_mlflow_knows_figures_and_protocols(workshop: Workshop, evaluated):
    from mlflow import MlflowClient

    result = evaluated["video_train.evaluate"]
    record = MlflowClient(tracking_uri=workshop.uri).get_run(result.run_id)
    assert record.data.metrics["video/jf"] == pytest.approx(result.metrics["video/jf"])
    assert "image/miou_at_1" in record.data.metrics
    assert {"image.protocol", "video.protocol", "video.split"} <= set(record.data.tags)


def test_the_report_is_one_page_one_film_and_the_numbers(workshop: Workshop, evaluated, tracked):
    result = workshop.run(report_spec(workshop, evaluations=EVALUATIONS))
    page = Path(result.files["report"]).read_text(encoding="utf-8")
    assert page.lstrip().lower().startswith("<!doctype html>") and "<svg" in page
    for words in ("Image pretrain", "Video train"):
        assert words.lower() in page.lower()
    assert tracked.digest[:8] in page
    assert Path(result.files["film"]).stat().st_size > 1000
    (middle,) = read_frames(result.files["film"], [frame_total(result.files["film"]) // 2])
    with Image.open(result.files["still"]) as still:
        assert np.abs(np.asarray(still, float) - middle).mean() < 10
    numbers = json.loads(Path(result.files["results"]).read_text())
    assert list(numbers) == ["image_pretrain", "video_train"]
    assert numbers["video_train"]["sha256"] == tracked.digest
    assert (
        numbers["video_train"]["video/jf"] == evaluated["video_train.evaluate"].metrics["video/jf"]
    )
    final = workshop.folder / "final.pt"
    assert final.read_bytes() == Path(tracked.files["weights"]).read_bytes()


def test_a_report_on_weights_from_elsewhere_asks_for_no_training(workshop: Workshop, evaluated):
    done = workshop.folder / "video_train" / "done.json"
    aside = done.rename(done.with_suffix(".aside"))
    (workshop.folder / "final.pt").unlink(missing_ok=True)
    try:
        result = workshop.run(report_spec(workshop, evaluations=EVALUATIONS[2:], place="elsewhere"))
    finally:
        aside.rename(done)
    numbers = json.loads(Path(result.files["results"]).read_text())
    measured = evaluated["video_train.evaluate"]
    assert numbers["video_train"]["video/jf"] == measured.metrics["video/jf"]
    assert "final weights" not in result.files and not (workshop.folder / "final.pt").exists()


def test_a_report_on_a_stage_that_was_not_run_names_it(workshop: Workshop, evaluated):
    spec = report_spec(
        workshop, evaluations=["start.evaluate", "finetune.evaluate"], place="early-report"
    )
    with pytest.raises(StageError, match=r"finetune.evaluate has no result; run the stage fine"):
        run_stage(str(write_spec(spec)))

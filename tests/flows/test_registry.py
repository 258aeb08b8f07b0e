"""Versions and aliases follow the evaluations: through two gates, once, whatever MLflow does."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flows import registry
from flows.registry import promote, read_measured
from flows.run import Request, Run
from pipeline.registry import version_at, version_numbered
from pipeline.storage import sha256
from pipeline.tracking import open_run, publish_checkpoint
from stages.contract import (
    CheckpointRef,
    StageKind,
    StageResult,
    StageSpec,
    write_result,
    write_spec,
)
from stages.evaluation.details import DETAILS, write_details
from stages.evaluation.image import ImageScores
from stages.evaluation.jf import ObjectScore, VideoScore, VideoScores

KINDS: dict[str, StageKind] = {
    "image_pretrain": "image_pretrain",
    "video_train": "video_train",
    "joint_train": "joint_train",
}


@pytest.fixture(autouse=True)
def own_model(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """Every test has a registry to itself: a model of its own name."""
    name = f"sam2-{request.node.name}"
    monkeypatch.setattr(registry.Measured, "model", property(lambda self: name))
    return name


def scores(level: float, split: str = "aaaa") -> VideoScores:
    """Ten videos around `level` (0 to 1)."""
    videos = []
    for number in range(10):
        frames = np.full(4, level + 0.01 * (number % 3))
        seen = np.ones(4, bool)
        one = ObjectScore(1, (0, 1, 2, 3), frames, frames, seen, seen)
        videos.append(VideoScore(f"video{number}", (one,)))
    return VideoScores(tuple(videos), split=split)


class Bench:
    """A run whose stages are written down as done, with a checkpoint in MLflow."""

    def __init__(self, store: str, runs: Path) -> None:
        self.store, self.runs = store, runs

    def run(self, name: str, *overrides: str) -> Run:
        words = (f"runs={self.runs}", f"tracking.uri={self.store}", *overrides)
        return Run.of(Request("smoke", words, run_name=name))

    def done(
        self, run: Run, stage: str, level: float, split: str = "aaaa", *, video: bool = True
    ) -> list[str]:
        """Train and evaluate `stage`; what `promote` says."""
        folder = run.folder(stage)
        folder.mkdir(parents=True, exist_ok=True)
        weights = folder / "model.pt"
        weights.write_text(f"{run.recipe.folder} {stage} {level}")
        record = open_run(self.store, "sam2", stage, "key", folder)
        uri, digest = publish_checkpoint(record, weights)
        record.close(wait_seconds=60)
        reference = CheckpointRef(uri, digest, stage, 7, record.run_id)
        spec = StageSpec(stage, KINDS[stage], {"model": {"preset": "micro"}}, str(folder))
        write_spec(spec)
        write_result(
            folder, StageResult(stage, spec.key, digest, {}, reference, run_id=record.run_id)
        )
        self.evaluated(run, stage, reference, level, split, video=video)
        planned = next(item for item in run.planned if item.name == f"{stage}.evaluate")
        return promote(run, planned)

    def evaluated(
        self,
        run: Run,
        stage: str,
        given: CheckpointRef,
        level: float,
        split: str = "aaaa",
        *,
        video: bool = True,
    ) -> None:
        folder = run.folder(f"{stage}.evaluate")
        folder.mkdir(parents=True, exist_ok=True)
        settings = {"model": {"preset": "micro"}, "split": split}
        spec = StageSpec(f"{stage}.evaluate", "evaluate", settings, str(folder), input=given)
        write_spec(spec)
        found = scores(level, split)
        pictures = ImageScores(tuple(f"p{n}" for n in range(9)), np.full((9, 3), level), split)
        write_details(folder / DETAILS, pictures, found if video else None)
        record = open_run(self.store, "sam2", spec.name, spec.key, folder)
        record.log_artifact(folder / DETAILS)
        record.close(wait_seconds=60)
        metrics = {"video/jf": found.jf, "image/miou@1": 0.5}
        write_result(
            folder, StageResult(spec.name, spec.key, spec.key, metrics, run_id=record.run_id)
        )


@pytest.fixture
def bench(store: str, tmp_path: Path) -> Bench:
    return Bench(store, tmp_path)


def holders(bench: Bench, model: str) -> dict[str, int]:
    names = (*registry.ALIASES.values(), registry.CHAMPION)
    found = {alias: version_at(bench.store, model, alias) for alias in names}
    return {alias: version.version for alias, version in found.items() if version is not None}


def test_stages_become_versions_and_the_best_is_the_champion(bench: Bench, own_model: str):
    run = bench.run("first")
    said = bench.done(run, "image_pretrain", 0.3)
    assert said[0] == f"image_pretrain.evaluate: registered as models:/{own_model}/1"
    assert said[1:] == [
        f"  image-pretrain is models:/{own_model}/1 (the first)",
        f"  champion is models:/{own_model}/1 (the first)",
    ]
    bench.done(run, "video_train", 0.5)
    bench.done(run, "joint_train", 0.4)
    assert holders(bench, own_model) == {
        "image-pretrain": 1, "video": 2, "joint": 3, "champion": 2,
    }  # fmt: skip
    joint = version_numbered(bench.store, own_model, 3)
    assert joint.tags["video.split"] == "aaaa" and "video.protocol" in joint.tags
    assert joint.tags["video/jf"] == "40.9000" and joint.tags["stage"] == "joint_train"
    assert joint.tags["reload"] == registry.RELOADED
    assert "worse" in joint.tags["judged.champion"] and joint.run_id


def test_a_worse_model_gets_no_alias_and_nothing_is_judged_twice(bench: Bench, own_model: str):
    good, bad = bench.run("good"), bench.run("bad")
    bench.done(good, "joint_train", 0.5)
    said = bench.done(bad, "joint_train", 0.4)
    assert f"joint stays at models:/{own_model}/1 (video J&F -10.00" in said[1]
    assert said[1].endswith("points: worse)")
    better = bench.run("better")
    bench.done(better, "joint_train", 0.6)
    for run in (good, bad, better):  # each is repeated: everything is done
        for stage in run.planned:
            if stage.name == "joint_train.evaluate":
                assert promote(run, stage) == []
    assert holders(bench, own_model) == {"joint": 3, "champion": 3}


def test_within_the_tolerance_the_newest_takes_over_but_is_no_champion(
    bench: Bench, own_model: str
):
    bench.done(bench.run("a"), "joint_train", 0.5)
    bench.done(bench.run("b", "tracking.tolerance=2"), "joint_train", 0.49)
    assert holders(bench, own_model) == {"joint": 2, "champion": 1}


def test_other_splits_are_not_compared_and_it_says_so(bench: Bench, own_model: str):
    bench.done(bench.run("a"), "joint_train", 0.5)
    said = bench.done(bench.run("b"), "joint_train", 0.9, split="bbbb")
    assert "joint is models" in said[1] and "not compared" in said[1] and "split" in said[1]
    assert "champion stays at" in said[2]


def test_a_network_that_knows_pictures_only_does_not_succeed_one_that_tracks(
    bench: Bench, own_model: str
):
    bench.done(bench.run("a"), "joint_train", 0.5)
    said = bench.done(bench.run("b"), "joint_train", 0.9, video=False)
    assert "champion stays at" in said[2] and "has no video/jf" in said[2]
    bench.done(bench.run("c"), "joint_train", 0.6)
    assert holders(bench, own_model) == {"joint": 2, "champion": 3}


def test_scores_are_found_in_mlflow_when_the_folder_is_gone(bench: Bench, own_model: str):
    first = bench.run("a")
    bench.done(first, "joint_train", 0.5)
    first.recipe.folder.rename(bench.runs / "moved")
    said = bench.done(bench.run("b"), "joint_train", 0.4)
    assert "worse" in said[1]


def test_what_was_not_loaded_by_the_evaluation_is_not_registered(bench: Bench, own_model: str):
    run = bench.run("a")
    bench.done(run, "joint_train", 0.5)
    folder = run.folder("joint_train.evaluate")
    assert read_measured(folder) is not None
    other = bench.runs / "other.pt"
    other.write_text("weights from elsewhere")
    given = CheckpointRef(str(other), sha256(other), "", 0, "")
    bench.evaluated(run, "joint_train", given, 0.9)
    assert read_measured(folder) is None
    (folder / "done.json").unlink()
    assert read_measured(folder) is None, "an evaluation that failed, say of weights that are NaN"


def test_a_registry_that_is_down_costs_a_line(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run = bench.run("a")
    bench.done(run, "joint_train", 0.5)
    stage = next(item for item in run.planned if item.name == "joint_train.evaluate")
    tracking = replace(run.recipe.tracking, uri="http://127.0.0.1:9")
    down = Run.of(run.request)
    down.recipe = replace(down.recipe, tracking=tracking)
    assert promote(down, stage) == [
        "joint_train.evaluate: MLflow does not answer, repeat the run to register its model"
    ]
    monkeypatch.setattr(registry, "answers", lambda *_: True)
    assert "not registered" in promote(down, stage)[0]

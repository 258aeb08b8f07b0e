"""Which stages run, what they are given, and what is reused (law 5)."""

from pathlib import Path

import pytest

from flows import preflight
from flows.results import results_table, run_page, served_file, stage_page, viewers
from flows.run import Run
from flows.stage import perform
from pipeline.errors import CheckpointError, ConfigError, DataError


def go(request) -> Run:
    run = Run.of(request)
    run.require_earlier()
    for stage in run.wanted:
        run.results[stage.name] = perform(run, stage, ())
    return run


def test_stages_run_in_order_and_hand_their_weights_on(request_of, stand_in):
    run = go(request_of())
    assert stand_in.ran == [stage.name for stage in run.planned]
    for stage in run.planned:
        if stage.checkpoint_from:
            source = run.results[stage.checkpoint_from].checkpoint
            assert source is not None and stand_in.inputs[stage.name] == source.uri


def test_a_second_run_starts_nothing(request_of, stand_in):
    go(request_of())
    stand_in.ran.clear()
    run = go(request_of())
    assert stand_in.ran == []
    assert len(run.results) == len(run.planned)


def test_a_changed_stage_runs_again_with_what_follows_and_the_old_one_comes_back(
    request_of, stand_in
):
    go(request_of())
    stand_in.ran.clear()
    go(request_of("stages.joint_train.optim.lr=0.01"))
    assert stand_in.ran == ["joint_train", "joint_train.evaluate", "report"]
    stand_in.ran.clear()
    go(request_of())
    assert stand_in.ran == [], "the first work was put aside, not thrown away"


@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_a_lost_output_makes_its_stage_run_again_and_no_other(request_of, stand_in, damage):
    run = go(request_of())
    file = Path(run.results["video_train"].files["weights"])
    _ = file.unlink() if damage == "gone" else file.write_text("other weights")
    stand_in.ran.clear()
    go(request_of())
    assert stand_in.ran == ["video_train"]


def test_start_at_uses_earlier_results(request_of, stand_in):
    go(request_of(stop_after="image_pretrain"))
    assert stand_in.ran[-1] == "image_pretrain.evaluate"
    stand_in.ran.clear()
    go(request_of(start_at="video_train", stop_after="video_train"))
    assert stand_in.ran == ["video_train", "video_train.evaluate"]


def test_start_at_without_earlier_results_says_how_to_make_them(request_of):
    with pytest.raises(ConfigError, match=r"image_pretrain, which is not done.*stop_after=image_p"):
        go(request_of(start_at="video_train"))


def test_start_at_with_weights_needs_only_the_data(request_of, stand_in, tmp_path):
    weights = tmp_path / "mine.pt"
    weights.write_text("weights")
    run = go(request_of(start_at="joint_train", checkpoint=str(weights)))
    assert stand_in.ran == [
        "world",
        "extract_frames",
        "joint_train",
        "joint_train.evaluate",
        "report",
    ]
    assert stand_in.inputs["joint_train"] == str(weights)
    assert stand_in.inputs["joint_train.evaluate"] == run.results["joint_train"].checkpoint.uri


def test_given_weights_reach_the_first_stage_and_its_evaluation(request_of, stand_in, tmp_path):
    weights = tmp_path / "it's mine.pt"
    weights.write_text("weights")
    go(request_of(checkpoint=str(weights), stop_after="image_pretrain"))
    assert stand_in.inputs["start.evaluate"] == stand_in.inputs["image_pretrain"] == str(weights)


def test_weights_that_are_not_there_are_named(request_of):
    run = Run.of(request_of(checkpoint="nowhere.pt"))
    with pytest.raises(CheckpointError, match=r"nowhere\.pt"):
        run.spec(next(stage for stage in run.planned if stage.kind == "image_pretrain"))


def test_one_stage_alone(request_of, stand_in):
    go(request_of(stage="image_pretrain"))
    assert stand_in.ran == ["world", "extract_frames", "image_pretrain"]


def test_unknown_stages_get_near_names(request_of):
    with pytest.raises(ConfigError, match=r"video_trian.*video_train"):
        Run.of(request_of(stage="video_trian"))
    with pytest.raises(ConfigError, match=r"start_at=jiont_train.*joint_train"):
        Run.of(request_of(start_at="jiont_train"))
    with pytest.raises(ConfigError, match="comes after"):
        Run.of(request_of(start_at="joint_train", stop_after="image_pretrain"))


def test_a_run_of_its_own_name_and_seed_has_its_own_folder(request_of):
    folders = {
        Run.of(request).recipe.folder.name
        for request in (request_of(), request_of("seed=3"), request_of(run_name="a b"))
    }
    assert folders == {"smoke", "smoke-seed3", "a b"}


def test_the_command_repeats_the_request(request_of):
    request = request_of("seed=2", start_at="video_train", run_name="x")
    assert request.command().endswith("seed=2 start_at=video_train run_name=x")
    assert request.command().startswith("sam2-pipeline run recipe=smoke")


def test_states_tell_done_from_to_do_and_change_nothing(request_of, stand_in, tmp_path):
    assert {state for _, state in Run.of(request_of()).states()} == {"to do"}
    assert not (tmp_path / "runs").exists()
    go(request_of(stop_after="image_pretrain"))
    states = dict(Run.of(request_of()).states())
    assert states["image_pretrain.evaluate"] == "done"
    assert states["video_train"] == states["report"] == "to do"


def test_the_table_shows_baseline_stages_and_changes(request_of, stand_in):
    run = go(request_of())
    table = results_table(run)
    assert [row[0] for row in table.rows] == [
        "first mask repeated",
        "untrained network",
        "image_pretrain",
        "video_train",
        "joint_train",
    ]
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert "+0.000" in table.rows[-1] and "40.0" in table.rows[0]
    last = table.records()[-1]
    assert (last["mIoU@1 change"], last["J&F change"]) == ("+0.000", "+0.0")
    assert "| joint_train |" in run_page(run, table)
    spec = run.spec(next(stage for stage in run.planned if stage.name == "video_train"))
    page = stage_page(run, spec, run.results["video_train"], "done")
    assert run.results["video_train"].checkpoint.sha256 in page


def test_links_lead_where_a_browser_finds_mlflow(request_of, monkeypatch):
    run = Run.of(request_of("tracking.uri=http://mlflow:5050"))
    (mlflow, _) = viewers(run, "abc")
    assert mlflow == ("mlflow", "http://mlflow:5050/#/runs/abc")
    run.experiment_id = "7"
    monkeypatch.setenv("SAM2_MLFLOW_PAGE", "https://mlflow.lab/")
    (mlflow, _) = viewers(run, "abc")
    page = "https://mlflow.lab/#/experiments/7/runs/abc?workflowType=machine_learning"
    assert mlflow == ("mlflow", page)
    assert served_file(run, "still") == "", "there is no report yet"


def test_data_of_a_further_protocol_is_looked_for_before_anything_starts(request_of):
    more = "evaluation.more={late: {kind: occlusion, dataset: extra}}"
    request = request_of("+datasets.extra={format: davis, root: /nowhere/davis}", more)
    with pytest.raises(DataError, match=r"no folder /nowhere/davis \(data set extra\)"):
        preflight.check(Run.of(request))

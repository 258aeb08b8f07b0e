"""From any name of a checkpoint back to its data, out of MLflow or out of folders alone."""

import json
import shutil
from pathlib import Path

import pytest

from flows.cli import main
from flows.lineage import Origin, trace
from flows.sync import store_of
from flows.tracking import catch_up, journals
from pipeline import replay
from pipeline.errors import CheckpointError, ConfigError, StorageError
from pipeline.registry import move_alias, register
from pipeline.replay import waiting
from pipeline.tracking import fetch_checkpoint, publish_checkpoint
from stages.contract import CheckpointRef, StageResult, StageSpec, write_result, write_spec
from stages.record import open_stage_run

DOWN = "http://127.0.0.1:9"


def done(
    run: Path,
    name: str,
    uri: str,
    given: CheckpointRef | None = None,
) -> CheckpointRef:
    """A stage of a run, trained, recorded and evaluated; its checkpoint."""
    folder = run / name
    folder.mkdir(parents=True)
    (folder / "model.pt").write_text(f"weights of {name}")
    tracking = {"uri": uri, "experiment": "sam2"}
    spec = StageSpec(name, "joint_train", {"seed": 0}, str(folder), tracking, given)
    write_spec(spec)
    record = open_stage_run(spec)
    record.log_metrics(4, {"loss": 0.25})
    record.log_dataset("clips", "d" * 64, "/data/clips", {"items": 3})
    source, digest = publish_checkpoint(record, folder / "model.pt")
    record.close(wait_seconds=60 if uri != DOWN else 0.2)
    reference = CheckpointRef(source, digest, name, 4, record.run_id)
    write_result(folder, StageResult(name, spec.key, digest, {"steps": 4}, reference))
    place = run / f"{name}.evaluate"
    measured = StageSpec(f"{name}.evaluate", "evaluate", {}, str(place), tracking, reference)
    write_spec(measured)
    record = open_stage_run(measured)
    record.log_metrics(4, {"video/jf": 71.84}, keep=True)
    record.set_tags({"video.protocol": "SA-V"})
    record.close(wait_seconds=60 if uri != DOWN else 0.2)
    write_result(place, StageResult(measured.name, measured.key, measured.key, {"video/jf": 71.84}))
    return reference


@pytest.fixture(scope="module")
def chain(store: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CheckpointRef]:
    """A run of two stages on weights from outside, the last one registered as `joint`."""
    run = tmp_path_factory.mktemp("chain") / "run"
    outside = CheckpointRef("/weights/sam2.pt", "e" * 64, "", 0, "")
    first = done(run, "image", store, outside)
    last = done(run, "joint", store, first)
    number = register(
        store, "sam2-lineage", last.uri, sha256=last.sha256, run_id=last.run_id, tags={"run": "run"}
    )
    move_alias(store, "sam2-lineage", "joint", number)
    return run, last


def require_chain(origin: Origin, last: CheckpointRef) -> None:
    """joint, its data and image, its data and the weights from outside."""
    assert (origin.kind, origin.facts["sha256"]) == ("checkpoint", last.sha256)
    assert origin.facts["video/jf"] == "71.84 (SA-V)"
    (joint,) = origin.made_from
    assert (joint.kind, joint.name) == ("stage", "joint")
    assert joint.facts["key"] and joint.facts["code"]
    data, between = joint.made_from
    assert data == Origin("data", "clips", {"sha256": "d" * 64, "root": "/data/clips"})
    (image,) = between.made_from
    assert image.name == "image"
    _, outside = image.made_from
    assert outside.facts["origin"] == "from outside" and outside.facts["sha256"] == "e" * 64
    assert outside.made_from == ()


def test_every_name_of_a_checkpoint_leads_to_the_same_tree(store: str, chain, tmp_path: Path):
    run, last = chain
    copy = tmp_path / "deep" / "copy.pt"
    copy.parent.mkdir()
    copy.write_bytes((run / "joint" / "model.pt").read_bytes())
    for name in (
        last.uri,
        str(run),
        str(run / "joint"),
        str(run / "joint" / "model.pt"),
        str(copy),
    ):
        require_chain(trace(name, store), last)
    for name in ("models:/sam2-lineage@joint", "models:/sam2-lineage/1"):
        version = trace(name, store)
        assert (version.kind, version.facts["aliases"]) == ("version", "joint")
        require_chain(version.made_from[0], last)
    stage = trace(f"runs:/{last.run_id}", store)
    assert (stage.kind, stage.name, stage.facts["loss"]) == ("stage", "joint", "0.25")


def test_folders_alone_tell_as_much_and_are_sent_later(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run = tmp_path / "run"
    first = done(run, "image", DOWN, CheckpointRef("/weights/sam2.pt", "e" * 64, "", 0, ""))
    last = done(run, "joint", DOWN, first)
    require_chain(trace(str(run), DOWN), last)
    assert store_of(run) == DOWN and len(journals(run)) == 4
    assert catch_up(run, DOWN, 5) == (0, 4)
    assert catch_up(run, store, 60) == (4, 0)
    assert not any(waiting(folder) for folder in journals(run))
    assert catch_up(run, store, 60) == (0, 0)
    copy = tmp_path / "a" / "b" / "copy.pt"
    copy.parent.mkdir(parents=True)
    copy.write_bytes((run / "joint" / "model.pt").read_bytes())
    require_chain(trace(str(copy), store), last)


def test_the_command_draws_a_tree_or_json(
    store: str, chain, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    run, last = chain
    assert main(["lineage", str(run)]) == 0
    drawn = capsys.readouterr().out
    for words in ("checkpoint model.pt", "stage joint", "└──", "from outside", last.sha256[:12]):
        assert words in drawn
    assert main(["lineage", "models:/sam2-lineage@joint", "--tracking", store, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["made_from"][0]["facts"]["sha256"] == last.sha256
    assert main(["sync", str(run)]) == 0
    assert "nothing waits" in capsys.readouterr().out
    assert main(["lineage", "models:/sam2-lineage@nope", "--tracking", store]) == 2
    assert "has no such alias of sam2-lineage" in capsys.readouterr().err


def test_unknown_names_say_what_was_expected(store: str, chain, tmp_path: Path):
    _, last = chain
    stray = tmp_path / "deep" / "stray.pt"
    stray.parent.mkdir()
    stray.write_text("of nobody")
    for name, error, words in (
        ("nowhere", ConfigError, "no such file or folder; expected models:/"),
        ("models:/sam2-lineage", ConfigError, "expected models:/NAME@ALIAS"),
        ("models:/sam2-lineage/99", CheckpointError, "no such version"),
        ("runs:/0123", CheckpointError, "has no run 0123"),
        (f"runs:/{last.run_id}/checkpoints/x.pt", CheckpointError, "it published model.pt"),
        (str(stray), CheckpointError, "no run on record"),
        (str(tmp_path), CheckpointError, "no training stage is done"),
    ):
        with pytest.raises(error, match=words):
            trace(name, store)


def test_asking_makes_no_database(tmp_path: Path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    (tmp_path / "x.pt").write_text("of nobody")
    for name, error in (
        (str(tmp_path / "x.pt"), CheckpointError),
        ("models:/sam2-lineage@joint", StorageError),
        ("runs:/0123", StorageError),
    ):
        with pytest.raises(error, match=r"mlflow\.db"):
            trace(name, uri)
    with pytest.raises(CheckpointError, match="there is no MLflow store"):
        fetch_checkpoint("runs:/0123/checkpoints/model.pt", "", tmp_path, uri)
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]


def test_sync_needs_something_to_send_and_somewhere_to_send_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert main(["sync", str(tmp_path)]) == 2
    assert "holds no record.jsonl" in capsys.readouterr().err
    assert main(["sync", "--runs", str(tmp_path)]) == 2
    assert "there is no run in" in capsys.readouterr().err
    done(tmp_path / "run", "image", DOWN)
    done(tmp_path / "other", "image", DOWN)
    assert main(["sync", "--runs", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert said.count("0 sent, 2 still wait; MLflow at http://127.0.0.1:9 does not answer") == 2
    with pytest.raises(StorageError):
        trace("models:/sam2-lineage@joint", DOWN)


def test_sync_sends_all_of_a_run_into_another_store(
    chain, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Also what the first store has, and its files beside the new database, wherever it is called."""
    run, last = shutil.copytree(chain[0], tmp_path / "run"), chain[1]
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    other = f"sqlite:///{here / 'other' / 'mlflow.db'}"
    assert main(["sync", str(run), "--tracking", other]) == 0
    assert "4 sent" in capsys.readouterr().out
    require_chain(trace(str(run / "joint" / "model.pt"), other), last)
    assert list((here / "other" / "artifacts").rglob("config.yaml"))
    assert [path.name for path in here.iterdir()] == ["other"]
    assert main(["sync", str(run), "--tracking", other]) == 0
    assert "nothing waits" in capsys.readouterr().out


def test_files_that_are_not_taken_hold_up_no_other_stage(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        done(run, "image", DOWN)

    def broken(uri: str, run_id: str, entry: dict) -> None:
        if "evaluate" not in entry["file"]:
            raise PermissionError("the bucket is closed")

    monkeypatch.setattr(replay, "_send_artifact", broken)
    assert catch_up(run, store, 60) == (1, 1)
    assert not waiting(run / "image.evaluate", store)

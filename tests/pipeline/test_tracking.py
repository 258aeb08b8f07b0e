"""Runs are recorded in a real MLflow store; a store that is down loses nothing and stops
nothing."""

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline import tracking
from pipeline.errors import CheckpointError, StorageError
from pipeline.spool import Spool

DOWN = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{folder / 'deep' / 'mlflow.db'}"
    first = tracking.prepare_store(uri, "sam2", folder / "artifacts")
    assert tracking.prepare_store(uri, "sam2", folder / "artifacts") == first
    return uri


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(tracking.time, "sleep", lambda seconds: None)


def history(uri: str, run_id: str, name: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in MlflowClient(uri).get_metric_history(run_id, name)]


def test_one_run_for_a_stage_key(store: str, tmp_path: Path) -> None:
    parent = tracking.open_run(store, "sam2", "run", "parent key")
    run = tracking.open_run(
        store, "sam2", "video", "key 1", folder=tmp_path, parent=parent.run_id, params={"lr": 0.1}
    )
    for step in range(1500):
        run.log_metrics(step, {"loss": step / 2})
    run.log_metrics(1500, {"loss": float("nan")})
    (tmp_path / "table.txt").write_text("x")
    run.log_artifact(tmp_path / "table.txt", "tables")
    run.close()
    again = tracking.open_run(store, "sam2", "video", "key 1")
    assert again.run_id == run.run_id == tracking.find_run(store, "sam2", "key 1")
    assert tracking.open_run(store, "sam2", "video", "key 2").run_id != run.run_id
    found = MlflowClient(store).get_run(run.run_id)
    assert found.data.params == {"lr": "0.1"}
    assert found.data.tags["mlflow.parentRunId"] == parent.run_id
    assert found.info.status == "RUNNING"
    assert history(store, run.run_id, "loss")[:1500] == [(s, s / 2) for s in range(1500)]
    files = MlflowClient(store).list_artifacts(run.run_id, "tables")
    assert [file.path for file in files] == ["tables/table.txt"]


def test_a_store_that_is_down_costs_nothing_and_gets_everything_later(
    store: str, tmp_path: Path
) -> None:
    run = tracking.open_run(DOWN, "sam2", "video", "key 3", folder=tmp_path)
    assert run.run_id == ""
    for step in range(10):
        run.log_metrics(step, {"loss": float(step)})
    run.set_tags({"a": "b"})
    run.close(wait_seconds=1)
    later = tracking.open_run(store, "sam2", "video", "key 3", folder=tmp_path)
    later.log_metrics(10, {"loss": 10.0})
    later.close()
    assert history(store, later.run_id, "loss") == [(step, float(step)) for step in range(11)]


def test_a_store_that_goes_away_in_between_gets_every_row_once(tmp_path: Path) -> None:
    received: list[int] = []
    down = [True]

    def send(rows: list[dict[str, int]]) -> None:
        if down[0]:
            raise ConnectionError("gone")
        received.extend(row["step"] for row in rows)

    spool = Spool(tmp_path, send)
    spool.add({"step": 0})
    spool.close(5)
    assert received == []
    down[0] = False
    for _ in range(2):
        spool = Spool(tmp_path, send)
        spool.add({"step": len(received) + 1})
        spool.close(5)
    assert received == [0, 1, 3]
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": 4}))  # a writer killed in the middle of a row
    Spool(tmp_path, send).close(5)
    assert received == [0, 1, 3]


def test_a_checkpoint_travels_by_reference_and_digest(store: str, tmp_path: Path) -> None:
    run = tracking.open_run(store, "sam2", "image", "key 4")
    (tmp_path / "model.pt").write_bytes(b"weights")
    uri, digest = tracking.publish_checkpoint(run, tmp_path / "model.pt", "model.pt")
    assert uri == f"runs:/{run.run_id}/checkpoints/model.pt"
    path = tracking.fetch_checkpoint(uri, digest, tmp_path / "cache", store)
    assert path.read_bytes() == b"weights"
    path.write_bytes(b"tampered")
    with pytest.raises(CheckpointError) as raised:
        tracking.fetch_checkpoint(uri, digest, tmp_path / "cache", store)
    assert digest in str(raised.value)
    assert tracking.sha256(path) in str(raised.value)


def test_checkpoints_from_elsewhere(store: str, tmp_path: Path) -> None:
    import fsspec

    with fsspec.open("memory://bucket/sam2.pt", "wb") as file:
        file.write(b"theirs")
    path = tracking.fetch_checkpoint("memory://bucket/sam2.pt", "", tmp_path / "cache")
    assert path.read_bytes() == b"theirs"
    digest = tracking.sha256(path)
    for _ in range(2):  # downloaded, then found in the cache
        found = tracking.fetch_checkpoint("memory://bucket/sam2.pt", digest, tmp_path / "cache")
        assert found.read_bytes() == b"theirs"
    assert tracking.fetch_checkpoint(str(path), digest, tmp_path) == path
    for uri in ("runs:/nosuchrun/checkpoints/x.pt", str(tmp_path / "nowhere.pt")):
        with pytest.raises(CheckpointError, match=r"nosuchrun|nowhere"):
            tracking.fetch_checkpoint(uri, "", tmp_path, store)


def test_a_store_that_is_down_leaves_the_checkpoint_where_it_is(tmp_path: Path) -> None:
    run = tracking.open_run(DOWN, "sam2", "image", "key 5")
    (tmp_path / "model.pt").write_bytes(b"weights")
    uri, digest = tracking.publish_checkpoint(run, tmp_path / "model.pt", "model.pt")
    assert uri == str(tmp_path / "model.pt")
    assert tracking.fetch_checkpoint(uri, digest, tmp_path / "cache") == tmp_path / "model.pt"


def test_a_store_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"127.0.0.1:9 cannot be used.*tracking.uri"):
        tracking.prepare_store(DOWN, "sam2")


def test_curves_and_pictures_for_tensorboard(tmp_path: Path) -> None:
    import numpy as np
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from pipeline.board import Board

    board = Board(tmp_path)
    for step in range(3):
        board.scalars(step, {"loss": float(step)})
    board.image("overlay", np.zeros((4, 6, 3), np.uint8), 2)
    board.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [
        (0, 0),
        (1, 1),
        (2, 2),
    ]
    assert events.Images("overlay")[0].width == 6

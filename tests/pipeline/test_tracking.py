"""Runs are recorded in a real MLflow store, one run for a piece of work; checkpoints travel by reference."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow import MlflowClient

from pipeline import publishing, tracking
from pipeline.errors import CheckpointError, StorageError
from pipeline.storage import sha256

DOWN = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(tracking.time, "sleep", lambda seconds: None)


def history(uri: str, run_id: str, name: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in MlflowClient(uri).get_metric_history(run_id, name)]


def test_one_run_for_the_work_of_a_folder(store: str, tmp_path: Path) -> None:
    parent = tracking.open_run(store, "sam2", "run", "parent key", tmp_path)
    folder = tmp_path / "video"
    run = tracking.open_run(
        store,
        "sam2",
        "video",
        "key 1",
        folder,
        parent=parent.wait_id(20),
        params={"lr": 0.1, "root": "s3://me:secret@host/x"},
        tags={"stage": "video", "code.commit": "abc"},
    )
    for step in range(1500):
        run.log_metrics(step, {"loss": step / 2})
    run.log_metrics(1500, {"image/miou@1": 0.5})
    run.log_metrics(1501, {"loss": float("nan")})
    (tmp_path / "table.txt").write_text("x")
    run.log_artifact(tmp_path / "table.txt", "tables")
    run.close()
    found = MlflowClient(store).get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.params == {"lr": "0.1", "root": "s3://***@host/x"}
    assert found.data.tags["mlflow.parentRunId"] == parent.run_id
    assert found.data.metrics["image/miou_at_1"] == 0.5
    assert history(store, run.run_id, "loss")[:1500] == [(s, s / 2) for s in range(1500)]
    files = MlflowClient(store).list_artifacts(run.run_id, "tables")
    assert [file.path for file in files] == ["tables/table.txt"]

    again = tracking.open_run(store, "sam2", "video", "key 1", folder, tags={"code.commit": "def"})
    again.close("FAILED")
    assert again.run_id == run.run_id == tracking.find_run(store, "sam2", "key 1", folder)
    found = MlflowClient(store).get_run(run.run_id)
    assert (found.info.status, found.data.tags["code.commit"]) == ("FAILED", "def")
    for key, place in (("key 2", folder), ("key 1", tmp_path / "other run")):
        other = tracking.open_run(store, "sam2", "video", key, place)
        assert other.wait_id(20) not in ("", run.run_id), "other work, or the same in another run"
        other.close()
    parent.close()


def test_a_checkpoint_travels_by_reference_and_digest(store: str, tmp_path: Path) -> None:
    run = tracking.open_run(store, "sam2", "image", "key 4", tmp_path / "stage")
    (tmp_path / "model.pt").write_bytes(b"weights")
    uri, digest = tracking.publish_checkpoint(run, tmp_path / "model.pt")
    run.close()
    assert uri == f"runs:/{run.run_id}/checkpoints/model.pt"
    tags = MlflowClient(store).get_run(run.run_id).data.tags
    assert tags["checkpoint.sha256"] == tags["checkpoint.model.pt.sha256"] == digest
    path = tracking.fetch_checkpoint(uri, digest, tmp_path / "cache", store)
    assert path.read_bytes() == b"weights"
    path.write_bytes(b"tampered")
    with pytest.raises(CheckpointError) as raised:
        tracking.fetch_checkpoint(uri, digest, tmp_path / "cache", store)
    assert digest in str(raised.value)
    assert sha256(path) in str(raised.value)


def test_a_store_of_our_own_takes_checkpoints_and_shows_none_that_is_broken(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tracking.open_run(store, "sam2", "image", "key 6", tmp_path / "stage")
    (tmp_path / "model.pt").write_bytes(b"weights")
    own = (tmp_path / "own").as_uri()

    def half(source: Path, target: str) -> None:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(target).write_bytes(b"weig")

    with monkeypatch.context() as patch:
        patch.setattr(publishing, "put", half)
        uri, digest = tracking.publish_checkpoint(run, tmp_path / "model.pt", own)
    assert uri == str(tmp_path / "model.pt") and not list((tmp_path / "own").rglob("*.pt"))
    assert "checkpoint.sha256" not in MlflowClient(store).get_run(run.run_id).data.tags

    uri, digest = tracking.publish_checkpoint(run, tmp_path / "model.pt", own)
    run.close()
    place = tmp_path / "own" / run.run_id / "checkpoints" / "model.pt"
    assert place.read_bytes() == b"weights"
    assert tracking.fetch_checkpoint(uri, digest, tmp_path / "cache", store) == place


def test_a_file_too_large_for_a_server_stays_and_is_known_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "model.pt"
    file.write_bytes(b"weights")
    info = SimpleNamespace(artifact_uri="mlflow-artifacts:/1/run/artifacts")
    run = SimpleNamespace(info=info, data=SimpleNamespace(tags={}))
    server = SimpleNamespace(get_run=lambda run_id: run)
    monkeypatch.setattr(publishing, "client", lambda uri: server)
    monkeypatch.setattr(publishing, "PROXY_BYTES", 3)
    uri, run.data.tags = publishing.place(DOWN, "id", file, digest := sha256(file))
    assert uri == str(file) and "7 B, more than the 3 B" in caplog.text
    assert "tracking.artifacts" in caplog.text
    assert run.data.tags["checkpoint.sha256"] == digest, "lineage finds it"
    again = tracking.fetch_checkpoint("runs:/id/checkpoints/model.pt", digest, tmp_path, DOWN)
    assert again == file


def test_checkpoints_from_elsewhere(store: str, tmp_path: Path) -> None:
    import fsspec

    with fsspec.open("memory://bucket/sam2.pt", "wb") as file:
        file.write(b"theirs")
    path = tracking.fetch_checkpoint("memory://bucket/sam2.pt", "", tmp_path / "cache")
    assert path.read_bytes() == b"theirs"
    digest = sha256(path)
    for _ in range(2):  # downloaded, then found in the cache
        found = tracking.fetch_checkpoint("memory://bucket/sam2.pt", digest, tmp_path / "cache")
        assert found.read_bytes() == b"theirs"
    assert tracking.fetch_checkpoint(str(path), digest, tmp_path) == path
    for uri in ("runs:/nosuchrun/checkpoints/x.pt", str(tmp_path / "nowhere.pt")):
        with pytest.raises(CheckpointError, match=r"nosuchrun|nowhere"):
            tracking.fetch_checkpoint(uri, "", tmp_path, store)


def test_a_store_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"127.0.0.1:9 cannot be used.*tracking.uri"):
        tracking.prepare_store(DOWN, "sam2")


def test_curves_and_pictures_for_tensorboard(tmp_path: Path) -> None:
    import numpy as np

    from pipeline.board import Board

    board = Board(tmp_path)
    for step in range(3):
        board.scalars(step, {"loss": float(step)})
    board.image("overlay", np.zeros((4, 6, 3), np.uint8), 2)
    board.close()
    events = curves(tmp_path)
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [
        (0, 0),
        (1, 1),
        (2, 2),
    ]
    assert events.Images("overlay")[0].width == 6


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_disk_that_was_full_costs_tensorboard_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    from tensorboard.summary.writer.record_writer import RecordWriter

    from pipeline import outbox
    from pipeline.board import Board

    write, full = RecordWriter.write, []

    def sometimes(self: RecordWriter, data: bytes) -> None:
        if len(full) < 2:
            full.append(1)
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, data)

    monkeypatch.setattr(outbox, "RETRY_SECONDS", 0.01)
    board = Board(tmp_path)
    board.scalars(0, {"loss": 1.0})
    deadline = 200
    while not curves(tmp_path).Tags()["scalars"] and (deadline := deadline - 1):
        outbox.threading.Event().wait(0.02)
    monkeypatch.setattr(RecordWriter, "write", sometimes)
    for step in (1, 2):
        board.scalars(step, {"loss": 1.0})
    while len(full) < 2:
        outbox.threading.Event().wait(0.01)
    board.scalars(3, {"loss": 1.0})
    board.close()
    assert {event.step for event in curves(tmp_path).Scalars("loss")} == {0, 1, 2, 3}


def curves(folder: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder)).Reload()

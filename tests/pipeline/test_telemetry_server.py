"""The same against a real server: it goes away in the middle and comes back; files go past it to S3."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from mlflow import MlflowClient

from pipeline import publishing, replay, tracking
from pipeline.mlflow_store import answers, client
from pipeline.registry import move_alias, register, version_at
from pipeline.replay import send_waiting, waiting
from pipeline.storage import sha256
from tests.mlflow_server import MlflowServer
from tests.s3 import BUCKET, moto_server, pointed_at

pytestmark = pytest.mark.slow
WEIGHTS = b"weights" * 1000


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(replay, "PASS_SECONDS", 0.2)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    made = MlflowServer(tmp_path_factory.mktemp("server")).start()
    tracking.prepare_store(made.address, "sam2")
    yield made
    made.stop()


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with moto_server() as address, pointed_at(address):
        store, _ = fsspec.core.url_to_fs(f"s3://{BUCKET}")
        store.mkdir(BUCKET)
        yield f"s3://{BUCKET}/mlflow"


def history(uri: str, run_id: str, name: str) -> list[tuple[int, float]]:
    found = MlflowClient(uri).get_metric_history(run_id, name)
    return [(m.step, m.value) for m in found]


def until(condition, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_server_that_is_killed_and_comes_back_has_every_row_once(
    server: MlflowServer, tmp_path: Path
):
    run = tracking.open_run(server.address, "sam2", "outage", "key", tmp_path / "run")
    run_id = run.wait_id(30)
    for step in range(300):
        run.log_metrics(step, {"loss": float(step), "lr": 0.1})
        if step == 100:
            until(lambda: len(history(server.address, run_id, "loss")) > 50)
            server.stop(signal.SIGKILL)
        if step == 200:  # a stage that begins and ends meanwhile
            late = tracking.open_run(server.address, "sam2", "late", "late key", tmp_path / "late")
            late.log_metrics(1, {"loss": 1.0})
            late.close(wait_seconds=2)
            assert late.run_id == "" and waiting(tmp_path / "late")
            server.start()
        time.sleep(0.002)
    run.set_tags({"after": "the outage"})
    run.close(wait_seconds=60)
    assert history(server.address, run_id, "loss") == [(step, float(step)) for step in range(300)]
    assert len(history(server.address, run_id, "lr")) == 300
    found = MlflowClient(server.address).get_run(run_id)
    assert found.info.status == "FINISHED" and found.data.tags["after"] == "the outage"
    late_id = send_waiting(tmp_path / "late", server.address, patience=20)
    assert tracking.find_run(server.address, "sam2", "late key", tmp_path / "late") == late_id
    assert history(server.address, late_id, "loss") == [(1, 1.0)]


def test_a_frozen_server_is_left_alone(server: MlflowServer):
    assert answers(server.address)
    os.killpg(server.process.pid, signal.SIGSTOP)
    try:
        assert not answers(server.address, seconds=0.5)
    finally:
        os.killpg(server.process.pid, signal.SIGCONT)


def store_of(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """(address of the store, its experiment) with artifacts on disk, in S3, or behind the server."""
    s3 = request.getfixturevalue("s3") if "s3" in kind else None
    here = kind.startswith("sqlite")
    uri = request.getfixturevalue("store" if here else "server")
    uri = uri if here else uri.address
    tracking.prepare_store(uri, kind, s3 or (tmp_path / "files" if here else None))
    return uri, kind


@pytest.mark.parametrize("kind", ["sqlite", "sqlite+s3", "http+proxy", "http+s3"])
def test_checkpoints_metrics_and_registry_work_on_every_store(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
):
    uri, experiment = store_of(kind, request, tmp_path)
    (tmp_path / "model.pt").write_bytes(WEIGHTS)
    (tmp_path / "table.txt").write_text("table")
    run = tracking.open_run(uri, experiment, "image", f"key {kind}", tmp_path / "stage")
    run.log_metrics(1, {"loss": 1.0})
    run.log_artifact(tmp_path / "table.txt")
    source, digest = tracking.publish_checkpoint(run, tmp_path / "model.pt")
    run.close(wait_seconds=60)
    assert source == f"runs:/{run.run_id}/checkpoints/model.pt"
    where = publishing.artifact_source(source, uri)
    kinds = {"sqlite": "file:", "http+proxy": "mlflow-artifacts:"}
    assert where.startswith(kinds.get(kind, "s3:"))
    path = tracking.fetch_checkpoint(source, digest, tmp_path / "cache", uri)
    assert path.read_bytes() == WEIGHTS
    assert history(uri, run.run_id, "loss") == [(1, 1.0)]
    names = {file.path for file in MlflowClient(uri).list_artifacts(run.run_id)}
    assert {"table.txt", "checkpoints"} <= names
    model = f"sam2-{kind.replace('+', '-')}"
    number = register(uri, model, source, sha256=digest, run_id=run.run_id, tags={"stage": "image"})
    move_alias(uri, model, "champion", number)
    held = version_at(uri, model, "champion")
    assert held is not None
    again = tracking.fetch_checkpoint(held.source, held.sha256, tmp_path / "again", uri)
    assert again.read_bytes() == WEIGHTS
    # a checkpoint that no store took is registered by its path
    elsewhere = register(
        uri, model, str(tmp_path / "x.pt"), sha256="0" * 64, run_id=run.run_id, tags={}
    )
    assert elsewhere != number


def test_a_proxied_server_gets_past_by_a_store_of_our_own(
    server: MlflowServer, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Several parts, straight to S3; nothing of it passes the server."""
    big = tmp_path / "model.pt"
    with open(big, "wb") as file:
        for number in range(11):  # s3fs sends less than 100 MB in one piece
            file.write(bytes([number]) * (10 << 20))
    monkeypatch.setattr(publishing, "PROXY_BYTES", 1000)
    run = tracking.open_run(server.address, "sam2", "big", "big", tmp_path / "stage")
    stays, _ = tracking.publish_checkpoint(run, big)
    assert stays == str(big), "too large for the server, and no store of our own"
    reference = f"runs:/{run.run_id}/checkpoints/model.pt"
    until(lambda: "checkpoint.sha256" in client(server.address).get_run(run.run_id).data.tags)
    assert publishing.artifact_source(reference, server.address) == stays
    source, digest = tracking.publish_checkpoint(run, big, s3)
    run.close(wait_seconds=60)
    where = publishing.artifact_source(source, server.address)
    assert where == f"{s3}/{run.run_id}/checkpoints/model.pt"
    store, inner = fsspec.core.url_to_fs(where)
    assert "-" in store.info(inner)["ETag"], "sent in parts"
    assert not list(server.folder.rglob(f"{run.run_id}/**/model.pt"))
    path = tracking.fetch_checkpoint(source, digest, tmp_path / "cache", server.address)
    assert sha256(path) == digest and path.parent.parent == tmp_path / "cache"


def test_an_upload_that_breaks_off_leaves_no_reference(
    server: MlflowServer, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "model.pt").write_bytes(WEIGHTS)
    run = tracking.open_run(server.address, "sam2", "broken", "broken", tmp_path / "stage")
    monkeypatch.setattr(tracking.time, "sleep", lambda seconds: None)
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        patch.setenv("AWS_MAX_ATTEMPTS", "1")
        patch.setattr("pipeline.remote.PAUSES", ())
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        source, digest = tracking.publish_checkpoint(run, tmp_path / "model.pt", s3)
        assert source == str(tmp_path / "model.pt")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    run_id = run.run_id
    assert "checkpoint.sha256" not in client(server.address).get_run(run_id).data.tags
    run.close(wait_seconds=60)  # S3 is back: the journal sends it
    until(lambda: "checkpoint.sha256" in client(server.address).get_run(run_id).data.tags)
    reference = f"runs:/{run_id}/checkpoints/model.pt"
    path = tracking.fetch_checkpoint(reference, digest, tmp_path / "cache", server.address)
    assert path.read_bytes() == WEIGHTS

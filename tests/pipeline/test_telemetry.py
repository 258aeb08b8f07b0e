"""What is recorded lies in the journal first: nobody waits for a store, and nothing is lost by one that is down."""

import itertools
import json
import threading
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from benchmarks.telemetry import STORES
from pipeline import journal, outbox, replay, tracking
from pipeline.journal import METRICS, RECORD, SENT, Journal, read_lines
from pipeline.mlflow_store import answers
from pipeline.outbox import Outbox
from pipeline.replay import send_waiting, waiting

REFUSING = "http://127.0.0.1:9"
TROUBLES = ("hanging", "answering 500", "refusing")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    monkeypatch.setattr(outbox, "RETRY_SECONDS", 0.01)


def history(uri: str, run_id: str, name: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in MlflowClient(uri).get_metric_history(run_id, name)]


def record(down: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A stage from its first word to its last; the digest of its checkpoint."""
    run = tracking.open_run(
        down, "sam2", kind, kind, tmp_path / "stage", params={"lr": 1}, tags={"a": "b"}
    )
    for step in range(50):  # a call that waited for the store would take its 60 s
        run.log_metrics(step, {"loss": float(step)})
    run.set_tags({"late": "tag"})
    run.log_artifact(tmp_path / "model.pt", "files")
    assert run.wait_id(0.1) == ""
    monkeypatch.setattr(tracking, "ID_SECONDS", 0.1)
    uri, digest = tracking.publish_checkpoint(run, tmp_path / "model.pt")
    assert uri == str(tmp_path / "model.pt"), "on the shared disk until the store takes it"
    run.close("KILLED", wait_seconds=0.5)
    assert waiting(tmp_path / "stage") > 0
    return digest


@pytest.mark.parametrize("kind", TROUBLES)
def test_a_store_in_trouble_holds_nobody_up_and_gets_everything_later(
    kind: str,
    store: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    (tmp_path / "model.pt").write_bytes(b"weights")
    with STORES[kind](tmp_path) as down:
        assert answers(down, seconds=0.2) == (kind == "answering 500")
        digest = record(down, kind, tmp_path, monkeypatch)
    run_id = send_waiting(tmp_path / "stage", store, patience=20)
    assert waiting(tmp_path / "stage") == 0
    found = MlflowClient(store).get_run(run_id)
    assert found.info.status == "KILLED" and found.data.params == {"lr": "1"}
    assert (found.data.tags["a"], found.data.tags["late"]) == ("b", "tag")
    assert history(store, run_id, "loss") == [(step, float(step)) for step in range(50)]
    opened = next(read_lines(tmp_path / "stage" / RECORD))
    assert found.info.start_time == opened["time"], "as if it had been there from the beginning"
    late = tracking.fetch_checkpoint(f"runs:/{run_id}/checkpoints/model.pt", digest, "", store)
    assert late.read_bytes() == b"weights" and late != tmp_path / "model.pt"
    assert [f.path for f in MlflowClient(store).list_artifacts(run_id, "files")] == [
        "files/model.pt"
    ]


def test_a_run_that_could_not_be_made_is_made_once_and_under_its_parent(store: str, tmp_path: Path):
    parent = tracking.open_run(REFUSING, "sam2", "parent", "the parent", tmp_path)
    child = tracking.open_run(
        REFUSING, "sam2", "child", "the child", tmp_path / "stage", parent_folder=tmp_path
    )
    child.log_metrics(1, {"loss": 1.0})
    for run in (child, parent):
        run.close(wait_seconds=1)
    passes = [
        threading.Thread(target=send_waiting, args=(folder, store), kwargs={"patience": 20})
        for folder in (tmp_path / "stage", tmp_path, tmp_path / "stage", tmp_path)
    ]
    for one in passes:
        one.start()
    for one in passes:
        one.join()
    ids = {
        name: tracking.find_run(store, "sam2", f"the {name}", place)
        for name, place in (("parent", tmp_path), ("child", tmp_path / "stage"))
    }
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("sam2").experiment_id
    for name, run_id in ids.items():
        same = client.search_runs([experiment], f"tags.stage_key = 'the {name}'")
        assert [run.info.run_id for run in same] == [run_id], "no ghosts"
    assert client.get_run(ids["child"]).data.tags["mlflow.parentRunId"] == ids["parent"]


def test_what_is_sent_twice_is_there_once(store: str, tmp_path: Path):
    run = tracking.open_run(store, "sam2", "twice", "twice", tmp_path)
    for step in range(5):
        run.log_metrics(step, {"loss": float(step), "bad": float("nan")})
    run.close()
    (tmp_path / SENT).unlink()  # killed after sending, before noting it
    assert send_waiting(tmp_path, store) == run.run_id
    assert len(history(store, run.run_id, "loss")) == len(history(store, run.run_id, "bad")) == 5
    # a stage that continues from a checkpoint takes steps again: equal values, equal points
    again = tracking.open_run(store, "sam2", "twice", "twice", tmp_path)
    for step in range(3, 7):
        again.log_metrics(step, {"loss": float(step), "bad": float("nan")})
    again.close()
    assert history(store, run.run_id, "loss") == [(step, float(step)) for step in range(7)]


def test_a_folder_with_other_work_keeps_the_records_of_both(store: str, tmp_path: Path):
    first = tracking.open_run(REFUSING, "sam2", "evaluate", "work 1", tmp_path)
    first.log_metrics(1, {"loss": 1.0})
    first.close(wait_seconds=1)
    second = tracking.open_run(store, "sam2", "evaluate", "work 2", tmp_path)
    second.log_metrics(2, {"loss": 2.0})
    second.close()
    assert history(store, second.run_id, "loss") == [(2, 2.0)]
    again = tracking.open_run(REFUSING, "sam2", "evaluate", "work 1", tmp_path)
    again.log_metrics(3, {"loss": 3.0})
    again.close(wait_seconds=1)
    tracking.open_run(store, "sam2", "evaluate", "work 2", tmp_path).close()
    for aside in tmp_path.glob("earlier-*"):
        run_id = send_waiting(aside, store)
    run_id = tracking.find_run(store, "sam2", "work 1", tmp_path)
    assert history(store, run_id, "loss") == [(1, 1.0), (3, 3.0)]


def test_a_killed_writer_leaves_no_half_line_in_the_way(store: str, tmp_path: Path):
    run = tracking.open_run(store, "sam2", "killed", "killed", tmp_path)
    run.log_metrics(1, {"loss": 1.0})
    run.close()
    for name in (METRICS, RECORD):
        with open(tmp_path / name, "a") as file:
            file.write('{"kind": "tags", "step": 4, "val')
    assert send_waiting(tmp_path, store) == run.run_id
    again = tracking.open_run(store, "sam2", "killed", "killed", tmp_path)
    again.log_metrics(2, {"loss": 2.0})
    again.close()
    assert history(store, run.run_id, "loss") == [(1, 1.0), (2, 2.0)]
    assert waiting(tmp_path) == 0


def test_what_the_store_refuses_does_not_hold_up_the_rest(
    store: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    params = {"p" * 300: "too long a name", "data.a+b.root": "/data", "lr": 0.1}
    tags = {"y" * 300: "too long a name", "stage": "joint"}
    run = tracking.open_run(store, "sam2", "refused", "x", tmp_path, params=params, tags=tags)
    run.log_metrics(1, {"loss": 1.0, "x" * 300: 2.0})
    run.set_tags({"y" * 300: "too long a name", "after": "it"})
    run.log_artifact(tmp_path / "nowhere.txt")
    run.log_metrics(2, {"loss": 2.0})
    run.close()
    assert history(store, run.run_id, "loss") == [(1, 1.0), (2, 2.0)]
    assert waiting(tmp_path) == 0 and "refuses a metric" in caplog.text
    assert "refuses a tag" in caplog.text and "nowhere.txt is not there" in caplog.text
    found = MlflowClient(store).get_run(run.run_id).data
    assert found.params == {"data.a_b.root": "/data", "lr": "0.1"}
    assert (found.tags["stage"], found.tags["after"]) == ("joint", "it")


def test_a_run_that_was_deleted_is_made_again_from_the_journal(store: str, tmp_path: Path):
    run = tracking.open_run(store, "sam2", "deleted", "deleted", tmp_path)
    run.log_metrics(1, {"loss": 1.0})
    run.close()
    MlflowClient(store).delete_run(run.run_id)
    again = tracking.open_run(store, "sam2", "deleted", "deleted", tmp_path)
    again.log_metrics(2, {"loss": 2.0})
    again.close()
    run_id = send_waiting(tmp_path, store) or again.run_id
    assert run_id != run.run_id
    assert history(store, run_id, "loss") == [(1, 1.0), (2, 2.0)]


def test_a_disk_that_hangs_holds_nobody_up_and_gets_what_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    stuck, append = threading.Event(), journal.append

    def slow(path: Path, rows: list) -> None:
        stuck.wait(30)
        append(path, rows)

    monkeypatch.setattr(journal, "append", slow)
    monkeypatch.setattr(outbox, "ROOM", 100)
    written = Journal(tmp_path)
    written._outbox._room = 100
    for step in range(1000):
        written.row(step, {"loss": 0.0}, keep=step % 250 == 0)
    written.entry("tags", values={"a": "b"})
    assert len(written._outbox._waiting) <= 105, "bounded"
    stuck.set()
    assert written.close(20)
    steps = [row["step"] for row in read_lines(tmp_path / METRICS)]
    assert steps == sorted(steps) and {250, 500, 750, 999} <= set(steps)
    assert len(steps) + written._outbox.dropped == 1000
    assert [entry["kind"] for entry in read_lines(tmp_path / RECORD)] == ["tags"]


def test_a_full_disk_loses_nothing_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    full, write = [True], journal.os.write

    def sometimes(descriptor: int, data: bytes) -> int:
        if full[0]:
            write(descriptor, data[:7])
            raise OSError(28, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr(journal.os, "write", sometimes)
    written = Journal(tmp_path)
    for step in range(5):
        written.row(step, {"loss": 0.0})
    until = time.monotonic() + 20
    while not (tmp_path / METRICS).exists() and time.monotonic() < until:
        time.sleep(0.01)
    full[0] = False
    assert written.close(20)
    assert [row["step"] for row in read_lines(tmp_path / METRICS)] == list(range(5))


def test_a_large_journal_thins_out_old_rows_and_never_those_to_keep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(journal, "NEWEST", 20)
    written = Journal(tmp_path, limit_bytes=20_000)
    for step in range(1000):
        written.row(step, {"loss": 0.0}, keep=step % 100 == 0)
        if step % 100 == 50:
            time.sleep(0.02)
    assert written.close(20)
    if (tmp_path / METRICS).stat().st_size > 20_000:
        journal.thin_out(tmp_path, 20_000)
    steps = [row["step"] for row in read_lines(tmp_path / METRICS)]
    assert (tmp_path / METRICS).stat().st_size <= 20_000
    assert steps == sorted(steps) and set(range(0, 1000, 100)) <= set(steps)
    assert set(range(985, 1000)) <= set(steps)


def test_thinning_out_prefers_what_was_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(journal, "NEWEST", 10)
    rows = [{"step": step, "time": step, "values": {"loss": 0.0}} for step in range(400)]
    journal.append(tmp_path / METRICS, rows)
    sent = sum(len(json.dumps(row)) + 1 for row in rows[:300])
    journal.write_json(tmp_path / SENT, {"metrics": sent, "run_id": "r"})
    journal.thin_out(tmp_path, 2 * 150 * (sent // 300))
    state = json.loads((tmp_path / SENT).read_text())
    kept = [row["step"] for row in read_lines(tmp_path / METRICS)]
    left = [row["step"] for row in read_lines(tmp_path / METRICS, state["metrics"])]
    assert state["run_id"] == "r" and left == list(range(300, 400)), "all that waits is there"
    assert len(kept) < 160


def test_an_outbox_takes_in_order_and_says_when_it_could_not(
    caplog: pytest.LogCaptureFixture,
):
    taken: list[int] = []
    down = [True]

    def take(things: list[int]) -> None:
        if down[0]:
            raise OSError("gone")
        taken.extend(things)

    box = Outbox("test", take)
    for number in range(10):
        box.put(number)
    until = time.monotonic() + 10
    while "gone" not in caplog.text and time.monotonic() < until:
        time.sleep(0.01)
    down[0] = False
    box.put(10)
    assert box.close(10) and taken == list(range(11))
    down[0] = True
    stubborn = Outbox("test", take)
    stubborn.put(1)
    assert not stubborn.close(5)


def test_a_sender_asks_a_failing_store_less_and_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[float] = []

    def fail(folder: Path, uri: str, only: str) -> str:
        asked.append(time.monotonic())
        raise ConnectionError("gone")

    monkeypatch.setattr(replay, "send_waiting", fail)
    monkeypatch.setattr(replay, "PASS_SECONDS", 0.05)
    sender = replay.Sender(tmp_path, REFUSING, "")
    until = time.monotonic() + 20
    while len(asked) < 5 and time.monotonic() < until:
        time.sleep(0.01)
    sender.close(5)
    pauses = [later - earlier for earlier, later in itertools.pairwise(asked)]
    assert pauses[3] > 3 * pauses[0]

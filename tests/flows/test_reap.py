"""What killed runs leave behind is found, told and ended; what lives is left alone."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest

from flows import daemons, flow_runs
from flows.cli import main
from flows.flow_runs import dead_records, on_record
from flows.orphans import QUIET_SECONDS, dead_servers, find_orphans
from flows.reap import looked_after
from flows.run import Run
from pipeline.claim import claim, claim_path, holder_of
from pipeline.intent import read_intent, write_intent
from pipeline.owner import Owner
from pipeline.private import make_private
from pipeline.settings import LaunchConfig
from pipeline.storage import write_json
from pipeline.submission import backend_for, submit
from tests.flows.test_crash import Flow, end, until
from tests.pipeline import jobs
from tests.pipeline.fake_slurm import Scheduler, install

GONE = replace(Owner.me(), start=1.0)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


def reap(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, list[dict]]:
    code = main(["reap", *map(str, words), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_job_nobody_waits_for_is_listed_and_ended_and_the_run_can_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flow = Flow(tmp_path, {}, "launch.orphan=continue")
    first = flow.start()
    until(flow.lives)
    assert find_orphans(tmp_path / "runs") == [], "a flow looks after it"
    first.kill()
    first.communicate()

    code, found = reap(capsys, tmp_path / "runs")
    assert (code, [one["kind"] for one in found]) == (1, ["job"])
    assert found[0]["where"] == str(flow.stage) and "s2-" in found[0]["what"]
    assert flow.jobs(), "listing ends nothing"

    assert main(["reap", str(flow.run), "--yes"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("job: local job ") and "\n    ended\n" in told
    until(lambda: not flow.jobs())
    assert main(["reap", str(flow.run)]) == 0
    assert "nothing was left behind" in capsys.readouterr().out
    flow.let_go()
    assert "done: world" in end(flow.start())


@pytest.mark.slow
def test_a_slurm_job_nobody_waits_for_is_cancelled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in install(tmp_path / "slurm").items():
        monkeypatch.setenv(key, value)
    scheduler = Scheduler(tmp_path / "slurm")
    (scheduler.folder / "hold").touch()
    stage = make_private(tmp_path / "runs" / "smoke" / "video_train")
    config = LaunchConfig(launcher="slurm", stop_seconds=0.1)
    handle = submit(backend_for(config), jobs.square, 3, stage, "video_train", "k")

    code, found = reap(capsys, tmp_path / "runs")
    assert (code, found[0]["kind"]) == (1, "job")
    assert found[0]["what"] == f"slurm job 1 ({handle.name}) still runs"
    assert scheduler.job("1")["state"] == "PENDING"
    code, found = reap(capsys, tmp_path / "runs", "--yes")
    assert (code, found[0]["done"]) == (0, "ended")
    assert scheduler.job("1")["state"] == "CANCELLED"


def test_submissions_claims_and_half_made_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = tmp_path / "runs" / "smoke" / "video_train"
    (stage / "checkpoints").mkdir(parents=True)
    write_intent(stage, "k", "local", 1)
    write_json(claim_path(stage), {**asdict(GONE), "key": "k"})
    old, new = stage / "checkpoints" / ".10.pt.77.part", stage / ".done.json.x.part"
    for file in (old, new):
        file.write_text("half")
    os.utime(old, (0, time.time() - QUIET_SECONDS - 1))

    code, found = reap(capsys, tmp_path / "runs")
    assert code == 1
    assert [one["kind"] for one in found] == ["submission", "claim", "file"]
    with claim(stage):
        assert find_orphans(tmp_path / "runs") == [], "somebody is at work on it"
    write_json(claim_path(stage), {**asdict(GONE), "key": "k"})

    code, found = reap(capsys, tmp_path / "runs", "--yes")
    assert code == 0
    assert [one["done"] for one in found] == ["forgotten", "given up", "removed"]
    assert read_intent(stage) is None and holder_of(stage) is None
    assert not old.exists() and new.exists(), "it may have a writer"


def test_servers_of_killed_flows_are_told_from_those_of_living_ones(
    tmp_path: Path, sleeper: subprocess.Popen[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state"  # as conftest sets it
    started = psutil.Process(sleeper.pid).create_time()
    server = daemons.Daemon("server", sleeper.pid, started, "", "", "")
    write_json(state / f"server-{os.getpid()}.json", asdict(server))
    assert dead_servers(state) == [], "this process is its flow"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    write_json(state / f"server-{ended.pid}.json", asdict(server))
    assert dead_servers(state) == [f"server-{ended.pid}"]
    earlier = replace(server, started=psutil.Process().create_time() - 1000)
    write_json(state / f"server-{os.getpid()}.json", asdict(earlier))
    assert f"server-{os.getpid()}" in dead_servers(state), "the number is another process's now"
    (state / f"server-{os.getpid()}.json").unlink()

    (tmp_path / "runs").mkdir()
    code, found = reap(capsys, tmp_path / "runs", "--yes")
    assert (code, [one["kind"] for one in found]) == (0, ["server"])
    assert found[0]["done"] == "stopped" and sleeper.wait(10) is not None


def test_a_flow_is_on_record_while_it_goes_and_a_killed_one_stays_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "runs" / "smoke"
    with on_record(run, "0b6d1f0e-0000-4000-8000-000000000001", "smoke"):
        (path,) = (run / ".flows").iterdir()
        assert Owner.from_record(json.loads(path.read_text())) == Owner.me()
        assert dead_records(run) == []
    assert not path.exists()
    write_json(path, {"id": path.stem, "name": "smoke", **asdict(GONE)})
    code, found = reap(capsys, tmp_path / "runs", "--yes")
    assert (code, found[0]["kind"]) == (1, "flow run")
    assert found[0]["done"].startswith("left: no Prefect server runs")
    assert path.exists(), "kept for the next start"


def test_a_record_is_kept_while_prefect_cannot_be_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> str:
        raise ValueError("an answer of another version")

    monkeypatch.setattr(flow_runs, "_crash", refuse)
    number = "0b6d1f0e-0000-4000-8000-000000000001"
    for name, kept in ((number, True), ("no number", False)):
        path = tmp_path / ".flows" / f"{name}.json"
        write_json(path, {"id": name, "name": "smoke", **asdict(GONE)})
        assert ("could not be told" in flow_runs.settle_record(path)) is kept is path.exists()


def test_a_run_begins_with_a_look_around_that_ends_nothing(request_of, tmp_path: Path) -> None:
    run = Run.of(request_of())
    stage = run.folder("video_train")
    stage.mkdir(parents=True)
    write_intent(stage, "k", "local", 1)
    notes: list[str] = []
    with looked_after(run, "0b6d1f0e-0000-4000-8000-000000000001", notes.append):
        assert len(list((run.recipe.folder / ".flows").iterdir())) == 1
    assert len(notes) == 1 and notes[0].startswith("video_train: submission s2-k-1-")
    assert read_intent(stage) is not None


def test_reap_wants_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reap", str(tmp_path / "nowhere")]) == 2
    assert "there is no such folder" in capsys.readouterr().err

"""kill -9 of the flow, the worker and the server, with Prefect's record looked at afterwards."""

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from flows.daemons import remembered
from pipeline.environment import free_port
from stages.contract import read_result
from tests.flows.test_end_to_end import TINY, Box, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ONE = ["launch.tasks_per_node=1", "launch.threads=1", "launch.orphan=continue"]
LONG = [*TINY, *ONE, "stages.image_pretrain.steps=200"]


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Box:
    """One for all, so that the data is made once."""
    return Box(tmp_path_factory.mktemp("box"))


def flow_runs(box: Box) -> list[str]:
    """The states of all flow runs that began, as Prefect knows them, oldest first."""
    path = box.folder / "state/prefect/prefect.db"
    if not path.exists():
        return []
    with sqlite3.connect(path) as database:
        rows = database.execute("select state_type from flow_run order by created").fetchall()
    return [state for (state,) in rows if state != "SCHEDULED"]


def attempts(stage: Path) -> int:
    return len(list(stage.glob("logs/*/*_submitted.pkl")))


def test_a_killed_flow_is_crashed_in_prefect_and_its_job_is_joined(box: Box) -> None:
    stage = box.folder / "runs/smoke/image_pretrain"
    process = box.start("stage", "image_pretrain", *LONG)
    wait_for(stage / "heartbeat")
    process.kill()
    process.communicate()
    listed = json.loads(box.run("reap", "--json", expect=1))
    assert [one["kind"] for one in listed] == ["job", "flow run", "server"]

    said = box.run("stage", "image_pretrain", *LONG)
    assert "image_pretrain: local job" in said and "nobody waits for it" in said
    assert "was killed; Prefect now shows it as Crashed" in said
    assert "stopped the Prefect server of process" in said
    assert flow_runs(box) == ["CRASHED", "COMPLETED"]
    assert attempts(stage) == 1, "the job was joined"
    assert read_result(stage) is not None
    assert "nothing was left behind" in box.run("reap")
    assert box.left_behind() == []


def test_worker_and_server_may_be_killed_too(box: Box) -> None:
    stage = box.folder / "runs/smoke/image_pretrain"
    shutil.rmtree(stage, ignore_errors=True)  # the other test's
    before = len(flow_runs(box))
    ports = [f"--{name}-port={free_port()}" for name in ("prefect", "mlflow", "tensorboard")]
    box.run("up", *ports)
    try:
        prefect = [str(Path(sys.executable).parent / "prefect"), "deployment", "run"]
        parameters = {"stage": "image_pretrain", "overrides": LONG}
        words = [f"--param={name}={json.dumps(value)}" for name, value in parameters.items()]
        subprocess.run(
            [*prefect, "sam2-stage/image_pretrain", *words], cwd=box.folder, env=box.environment,
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip
        wait_for(stage / "heartbeat")
        for name in ("worker", "prefect"):
            daemon = remembered(box.folder / "state", name)
            assert daemon is not None
            _kill_with_children(daemon.pid, also_children=name == "worker")
        box.run("up", *ports)
        said = box.run("stage", "image_pretrain", *LONG)
        assert "on the Prefect server" in said
        assert attempts(stage) == 1 and read_result(stage) is not None
        assert flow_runs(box)[before:] == ["CRASHED", "COMPLETED"]
        assert "nothing was left behind" in box.run("reap")
    finally:
        box.run("down")
    assert box.left_behind() == []


def _kill_with_children(pid: int, *, also_children: bool) -> None:
    """The worker dies with the flow it runs, as when the machine is short of memory; the job, in a
    session of its own, does not."""
    process = psutil.Process(pid)
    doomed = [process]
    if also_children:
        doomed += [
            child for child in process.children(recursive=True)
            if "submitit" not in " ".join(child.cmdline())
            and "pipeline.entry" not in " ".join(child.cmdline())
        ]  # fmt: skip
    for one in doomed:
        one.send_signal(signal.SIGKILL)

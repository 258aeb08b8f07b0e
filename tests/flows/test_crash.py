"""kill -9 of the flow at every step around a submission, then the same command again: one job, one
result."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pipeline.claim import holder_of
from pipeline.intent import read_handle
from pipeline.local import NAME_VARIABLE
from pipeline.storage import read_json
from stages.contract import read_result
from tests.flows.crashing import HOLD, LIVES, SLOWLY, STEPS
from tests.pipeline.fake_slurm import Scheduler, install

PROJECT = Path(__file__).resolve().parents[2]


class Flow:
    """The run of one stage, `world`, whose job is held until it is let go."""

    def __init__(self, folder: Path, environment: dict[str, str], *settings: str) -> None:
        self.run = folder / "runs" / "smoke"
        self.stage = self.run / "world"
        self.environment = {**os.environ, **environment, "PYTHONPATH": str(PROJECT)}
        self.settings = [
            f"runs={folder / 'runs'}", "stop_after=world", "launch.tasks_per_node=1",
            "launch.threads=1", "launch.poll_seconds=0.05", *settings,
        ]  # fmt: skip
        self.run.mkdir(parents=True)
        (self.run / HOLD).touch()

    def start(self, step: str = "") -> subprocess.Popen[str]:
        """The flow, which dies at `step`."""
        command = [sys.executable, "-m", "tests.flows.crashing", step, *self.settings]
        return subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, cwd=self.run, start_new_session=True,
        )  # fmt: skip

    def let_go(self) -> None:
        """The job may end."""
        (self.run / HOLD).unlink()

    def watched_by(self, process: subprocess.Popen[str]) -> bool:
        """Whether that flow has a job of its own, or has joined one."""
        lease = read_json(self.stage / "lease.json") or {}
        return lease.get("pid") == process.pid and (self.stage / "handle.json").exists()

    def lives(self) -> list[str]:
        """How often a job began its work."""
        path = self.run / LIVES
        return path.read_text().splitlines() if path.exists() else []

    def jobs(self) -> set[str]:
        """Names of the jobs that are alive, by what their processes carry."""
        found = set()
        for process in psutil.process_iter():
            try:
                words = " ".join(process.cmdline())
                if str(self.stage) in words and process.status() != psutil.STATUS_ZOMBIE:
                    found.add(process.environ().get(NAME_VARIABLE, "?"))
            except psutil.Error:
                continue
        return found


def until(condition: Callable[[], object], seconds: float = 200.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def end(process: subprocess.Popen[str], expect: int = 0) -> str:
    said, _ = process.communicate(timeout=250)
    assert process.returncode == expect, said
    return said


QUICK = ("after the intent", "before the handle")


@pytest.mark.parametrize(
    "step", [pytest.param(step, marks=() if step in QUICK else pytest.mark.slow) for step in STEPS]
)
def test_a_killed_flow_has_one_job_and_one_result(tmp_path: Path, step: str) -> None:
    flow = Flow(tmp_path, {}, "launch.orphan=continue")
    if step == "before the result is read":
        flow.let_go()
    end(flow.start(step), expect=-9)
    assert holder_of(flow.stage) is None, "the kernel has taken the claim back"
    again = flow.start()
    if step != "before the result is read":
        until(lambda: flow.watched_by(again))
        until(flow.lives)
        assert len(flow.jobs()) == 1
        flow.let_go()
    assert "done: world" in end(again)
    assert len(flow.lives()) == 1
    assert read_result(flow.stage) is not None
    until(lambda: not flow.jobs())
    assert "done: world" in end(flow.start()), "and nothing is left to do"
    assert len(flow.lives()) == 1
    taken = len(list(flow.stage.glob("logs/*/*_submitted.pkl")))
    assert taken == 1, f"{taken} submissions"


def test_two_flows_at_the_same_moment_have_one_job(tmp_path: Path) -> None:
    flow = Flow(tmp_path, {})
    both = [flow.start(SLOWLY), flow.start(SLOWLY)]
    until(flow.lives)
    time.sleep(1.0)
    assert len(flow.jobs()) == 1
    flow.let_go()
    assert all("done: world" in end(process) for process in both)
    assert len(flow.lives()) == len(list(flow.stage.glob("logs/*"))) == 1


@pytest.mark.slow
def test_the_flow_that_waits_takes_over_from_one_that_is_killed(tmp_path: Path) -> None:
    flow = Flow(tmp_path, {}, "launch.orphan=continue")
    first = flow.start()
    until(flow.lives)
    second = flow.start()
    time.sleep(2.0)
    first.kill()
    first.communicate()
    until(lambda: (holder := holder_of(flow.stage)) is not None and holder.pid == second.pid)
    flow.let_go()
    assert "done: world" in end(second)
    assert len(flow.lives()) == 1


@pytest.mark.slow
def test_a_flow_with_other_settings_is_refused_while_one_is_at_work(tmp_path: Path) -> None:
    flow = Flow(tmp_path, {})
    first = flow.start()
    until(flow.lives)
    flow.settings.append("world.frames=9")
    assert "is being worked on with other settings by process" in end(flow.start(), expect=1)
    flow.let_go()
    assert "done: world" in end(first)
    assert len(flow.lives()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("step", ["during the submission", "before the handle", "while it runs"])
def test_a_killed_flow_has_one_slurm_job(tmp_path: Path, step: str) -> None:
    folder = tmp_path / "slurm"
    flow = Flow(tmp_path, install(folder), "launch.launcher=slurm")
    scheduler = Scheduler(folder)
    (folder / "hold").touch()  # it waits in the queue meanwhile
    if step == "during the submission":
        scheduler.fault("sbatch-kill")
        step = ""
    first = flow.start(step)
    until(scheduler.jobs)
    end(first, expect=-9)
    again = flow.start()
    until(lambda: read_handle(flow.stage))
    (folder / "hold").unlink()
    until(flow.lives)
    flow.let_go()
    assert "done: world" in end(again)
    (job,) = scheduler.jobs()
    handle = json.loads((flow.stage / "handle.json").read_text())
    assert (handle["job_id"], handle["name"]) == (job["id"], job["name"])
    assert len(flow.lives()) == 1


@pytest.mark.slow
def test_a_flow_that_was_killed_takes_its_job_along_if_so_asked(tmp_path: Path) -> None:
    flow = Flow(tmp_path, {}, "launch.orphan=stop")
    first = flow.start("while it runs")
    end(first, expect=-9)
    until(lambda: not flow.jobs())
    flow.let_go()
    assert "done: world" in end(flow.start())
    assert len(flow.lives()) == 2, "what had stopped was continued"


@pytest.mark.slow
def test_what_is_done_is_not_submitted_again(tmp_path: Path) -> None:
    flow = Flow(tmp_path, {})
    flow.settings.remove("stop_after=world")
    flow.let_go()

    def jobs() -> set[tuple[str, str]]:
        """(stage, name) of the last job of each stage folder, those put aside included."""
        handles = [json.loads(path.read_text()) for path in flow.run.rglob("handle.json")]
        return {(Path(handle["folder"]).name, handle["name"]) for handle in handles}

    def submitted(*changes: str) -> list[str]:
        """The stages that a run with these changes submits."""
        before, settings = jobs(), list(flow.settings)
        flow.settings += changes
        end(flow.start())
        flow.settings = settings
        return sorted(stage for stage, _ in jobs() - before)

    stages = submitted()
    assert len(stages) == len(set(stages)) == 10
    assert submitted() == []
    changed = submitted("stages.joint_train.optim.lr=0.01")
    assert changed == ["joint_train", "joint_train.evaluate", "report"]
    assert submitted() == [], "the first work came back"
    (flow.run / "video_train" / "made.txt").unlink()
    assert submitted() == ["video_train"]

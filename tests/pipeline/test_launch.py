"""Jobs give their result or their cause, survive what they should, and leave nothing behind."""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pipeline import launch as launching
from pipeline import local
from pipeline.errors import StageError
from pipeline.launch import launch, read_handle, stop_stage
from pipeline.owner import is_alive
from pipeline.progress import Progress
from pipeline.settings import LaunchConfig
from pipeline.stop import StopRequested
from tests.pipeline import jobs

LOCAL = LaunchConfig(threads=1, poll_seconds=0.05)

LAUNCHER = """
import sys
from pipeline.cli import run_cli
from pipeline.launch import launch
from pipeline.settings import LaunchConfig
from tests.pipeline import jobs
function, folder, orphan, tasks = sys.argv[1:]
config = LaunchConfig(threads=1, poll_seconds=0.05, orphan=orphan, tasks_per_node=int(tasks))
job = getattr(jobs, function)
sys.exit(run_cli(lambda: print(launch(job, folder, folder, config, name="stage"))))
"""


def start(
    function: str, folder: Path, orphan: str = "stop", tasks: int = 1
) -> subprocess.Popen[str]:
    """A launcher in a process of its own, once its job is at work."""
    command = [sys.executable, "-c", LAUNCHER, function, str(folder), orphan, str(tasks)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    for rank in range(tasks):
        wait_for((folder / f"started-{rank}").exists)
    wait_for((folder / "task-0.json").exists)
    return process


def wait_for(condition: Callable[[], bool], seconds: float = 40.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)


def members(session: int) -> list[psutil.Process]:
    """The living processes of a job's session."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.Error):
            continue
    return found


def test_a_result_comes_back_the_same_from_everywhere(tmp_path: Path) -> None:
    for launcher in ("inline", "local"):
        config = LaunchConfig(launcher=launcher, threads=1, poll_seconds=0.05)
        assert launch(jobs.square, 3, tmp_path / launcher, config, name="stage") == 9


def test_the_rank_that_failed_is_named_not_the_one_that_noticed(tmp_path: Path) -> None:
    config = LaunchConfig(threads=1, poll_seconds=0.05, tasks_per_node=2)
    with pytest.raises(StageError) as raised:
        launch(jobs.fail_on_rank_one, "clip 7: no masks", tmp_path, config, name="video_train")
    text = str(raised.value)
    assert text.startswith("video_train on rank 1: clip 7: no masks")
    assert len(text.splitlines()) == 1
    log = Path(text.split("log: ")[1])
    assert log.is_file() and "clip 7" in log.read_text()


def test_a_rank_killed_from_outside_ends_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "LOST_RANK_SECONDS", 0.5)
    config = LaunchConfig(threads=1, poll_seconds=0.05, tasks_per_node=2)
    with pytest.raises(StageError, match="stage failed on rank 1: ended without a word"):
        launch(jobs.die_on_rank_one, "", tmp_path, config, name="stage")
    handle = read_handle(tmp_path)
    assert handle is not None and not members(handle.pid)


def test_a_defect_keeps_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"RuntimeError: oops.*log: .*_0_log.err") as raised:
        launch(jobs.stumble, "oops", tmp_path, LOCAL, name="stage")
    assert "in stumble" in str(raised.value)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_saves_and_leaves_nothing(tmp_path: Path, number: int, code: int) -> None:
    process = start("wait_politely", tmp_path, tasks=2)
    handle = read_handle(tmp_path)
    assert handle is not None and len(members(handle.pid)) == 3
    os.killpg(process.pid, number)  # as a terminal does: to everything in the foreground
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code
    assert "run the same command again to continue" in errors and "Traceback" not in errors
    assert (tmp_path / "saved-0").exists() and (tmp_path / "saved-1").exists()
    assert not members(handle.pid)
    assert not (tmp_path / "stop").exists()


def test_a_job_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    process = start("wait_stubbornly", tmp_path)
    handle = read_handle(tmp_path)
    assert handle is not None
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)  # the second one does not wait
    process.communicate(timeout=6)
    assert process.returncode == 130
    assert not members(handle.pid)


def test_a_killed_launcher_takes_its_job_along(tmp_path: Path) -> None:
    process = start("wait_politely", tmp_path)
    handle = read_handle(tmp_path)
    assert handle is not None
    process.kill()
    process.communicate()
    wait_for(lambda: not members(handle.pid), seconds=20)
    assert (tmp_path / "saved-0").exists()


def test_a_killed_controller_ends_its_ranks(tmp_path: Path) -> None:
    process = start("wait_politely", tmp_path)
    handle = read_handle(tmp_path)
    assert handle is not None
    os.kill(handle.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert (tmp_path / "saved-0").exists()
    assert not members(handle.pid)


def test_a_living_job_is_attached_to_not_started_twice(tmp_path: Path) -> None:
    process = start("wait_politely", tmp_path, orphan="continue")
    process.kill()
    process.communicate()
    handle = read_handle(tmp_path)
    assert handle is not None and is_alive({"pid": handle.pid, "start": handle.start})
    seen: list[Progress | None] = []

    def finish(progress: Progress | None) -> None:
        seen.append(progress)
        (tmp_path / "finish").touch()

    config = LaunchConfig(threads=1, poll_seconds=0.05, orphan="continue")
    found = launch(
        jobs.wait_politely, str(tmp_path), tmp_path, config, name="stage", on_poll=finish
    )
    assert found == f"finished in {(tmp_path / 'started-0').read_text()}"
    assert read_handle(tmp_path) == handle
    assert seen[0] is not None and seen[0].total == 10_000
    assert len(list((tmp_path / "logs").iterdir())) == 1


def test_a_job_of_another_configuration_is_ended_first(tmp_path: Path) -> None:
    process = start("wait_politely", tmp_path, orphan="continue")
    process.kill()
    process.communicate()
    old = read_handle(tmp_path)
    assert launch(jobs.square, 4, tmp_path, LOCAL, name="stage", key="new") == 16
    assert old is not None and not members(old.pid)
    assert (tmp_path / "saved-0").exists()


def test_a_job_that_somebody_stops_can_be_continued(tmp_path: Path) -> None:
    def tell(progress: Progress | None) -> None:
        if (tmp_path / "started-0").exists():
            os.kill(int((tmp_path / "started-0").read_text()), signal.SIGTERM)

    with pytest.raises(StopRequested, match="SIGTERM"):
        launch(jobs.wait_politely, str(tmp_path), tmp_path, LOCAL, name="stage", on_poll=tell)
    assert (tmp_path / "saved-0").exists()
    assert not stop_stage(tmp_path, LOCAL)


def test_a_job_that_hangs_at_its_exit_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its result is there; what a library left running must not keep the GPUs."""
    code = (
        "import sys; from pathlib import Path; from pipeline import entry; "
        "entry.EXIT_SECONDS = 0.5; entry.main(Path(sys.argv[1]))"
    )
    start = property(lambda self: shlex.join([sys.executable, "-c", code, str(self.folder)]))
    monkeypatch.setattr(local._SessionExecutor, "_submitit_command_str", start)
    assert launch(jobs.leave_a_thread, 3, tmp_path, LOCAL, name="stage") == 3
    (log,) = tmp_path.glob("logs/*/*_log.err")
    assert "Timeout" in log.read_text()


def test_a_preempted_job_starts_again_by_itself(tmp_path: Path) -> None:
    """USR2, as before a time limit: it stops at a step boundary, then submitit restarts it."""
    life, _ = launch(jobs.preempted, str(tmp_path), tmp_path, LOCAL, name="stage")
    assert life == 1


def test_a_listener_in_trouble_does_not_end_the_job(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def stumble(progress: Progress | None) -> None:
        raise ConnectionError("the page is gone")

    assert launch(jobs.square, 5, tmp_path, LOCAL, name="stage", on_poll=stumble) == 25
    assert "the page is gone" in caplog.text


def test_a_job_on_another_machine_is_left_alone(tmp_path: Path) -> None:
    launch(jobs.square, 1, tmp_path, LOCAL, name="stage")
    path = tmp_path / "handle.json"
    values = json.loads(path.read_text()) | {"host": "elsewhere"}
    path.write_text(json.dumps(values))
    beat, over = tmp_path / "heartbeat", threading.Event()

    def go_on() -> None:
        while not over.wait(0.1):
            os.utime(beat, (0, time.time() - 600))  # its clock is late

    beat.touch()
    heart = threading.Thread(target=go_on)
    heart.start()
    try:
        with pytest.raises(StageError, match="running on elsewhere"):
            launch(jobs.square, 1, tmp_path, LOCAL, name="stage")
    finally:
        over.set()
        heart.join()
    os.utime(beat, (0, 0))
    assert launch(jobs.square, 2, tmp_path, LOCAL, name="stage") == 4

"""A scheduler that lies gets each job once, and what it says of a job is not the last word."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import heartbeat, queue, slurm, submission
from pipeline.errors import ConfigError, StageError
from pipeline.intent import read_handle, read_intent, write_handle, write_intent
from pipeline.launch import launch, running_job
from pipeline.progress import Progress
from pipeline.settings import LaunchConfig
from tests.pipeline import jobs
from tests.pipeline.fake_slurm import Scheduler, install
from tests.pipeline.slurm_jobs import two_lives

CONFIG = LaunchConfig(launcher="slurm", threads=1, poll_seconds=0.1)


@pytest.fixture
def scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scheduler]:
    folder = tmp_path / "slurm"
    for key, value in install(folder).items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("FAKE_LAUNCHER", str(os.getpid()))
    monkeypatch.setattr(queue, "SLURM_SECONDS", 0.2)
    monkeypatch.setattr(slurm.SlurmBackend, "least_pause", 0.1)
    monkeypatch.setattr(submission, "LOOK_UP_SECONDS", 1.0)
    monkeypatch.setattr(submission, "LOOK_PAUSE", 0.1)
    monkeypatch.setattr(submission, "RETRY_SECONDS", 0.1)
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 8.0)
    monkeypatch.setattr(queue, "QUEUE", queue.Queue())
    monkeypatch.setattr(slurm, "QUEUE", queue.QUEUE)
    here = Scheduler(folder)
    yield here
    for job in here.jobs():
        here.end(job["id"], "CANCELLED")


def wait_for_end(scheduler: Scheduler, job_id: str) -> None:
    """Until its script is over, which is later than its result."""
    until = time.monotonic() + 20
    while scheduler.job(job_id)["state"] != "COMPLETED":
        assert time.monotonic() < until, scheduler.job(job_id)
        time.sleep(0.05)


def test_a_submission_that_timed_out_but_was_taken_is_found(
    scheduler: Scheduler, tmp_path: Path
) -> None:
    scheduler.fault("sbatch-timeout")
    assert launch(jobs.square, 3, tmp_path / "a", CONFIG, name="stage", key="k" * 64) == 9
    (job,) = scheduler.jobs()
    assert job["name"].startswith("s2-kkkkkkkkkkkk-1-")
    handle = read_handle(tmp_path / "a")
    assert handle is not None and (handle.job_id, handle.name) == (job["id"], job["name"])


@pytest.mark.slow
def test_a_submission_that_was_lost_is_tried_again_a_few_times(
    scheduler: Scheduler, tmp_path: Path
) -> None:
    scheduler.fault("sbatch-lost", times=2)
    assert launch(jobs.square, 3, tmp_path / "a", CONFIG, name="stage") == 9
    assert (len(scheduler.jobs()), scheduler.calls("sbatch")) == (1, 3)

    scheduler.fault("sbatch-lost", times=99)
    with pytest.raises(StageError, match=r"stage could not be submitted, tried 3 times.*contact"):
        launch(jobs.square, 3, tmp_path / "b", CONFIG, name="stage")
    assert (len(scheduler.jobs()), scheduler.calls("sbatch")) == (1, 6)


def test_a_refusal_is_final(scheduler: Scheduler, tmp_path: Path) -> None:
    scheduler.fault("sbatch-refuse")
    with pytest.raises(
        ConfigError, match=r"^run-video was not accepted by SLURM.*invalid partition"
    ):
        launch(jobs.square, 3, tmp_path / "a", CONFIG, name="run-video")
    assert scheduler.calls("sbatch") == 1
    assert read_intent(tmp_path / "a") is None, "nothing is looked for later"


def test_nothing_is_submitted_while_nobody_knows_what_there_is(
    scheduler: Scheduler, tmp_path: Path
) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    write_intent(folder, "", "slurm", 1)
    scheduler.fault("squeue-down", times=99)
    with pytest.raises(StageError, match=r"cannot tell whether SLURM has the job s2-nokey-1-"):
        launch(jobs.square, 3, folder, CONFIG, name="stage")
    assert scheduler.calls("sbatch") == 0


def test_an_answer_that_was_lost_is_found_even_while_the_job_waits(
    scheduler: Scheduler, tmp_path: Path
) -> None:
    """As after a kill -9 between sbatch and `handle.json`: the pickle has not got its name yet."""
    folder = tmp_path / "a"
    (scheduler.folder / "hold").touch()
    other = threading.Thread(
        target=launch, args=(jobs.square, 4, folder, CONFIG), kwargs={"name": "stage"}, daemon=True
    )
    other.start()
    until = time.monotonic() + 20
    while read_handle(folder) is None and time.monotonic() < until:
        time.sleep(0.05)
    handle = read_handle(folder)
    assert handle is not None
    (folder / "handle.json").unlink()
    pickle = Path(handle.logs) / f"{handle.job_id}_submitted.pkl"
    pickle.rename(Path(handle.logs) / f"{'0f' * 16}.pkl")
    assert running_job(folder, CONFIG, only_look=True) is not None
    assert read_handle(folder) is None and not pickle.exists(), "looking changes nothing"
    found = running_job(folder, CONFIG)
    assert found is not None and replace(found, submitted=0) == replace(handle, submitted=0)
    assert pickle.exists()
    (scheduler.folder / "hold").unlink()
    other.join(20)
    assert len(scheduler.jobs()) == 1


def while_running(folder: Path, act: Callable[[], None]) -> Callable[[Progress | None], None]:
    """A listener that acts once, when the job is at work and its heart has begun to beat."""
    acted: list[bool] = []

    def listen(progress: Progress | None) -> None:
        if not acted and (folder / "heartbeat").exists() and (folder / "started-0").exists():
            acted.append(True)
            act()

    return listen


def test_a_job_that_is_cancelled_while_it_waits_for_its_next_life_has_ended(
    scheduler: Scheduler, tmp_path: Path
) -> None:
    folder, hold = tmp_path / "a", scheduler.folder / "hold"
    asked: list[bool] = []

    def listen(_: Progress | None) -> None:
        if (folder / "saved-0").exists() and scheduler.job("1")["state"] == "PENDING":
            scheduler.end("1", "CANCELLED")
            hold.unlink()  # a second job would be done in a moment
        elif (folder / "life-0").exists() and not asked:
            asked.append(True)
            hold.touch()
            scheduler.signal("1", signal.SIGUSR2)

    with pytest.raises(StageError, match=r"SLURM says CANCELLED.*somebody cancelled it"):
        launch(two_lives, str(folder), folder, CONFIG, name="stage", on_poll=listen)
    assert scheduler.calls("sbatch") == 1


@pytest.mark.slow
def test_a_queue_that_forgets_a_running_job_does_not_end_it(
    scheduler: Scheduler, tmp_path: Path
) -> None:
    folder = tmp_path / "a"

    def forget() -> None:
        scheduler.fault("squeue-empty", times=12)
        threading.Timer(4.0, (folder / "finish").touch).start()

    found = launch(
        jobs.wait_politely, str(folder), folder, CONFIG, name="stage",
        on_poll=while_running(folder, forget),
    )  # fmt: skip
    assert found.startswith("finished") and len(scheduler.jobs()) == 1


def test_an_array_has_ended_when_all_its_parts_have(scheduler: Scheduler, tmp_path: Path) -> None:
    """Of one that the queue has forgotten, while a part is done and another one's heart beats."""
    intent = write_intent(tmp_path, "", "slurm-array", 1)
    handle = submission._handle(tmp_path, intent, "9")
    for name in ("9_0_submitted.pkl", "9_1_submitted.pkl", "9_0_0_result.pkl"):
        Path(handle.logs, name).touch()
    write_handle(tmp_path, handle)
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(0.2):
            (tmp_path / "heartbeat").touch()

    threading.Thread(target=beat).start()
    try:
        (tmp_path / "heartbeat").touch()
        assert running_job(tmp_path, CONFIG) == handle
        Path(handle.logs, "9_1_0_result.pkl").touch()
        assert running_job(tmp_path, CONFIG) is None
    finally:
        stop.set()


@pytest.mark.slow
@pytest.mark.parametrize("state", ["PREEMPTED", "NODE_FAIL"])
def test_a_job_that_the_cluster_took_away_comes_back_or_is_told(
    scheduler: Scheduler, tmp_path: Path, state: str
) -> None:
    folder = tmp_path / "a"

    def take_away() -> None:
        scheduler.end("1", state)

    with pytest.raises(StageError, match=f"ended without a word; SLURM says {state}"):
        launch(
            jobs.wait_politely, str(folder), folder, CONFIG, name="stage",
            on_poll=while_running(folder, take_away),
        )  # fmt: skip
    (folder / "started-0").unlink()

    def requeue() -> None:
        scheduler.end("2", state)
        scheduler.requeue("2")
        threading.Timer(3.0, (folder / "finish").touch).start()

    found = launch(
        jobs.wait_politely, str(folder), folder, CONFIG, name="stage",
        on_poll=while_running(folder, requeue),
    )  # fmt: skip
    assert found.startswith("finished") and len(scheduler.jobs()) == 2


def test_completed_says_nothing_about_a_job_that_crashed(
    scheduler: Scheduler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler.fault("segfault")
    with pytest.raises(StageError, match=r"ended without a word; SLURM says COMPLETED"):
        launch(jobs.square, 3, tmp_path / "a", CONFIG, name="stage")
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 1e9)
    beat = tmp_path / "a" / "heartbeat"
    beat.touch()
    os.utime(beat, (0, time.time() - heartbeat.REST_SECONDS - 1))
    assert running_job(tmp_path / "a", CONFIG) is None, "it has rested for too long"


def test_a_job_that_is_taken_after_all_finds_nothing_to_run(
    scheduler: Scheduler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C during sbatch, whose job the controller does not show yet."""
    (scheduler.folder / "hold").touch()
    monkeypatch.setattr(slurm.SlurmBackend, "find", lambda *_: None)
    submitted = slurm.SlurmBackend.submit

    def interrupted(*arguments: object) -> str:
        submitted(*arguments)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(slurm.SlurmBackend, "submit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        launch(jobs.square, 3, tmp_path / "a", CONFIG, name="stage")
    assert read_intent(tmp_path / "a") is None
    assert len(scheduler.jobs()) == 1 and not list(tmp_path.glob("a/logs/*/*.pkl"))


@pytest.mark.slow
def test_the_number_of_a_job_may_belong_to_another_one(
    scheduler: Scheduler, tmp_path: Path
) -> None:
    (scheduler.folder / "hide").touch()  # forgotten at once, and there is no accounting
    folder = tmp_path / "a"
    assert launch(jobs.square, 3, folder, CONFIG, name="stage") == 9
    wait_for_end(scheduler, "1")
    scheduler.change("1", name="somebody else's", state="RUNNING")
    assert running_job(folder, CONFIG) is None
    assert launch(jobs.square, 4, folder, CONFIG, name="stage") == 16
    assert scheduler.job("1")["state"] == "RUNNING"


@pytest.mark.slow
def test_a_job_that_comes_too_late_does_not_begin(scheduler: Scheduler, tmp_path: Path) -> None:
    """Taken by a controller that had lost it: meanwhile the stage was submitted anew."""
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "life-0").touch()  # so that the job ends by itself
    assert launch(two_lives, str(folder), folder, CONFIG, name="stage") == "life 1"
    wait_for_end(scheduler, "1")
    write_intent(folder, "", "slurm", 1)  # a later submission
    scheduler.requeue("1")
    wait_for_end(scheduler, "1")
    log = "".join(path.read_text() for path in folder.glob("logs/*/1_0_log.out"))
    assert "a later submission has taken the place" in log
    assert len(list(folder.glob("life-*"))) == 2

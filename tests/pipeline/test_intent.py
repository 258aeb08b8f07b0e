"""What is written down around a submission, and who may act upon it."""

import fcntl
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cloudpickle
import psutil
import pytest

from pipeline import claim as claims
from pipeline import launch as launching
from pipeline import owner, submission
from pipeline import watcher as watching
from pipeline.backends import Handle
from pipeline.claim import claim, claim_path, holder_of
from pipeline.errors import StageError, StorageError
from pipeline.intent import read_handle, read_intent, superseded, unanswered, write_intent
from pipeline.launch import launch, running_job
from pipeline.owner import Owner
from pipeline.private import make_private, require_private
from pipeline.progress import ProgressWriter
from pipeline.settings import LaunchConfig
from pipeline.stop import StopRequested
from pipeline.storage import write_json
from pipeline.watcher import Watcher
from tests.pipeline import jobs

LOCAL = LaunchConfig(threads=1, poll_seconds=0.05)
KEY = "0123456789abcdef" * 4


# -- the records ----------------------------------------------------------------------------------


def test_the_intent_is_on_the_disk_before_the_job_is_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def submit(self: object, job: object, name: str) -> str:
        intent = unanswered(tmp_path)
        assert intent is not None
        seen.append((intent.name, name, intent.attempt, read_handle(tmp_path)))
        raise OSError("no room for a process")

    monkeypatch.setattr(submission.LocalBackend, "submit", submit)
    with pytest.raises(OSError, match="no room"):
        launch(jobs.square, 3, tmp_path, LOCAL, name="stage", key=KEY)
    ((name, given, attempt, handle),) = seen
    assert name == given and name.startswith("s2-0123456789ab-1-")
    assert (attempt, handle, read_intent(tmp_path)) == (1, None, None)


def test_attempts_count_and_the_last_one_counts(tmp_path: Path) -> None:
    assert launch(jobs.square, 3, tmp_path, LOCAL, name="stage", key=KEY) == 9
    first = read_handle(tmp_path)
    assert first is not None and unanswered(tmp_path) is None
    assert launch(jobs.square, 4, tmp_path, LOCAL, name="stage", key=KEY) == 16
    second = read_handle(tmp_path)
    assert second is not None and (first.attempt, second.attempt) == (1, 2)
    assert second.boot == owner.boot_id() and second.host == socket.gethostname()
    assert superseded(first.logs) and not superseded(second.logs)


def test_a_job_pickle_names_the_work_and_no_place_to_resume_from(tmp_path: Path) -> None:
    """The newest checkpoint is looked for when the job starts, not when it was submitted."""
    launch(jobs.square, 7, tmp_path, LOCAL, name="stage")
    (path,) = tmp_path.glob("logs/*/*_submitted.pkl")
    job = cloudpickle.loads(path.read_bytes()).function
    assert job.argument == 7 and job.function is jobs.square
    assert {job.folder, job.logs} == {str(tmp_path), str(path.parent)}
    words = {name for name in vars(job) if "resume" in name or "checkpoint" in name}
    assert not words


# -- processes ------------------------------------------------------------------------------------


def test_a_process_is_told_from_its_namesakes() -> None:
    me = Owner.me()
    assert me.state == "alive"
    assert Owner.from_record(asdict(me)) == me
    assert replace(me, start=me.start - 100).state == "gone", "a later process of that number"
    assert replace(me, boot="earlier").state == "gone", "before a reboot"
    assert replace(me, host="elsewhere").state == "elsewhere"
    assert Owner.from_record({"pid": 3}) is None and Owner.from_record(None) is None


def test_a_job_from_before_a_reboot_is_dead(tmp_path: Path) -> None:
    handle = Handle(
        launcher="local", job_id=str(os.getpid()), folder=str(tmp_path), logs=str(tmp_path),
        key="", tasks=1, host=socket.gethostname(), pid=os.getpid(),
        start=psutil.Process().create_time(), boot=owner.boot_id(), attempt=1,
    )  # fmt: skip
    write_json(tmp_path / "handle.json", asdict(handle))
    assert running_job(tmp_path, LOCAL) == handle
    write_json(tmp_path / "handle.json", asdict(replace(handle, boot="earlier")))
    assert running_job(tmp_path, LOCAL) is None


def test_a_launcher_on_another_machine_is_there_while_it_renews_its_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = Watcher(tmp_path, tmp_path, 0, 1, local=False, leased=True)
    lease = tmp_path / "lease.json"
    write_json(lease, asdict(Owner.me()))
    assert watcher._lease_trouble() == ""
    write_json(lease, asdict(replace(Owner.me(), start=1.0)))
    assert "is gone" in watcher._lease_trouble()
    write_json(lease, asdict(replace(Owner.me(), host="elsewhere")))
    assert watcher._lease_trouble() == ""
    os.utime(lease, (0, 0))  # its clock is wrong, but it moves
    monkeypatch.setattr(watching, "ABSENT_SECONDS", 0.2)
    assert watcher._lease_trouble() == ""
    time.sleep(0.3)
    assert "no sign of life from process" in watcher._lease_trouble()


def test_a_heartbeat_that_is_being_written_when_the_work_ends_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, done = threading.Event(), threading.Event()

    def write(*_: Any) -> None:
        begun.set()
        time.sleep(0.5)
        done.set()

    monkeypatch.setattr(watching, "write_beat", write)
    watcher = Watcher(tmp_path, tmp_path, 0, 1, local=False, leased=False)
    watcher.start()
    assert begun.wait(10)
    watcher.close()
    assert done.is_set() and not watcher.is_alive()


def test_slurm_jobs_go_on_and_local_ones_end_unless_told_otherwise() -> None:
    found = {
        (launcher, orphan): LaunchConfig(launcher=launcher, orphan=orphan).leased
        for launcher in ("local", "slurm")
        for orphan in ("auto", "stop", "continue")
    }
    assert [key for key, leased in found.items() if leased] == [
        ("local", "auto"), ("local", "stop"), ("slurm", "stop"),
    ]  # fmt: skip


# -- one at a time --------------------------------------------------------------------------------


def test_a_claim_is_had_by_one_thread_at_a_time_and_nests(tmp_path: Path) -> None:
    folder, order, holders = tmp_path / "stage", [], []

    def other() -> None:
        with claim(folder, on_wait=holders.append) as waited:
            order.append(("other", waited))

    with claim(folder) as waited, claim(folder):
        thread = threading.Thread(target=other)
        thread.start()
        while not holders:
            time.sleep(0.01)
        order.append(("first", waited))
    thread.join(10)
    assert order == [("first", False), ("other", True)]
    assert holders[0] == Owner.me()
    assert holder_of(folder) is None


def test_a_claim_with_another_key_is_refused_with_the_holder_named(tmp_path: Path) -> None:
    folder, begun, over = tmp_path / "stage", threading.Event(), threading.Event()

    def hold() -> None:
        with claim(folder, key="one"):
            begun.set()
            over.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    begun.wait(10)
    try:
        with pytest.raises(StageError, match=rf"other settings by process {os.getpid()} on"):
            claim(folder, key="another").__enter__()
    finally:
        over.set()
        thread.join(10)


def test_a_claim_of_another_machine_holds_while_it_is_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "PAUSE_SECONDS", 0.01)
    folder = tmp_path / "stage"
    path = claim_path(folder)
    write_json(path, {**asdict(replace(Owner.me(), host="elsewhere")), "key": ""})
    assert holder_of(folder) is not None
    seen: list[Owner | None] = []

    def age(holder: Owner | None) -> None:
        seen.append(holder)
        if len(seen) == 3:
            os.utime(path, (0, time.time() - claims.STALE_SECONDS - 1))

    with claim(folder, on_wait=age) as waited:
        assert waited and len(seen) == 3
    assert seen[0] is not None and seen[0].host == "elsewhere"


def test_a_disk_without_locks_still_tells_who_has_a_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(claims, "PAUSE_SECONDS", 0.05)
    folder = tmp_path / "stage"
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    write_json(claim_path(folder), {**asdict(Owner.of(sleeper.pid)), "key": ""})
    with claim(folder, on_wait=lambda _: sleeper.kill()) as waited:
        assert waited
        assert holder_of(folder) is None or holder_of(folder) == Owner.me()
    sleeper.wait()


# -- started again --------------------------------------------------------------------------------


def asks_for_another_life(folder: str) -> str:
    """Says that it cannot stay, as before a time limit, in its first lives; gets on meanwhile if so
    asked."""
    life = len(list(Path(folder).glob("life-*")))
    Path(folder, f"life-{life}").touch()
    if life >= 8:
        return f"life {life}"
    ProgressWriter(folder, total=100, start=life if Path(folder, "gets-on").exists() else 1)
    raise StopRequested("the card is hot", requeue=True)


@pytest.mark.slow
def test_a_job_is_started_again_as_long_as_it_gets_on(tmp_path: Path) -> None:
    (tmp_path / "gets-on").touch()
    found = launch(asks_for_another_life, str(tmp_path), tmp_path, LOCAL, name="stage")
    assert found == "life 8"
    assert len(list((tmp_path / "logs").iterdir())) == 2, "six lives, then a submission of ours"


@pytest.mark.parametrize("place", ["", "1-of-2"], ids=["stage", "shard"])
def test_a_job_that_does_not_get_on_is_given_up(tmp_path: Path, place: str) -> None:
    lives = launching._Lives(tmp_path)
    ProgressWriter(tmp_path / place, total=100, start=5)
    lives.count("stage", "the card is hot")
    for _ in range(launching.LIVES - 1):
        lives.count("stage", "the card is hot")
    ProgressWriter(tmp_path / place, total=100, start=6)
    lives.count("stage", "the card is hot")  # a step further: the count begins anew
    for _ in range(launching.LIVES - 1):
        lives.count("stage", "the card is hot")
    with pytest.raises(StageError, match=r"3 times in a row.*step 6 \(the card is hot\)"):
        lives.count("stage", "the card is hot")


# -- nobody else's --------------------------------------------------------------------------------


def test_what_is_made_is_ours_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = make_private(tmp_path / "runs" / "smoke" / "stage")
        logs = make_private(made / "logs", mode=0o700)
    finally:
        os.umask(before)
    assert [place.stat().st_mode & 0o777 for place in (made, made.parent, logs)] == [
        0o755, 0o755, 0o700,
    ]  # fmt: skip


def test_the_folder_of_a_project_may_be_its_groups(tmp_path: Path) -> None:
    project = tmp_path / "runs"
    project.mkdir()
    project.chmod(0o2775)
    assert launch(jobs.square, 3, project / "mine" / "stage", LOCAL, name="stage") == 9


@pytest.mark.parametrize("mode", [0o775, 0o757])
def test_a_folder_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "stage"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(StorageError, match=rf"written by others \(mode 0{mode:o}\).*chmod -R go-w"):
        launch(jobs.square, 3, folder, LOCAL, name="stage")


def test_a_folder_of_somebody_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(StorageError, match="belongs to user"):
        require_private(tmp_path)


def test_no_pickle_is_opened_that_others_may_have_written(tmp_path: Path) -> None:
    assert launch(jobs.square, 3, tmp_path, LOCAL, name="stage") == 9
    handle = read_handle(tmp_path)
    assert handle is not None
    logs = Path(handle.logs)
    assert logs.stat().st_mode & 0o777 == 0o700
    backend = submission.backend_for(LOCAL, handle)
    logs.chmod(0o777)
    for read in (backend.result, backend.failures):
        with pytest.raises(StorageError, match="can be written by others"):
            read(handle)
    command = [sys.executable, "-m", "pipeline.entry", str(logs)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 1 and "can be written by others" in answer.stderr
    assert len(answer.stderr.splitlines()) == 1


def test_a_lax_umask_changes_nothing(tmp_path: Path) -> None:
    code = "import os; os.umask(0); from tests.pipeline import jobs; import sys\n" + (
        "from pipeline.launch import launch, LaunchConfig\n"
        "for _ in range(2): print(launch(jobs.square, 3, sys.argv[1], LaunchConfig(), name='s'))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run" / "stage")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "9\n9\n"
    lax = [path for path in tmp_path.rglob("*.json") if path.stat().st_mode & 0o022]
    assert not lax


def test_records_that_others_may_have_written_are_not_acted_upon(tmp_path: Path) -> None:
    folder = tmp_path / "stage"
    folder.mkdir()
    write_intent(folder, KEY, "local", 1)
    for place, mode, good in ((folder, 0o777, 0o755), (folder / "intent.json", 0o666, 0o644)):
        place.chmod(mode)
        with pytest.raises(StorageError, match="can be written by others"):
            running_job(folder, LOCAL)
        place.chmod(good)
    assert running_job(folder, LOCAL) is None

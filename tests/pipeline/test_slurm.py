"""On a real SLURM, two nodes on this machine: results, causes, states, and jobs that come back after
a time limit, a preemption or the loss of a node."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import heartbeat, queue, slurm
from pipeline.array import launch_array
from pipeline.errors import ConfigError, StageError
from pipeline.launch import launch, read_handle
from pipeline.progress import Progress
from pipeline.settings import LaunchConfig
from pipeline.stop import StopRequested
from pipeline.submission import backend_for
from tests.cluster import Cluster
from tests.pipeline import jobs
from tests.pipeline.slurm_jobs import (
    Training,
    granted,
    lives,
    share_with_workers,
    train,
    two_lives,
    use_up_memory,
    where_am_i,
)

CONFIG = LaunchConfig(launcher="slurm", threads=1, timeout_minutes=30, partition="main")
TWO = replace(CONFIG, nodes=2)
PATIENCE = (queue.SLURM_SECONDS, slurm.SlurmBackend.least_pause)
pytestmark = [pytest.mark.usefixtures("cluster"), pytest.mark.timeout(600)]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """This SLURM may be asked more often than one that others use, too."""
    set_patience(monkeypatch, 2.0, 0.5)
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 6.0)


def set_patience(monkeypatch: pytest.MonkeyPatch, queue_seconds: float, pause: float) -> None:
    monkeypatch.setattr(queue, "SLURM_SECONDS", queue_seconds)
    monkeypatch.setattr(slurm.SlurmBackend, "least_pause", pause)


def listener(
    condition: Callable[[], bool], act: Callable[[], None]
) -> Callable[[Progress | None], None]:
    """A listener that acts once, as soon as something holds."""
    acted: list[bool] = []

    def listen(progress: Progress | None) -> None:
        if not acted and condition():
            acted.append(True)
            act()

    return listen


def job_of(folder: Path) -> str:
    handle = read_handle(folder)
    assert handle is not None
    return handle.job_id


def command(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


def straight(tmp_path: Path, steps: int, ranks: int) -> "Future[dict]":
    """The weights of the same training, never interrupted, as processes of this machine, made
    while SLURM takes its time."""
    config = LaunchConfig(threads=1, tasks_per_node=ranks)
    folder = tmp_path / "straight"
    work = Training(str(folder), steps, 0.0)
    return ThreadPoolExecutor(1).submit(launch, train, work, folder, config, name="straight")


def test_ranks_meet_on_two_nodes_and_shards_share_an_array(tmp_path: Path) -> None:
    assert launch(jobs.rank_and_sum, 3, tmp_path / "a", TWO, name="stage") == (2, 7.0, "1")
    work = [(number, str(tmp_path)) for number in (2, 3, 4)]
    assert launch_array(jobs.square_once, work, tmp_path / "b", CONFIG, name="x") == [4, 9, 16]
    handle = read_handle(tmp_path / "b")
    assert handle is not None
    state = backend_for(CONFIG, handle).state(handle)
    assert (state.state, state.reason) == ("COMPLETED", "3 completed")


@pytest.mark.slow
def test_causes_are_told(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="stage failed: RuntimeError: oops"):
        launch(jobs.stumble, "oops", tmp_path / "a", CONFIG, name="stage")
    with pytest.raises(StageError, match=r"SLURM says FAILED on n\d .*NonZeroExitCode"):
        launch(use_up_memory, None, tmp_path / "b", CONFIG, name="stage")
    told = r"1 of 2 shards are not done \(1\): .*SLURM says FAILED"
    with pytest.raises(StageError, match=told) as raised:
        launch_array(jobs.die_if_odd, [1, 2], tmp_path / "d", CONFIG, name="x")
    logs = Path(str(raised.value).rpartition("log: ")[2])
    assert len(list(logs.glob("*_log.err"))) == 2
    nowhere = replace(CONFIG, partition="nowhere")
    with pytest.raises(ConfigError, match=r"not accepted by SLURM.*partition"):
        launch(jobs.square, 1, tmp_path / "c", nowhere, name="stage")


@pytest.mark.slow
def test_what_is_asked_for_and_where_python_comes_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: Cluster
) -> None:
    gpus = 2 if "gpu" in cluster.ask("sinfo", "-h", "-o", "%G") else None
    asked = replace(CONFIG, gpus_per_node=gpus, cpus=3, ram_gb=1)
    found = launch(granted, None, tmp_path / "a", asked, name="stage")
    assert found == ("0,1" if gpus else "", "3", "1024")
    stand_in = tmp_path / "bin" / "apptainer"
    stand_in.parent.mkdir()
    stand_in.write_text(
        "#!/bin/bash\n"
        '[ "$1 $2 $3 $4" = "exec --bind /a:/b image.sif" ] || exit 1\n'
        'shift 4; FROM_CONTAINER=$1 exec "$@"\n'
    )
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stand_in.parent}:{os.environ['PATH']}")
    inside = replace(
        CONFIG,
        container="image.sif",
        mounts=("/a:/b",),
        python=sys.executable,
        setup=("export FROM_SETUP=prologue",),
    )
    found = launch(where_am_i, None, tmp_path / "b", inside, name="stage")
    assert found == ("prologue", inside.python)


@pytest.mark.slow
def test_more_time_limits_than_submitit_allows_and_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a minute there is time for a step or two, and for the save that might take as long as
    usual: the job saves, is requeued, and goes on, as often as it takes."""
    monkeypatch.setattr(slurm, "ENDLESS", 1)  # what submitit counts does not matter
    folder = tmp_path / "a"
    expected = straight(tmp_path, 4, 1)
    minute = replace(CONFIG, timeout_minutes=1, signal_seconds=10)
    found = launch(train, Training(str(folder), 4, 4.0), folder, minute, name="stage")
    assert len(lives(folder)) >= 3
    assert read_handle(folder).attempt == 1
    assert found == expected.result()


@pytest.mark.slow
def test_scancel_is_seen_within_half_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_patience(monkeypatch, *PATIENCE)
    seen: list[float] = []

    def cancel() -> None:
        handle = read_handle(tmp_path)
        assert handle is not None
        seen.append(time.monotonic())
        command("scancel", handle.job_id)

    listen = listener((tmp_path / "life-0").exists, cancel)
    with pytest.raises(StopRequested, match="SIGTERM"):
        launch(share_with_workers, str(tmp_path), tmp_path, CONFIG, name="stage", on_poll=listen)
    assert time.monotonic() - seen[0] < 30
    assert (tmp_path / "saved-0").exists()


@pytest.mark.slow
def test_a_preempted_job_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_patience(monkeypatch, 0.5, 0.5)  # to see every state
    states: list[str] = []
    script = tmp_path / "high.sh"
    script.write_text("#!/bin/bash\n#SBATCH -p high -N2 --exclusive -o /dev/null\nsleep 3\n")

    def listen(progress: Progress | None) -> None:
        handle = read_handle(tmp_path)
        assert handle is not None
        states.append(backend_for(CONFIG, handle).state(handle).text)
        preempt(progress)

    preempt = listener((tmp_path / "life-0").exists, lambda: command("sbatch", str(script)))
    found = launch(two_lives, str(tmp_path), tmp_path, CONFIG, name="stage", on_poll=listen)
    assert found == "life 1"
    assert (tmp_path / "saved-0").exists()
    kinds = [state.split()[0] for state in states]
    assert "RUNNING" in kinds and "PENDING" in kinds[kinds.index("RUNNING") :], states


@pytest.mark.slow
def test_a_lost_node_is_replaced(tmp_path: Path, cluster: Cluster) -> None:
    steps, folder = 16, tmp_path / "a"
    folder.mkdir()
    expected: list[Future[dict]] = []

    def listen(progress: Progress | None) -> None:
        pull_the_plug(progress)
        if "n2" not in cluster.daemons and "down" in cluster.ask("sinfo", "-h", "-n", "n2", "-o%T"):
            cluster.revive("n2", wait=False)

    def pull() -> None:
        cluster.fail("n2")
        expected.append(straight(tmp_path, steps, 2))

    midway = folder / "life-0-step"
    pull_the_plug = listener(lambda: midway.exists() and int(midway.read_text() or 0) > 5, pull)
    work = Training(str(folder), steps, 0.3)
    found = launch(train, work, folder, TWO, name="stage", on_poll=listen)
    assert len(lives(folder)) == 2
    assert found == expected[0].result()


@pytest.mark.slow
def test_an_array_names_what_failed_and_ends_as_one(tmp_path: Path, cluster: Cluster) -> None:
    work = [(number, str(tmp_path)) for number in (2, -3, 4)]
    one = replace(CONFIG, parallel=2)
    with pytest.raises(StageError, match=r"1 of 3 shards failed \(shard 2: ValueError"):
        launch_array(jobs.square_once, work, tmp_path / "a", one, name="x")
    (tmp_path / "allowed").touch()
    assert launch_array(jobs.square_once, work, tmp_path / "a", one, name="x") == [4, 9, 16]
    assert (tmp_path / "ran-2").read_text() == "x"

    reasons: list[str] = []

    def interrupt() -> None:
        handle = read_handle(tmp_path / "b")
        assert handle is not None
        queue.QUEUE.forget()
        reasons.append(backend_for(one, handle).state(handle).reason)
        raise KeyboardInterrupt

    work, one = [(number, str(tmp_path)) for number in range(3)], replace(CONFIG, parallel=1)
    listen = listener(lambda: len(list(tmp_path.glob("began-*"))) == 1, interrupt)
    with pytest.raises(KeyboardInterrupt):
        launch_array(jobs.slow_square, work, tmp_path / "b", one, name="x", on_poll=listen)
    cluster.wait(lambda: not cluster.ask("squeue", "-h"))
    assert len(list(tmp_path.glob("began-*"))) == 1
    assert "1 running" in reasons[0] and "2 pending" in reasons[0]


@pytest.mark.slow
def test_every_part_of_an_array_comes_back_for_itself(tmp_path: Path) -> None:
    work = [str(tmp_path / name) for name in ("one", "two")]
    for folder in work:
        Path(folder).mkdir()
    listen = listener(
        lambda: len(list(tmp_path.glob("*/life-0"))) == 2,
        lambda: command("scancel", "--signal=USR2", job_of(tmp_path / "a")),
    )
    found = launch_array(two_lives, work, tmp_path / "a", CONFIG, name="x", on_poll=listen)
    assert found == ["life 1", "life 1"]
    lives = [path.parent.name for path in tmp_path.glob("a/*/lives-*.json")]
    assert sorted(lives) == ["1-of-2", "2-of-2"]
    assert not (tmp_path / "a" / "ended.json").exists()


LAUNCHER = """
import sys
from pipeline.array import launch_array
from tests.pipeline import jobs, test_slurm
work = [(number, sys.argv[1]) for number in range(3)]
launch_array(jobs.slow_square, work, sys.argv[1], test_slurm.CONFIG, name="x")
"""


@pytest.mark.slow
def test_an_array_is_joined_by_the_next_call(tmp_path: Path, cluster: Cluster) -> None:
    process = subprocess.Popen([sys.executable, "-c", LAUNCHER, str(tmp_path)])
    try:
        cluster.wait(lambda: len(list(tmp_path.glob("began-*"))) == 3 and read_handle(tmp_path))
    finally:
        process.kill()
        process.wait()
    first = job_of(tmp_path)
    (tmp_path / "finish").touch()
    work = [(number, str(tmp_path)) for number in range(3)]
    assert launch_array(jobs.slow_square, work, tmp_path, CONFIG, name="x") == [0, 1, 4]
    assert job_of(tmp_path) == first


@pytest.mark.slow
def test_an_interrupt_saves_and_cancels(tmp_path: Path, cluster: Cluster) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    listen = listener((tmp_path / "life-0").exists, interrupt)
    with pytest.raises(KeyboardInterrupt):
        launch(two_lives, str(tmp_path), tmp_path, CONFIG, name="stage", on_poll=listen)
    assert (tmp_path / "saved-0").exists()
    cluster.wait(lambda: not cluster.ask("squeue", "-h"), seconds=30)
    assert json.loads((tmp_path / "ended.json").read_text())["kind"] == "stopped"

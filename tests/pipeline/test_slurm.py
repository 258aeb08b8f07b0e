"""The same promises on a real SLURM: two nodes on this machine, where it is installed."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline import slurm
from pipeline.errors import ConfigError, StageError
from pipeline.launch import launch, read_handle
from pipeline.progress import Progress
from pipeline.settings import LaunchConfig
from tests.pipeline import jobs

pytestmark = pytest.mark.slow
CONFIG = LaunchConfig(
    launcher="slurm",
    threads=1,
    timeout_minutes=30,
    partition="main",
    setup=("export MASTER_ADDR=127.0.0.1 GLOO_SOCKET_IFNAME=lo",),
)


@pytest.fixture(scope="module", autouse=True)
def cluster(shared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Two nodes and a controller; the environment points to them meanwhile."""
    script = shared_dir / "tools" / "slurm_up.sh"
    if shutil.which("slurmd") is None and not Path("/usr/sbin/slurmd").exists():
        pytest.skip("no SLURM here: apt-get install slurm-wlm munge")
    before = dict(os.environ)
    os.environ["SLURM_SIM_DIR"] = str(tmp_path_factory.mktemp("slurm"))
    command = f'eval "$({script} env)"; env -0'
    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    os.environ.update(line.split("=", 1) for line in found.stdout.split("\0") if "=" in line)
    subprocess.run([script, "up"], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run([script, "down"], check=False, capture_output=True)
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "SLURM_SECONDS", 3.0)


def once_started(folder: Path, act: Callable[[], None]) -> Callable[[Progress | None], None]:
    """A listener that acts once, when the job's first life has begun."""

    def listen(progress: Progress | None) -> None:
        if (folder / "life-0").exists() and not (folder / "acted").exists():
            (folder / "acted").touch()
            act()

    return listen


def queue() -> str:
    return subprocess.run(["squeue", "-h"], capture_output=True, text=True, check=True).stdout


def test_results_and_causes(tmp_path: Path) -> None:
    two = LaunchConfig(**{**CONFIG.__dict__, "nodes": 2})
    assert launch(jobs.rank_and_sum, 3, tmp_path / "a", two, name="stage") == (2, 7.0, "1")
    with pytest.raises(StageError, match="stage failed: RuntimeError: oops"):
        launch(jobs.stumble, "oops", tmp_path / "b", CONFIG, name="stage")
    nowhere = LaunchConfig(**{**CONFIG.__dict__, "partition": "nowhere"})
    with pytest.raises(ConfigError, match=r"not accepted by SLURM.*partition"):
        launch(jobs.square, 1, tmp_path / "c", nowhere, name="stage")


def test_a_time_limit_saves_and_requeues(tmp_path: Path) -> None:
    def preempt() -> None:
        handle = read_handle(tmp_path)
        assert handle is not None
        subprocess.run(["scancel", "--signal=USR2", handle.job_id], check=True)

    listen = once_started(tmp_path, preempt)
    found = launch(jobs.two_lives, str(tmp_path), tmp_path, CONFIG, name="stage", on_poll=listen)
    assert found == "life 1"
    assert (tmp_path / "saved-0").exists()


def test_an_interrupt_saves_and_cancels(tmp_path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    listen = once_started(tmp_path, interrupt)
    with pytest.raises(KeyboardInterrupt):
        launch(jobs.two_lives, str(tmp_path), tmp_path, CONFIG, name="stage", on_poll=listen)
    assert (tmp_path / "saved-0").exists()
    until = time.monotonic() + 30
    while queue() and time.monotonic() < until:
        time.sleep(0.5)
    assert not queue()

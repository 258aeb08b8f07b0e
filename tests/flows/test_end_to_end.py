"""The real thing, tiny: every stage with its own code, Prefect, MLflow, jobs, signals, services."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.environment import free_port
from stages.contract import read_result

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PROJECT = Path(__file__).resolve().parents[2]
TINY = [
    "world.train_images=24",
    "world.val_images=4",
    "world.train_videos=6",
    "world.val_videos=2",
    "world.frames=16",
    "stages.image_pretrain.steps=4",
    "stages.video_train.steps=3",
    "stages.joint_train.steps=3",
    "stages.image_pretrain.mixture.image_batch=4",
    "stages.video_train.mixture.video_batch=2",
    "stages.joint_train.mixture.image_batch=4",
    "stages.joint_train.mixture.video_batch=2",
]
BARE = "import sys; from flows.cli import main; sys.exit(main(sys.argv[1:]))"


class Box:
    """A folder with its own runs and state, and what was started in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")},
            "SAM2_STATE": str(folder / "state"),
            "PYTHONPATH": str(PROJECT),
            "OMP_NUM_THREADS": "1",
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """`sam2-pipeline` in this folder."""
        return subprocess.Popen(
            [sys.executable, "-c", BARE, *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, expect: int = 0) -> str:
        """What `sam2-pipeline` says, once it has ended as expected."""
        process = self.start(*arguments)
        said, _ = process.communicate(timeout=800)
        assert process.returncode == expect, said
        return said

    def left_behind(self) -> list[str]:
        """Processes that still know this folder, other than the test itself."""
        found = []
        for process in psutil.process_iter():
            try:
                belongs = process.environ().get("SAM2_STATE") == self.environment["SAM2_STATE"]
                if belongs and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(process.cmdline()))
            except psutil.Error:
                continue
        return found


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Box:
    return Box(tmp_path_factory.mktemp("box"))


def wait_for(path: Path, seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.2)


def test_a_run_is_interrupted_continues_and_is_then_done(box: Box):
    stage = box.folder / "runs" / "smoke" / "image_pretrain"
    process = box.start("run", *TINY, "stages.image_pretrain.steps=5000")
    wait_for(stage / "progress.json")
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 130, said
    assert "run the same command again" in said and "Traceback" not in said
    assert box.left_behind() == []
    assert read_result(stage) is None
    assert read_result(stage.parent / "world") is not None

    said = box.run("run", *TINY)
    assert "world" in said and "done before" in said
    assert "joint_train" in said and "first mask repeated" in said
    assert (box.folder / "runs/smoke/report.html").is_file()
    assert box.left_behind() == []

    said = box.run("run", *TINY)
    assert said.count("done before") == 10 and "starts" not in said


def test_one_stage_again_after_its_output_was_lost(box: Box):
    folder = box.folder / "runs/smoke/joint_train"
    if read_result(folder) is None:  # the only test that is run
        box.run("run", *TINY)
    result = read_result(folder)
    assert result is not None
    Path(result.files["weights"]).unlink()
    said = box.run("stage", "joint_train", *TINY)
    assert "joint_train" in said
    again = read_result(folder)
    assert again is not None and again.digest == result.digest, "the same work, the same weights"


def test_a_stage_that_fails_says_why_and_is_mended_by_running_again(box: Box):
    settings = [*TINY, "run_name=broken"]
    box.run("run", *settings, "stop_after=extract_frames")
    world = next((box.folder / "runs/worlds").iterdir())
    picture = next((world / "sa1b/train").glob("*.json"))
    whole = picture.read_text()
    picture.write_text(whole[: len(whole) // 2])
    said = box.run("stage", "image_pretrain", *settings, "stages.image_pretrain.steps=30", expect=2)
    assert picture.name in said
    assert box.left_behind() == []
    picture.write_text(whole)
    box.run("stage", "image_pretrain", *settings, "stages.image_pretrain.steps=3")


def test_a_stage_is_fitted_before_the_run_begins_and_its_job_trains_so(box: Box):
    settings = [*TINY, "run_name=fitted", "stop_after=image_pretrain"]
    said = box.run("run", *settings, "stages.image_pretrain.memory_gb=1.001", expect=2)
    assert "stages.image_pretrain.memory: " in said and "there are 1.00 GiB" in said
    assert "world" not in said.split("trying its worst step")[1], "nothing was begun"
    run = box.folder / "runs/fitted"
    assert not (run / "image_pretrain").exists()

    said = box.run("run", *settings, "stages.image_pretrain.memory_gb=4")
    plan = re.search(r"image_pretrain: (\S+ of 4\.00 GiB .*)", said)
    assert plan, said
    log = "".join(path.read_text() for path in (run / "image_pretrain/logs").rglob("*_0_log.out"))
    assert f"memory: {plan[1]}" in log
    assert len(list((run / ".plans").iterdir())) == 1


@pytest.fixture
def services(box: Box) -> Iterator[list[str]]:
    ports = [f"--{name}-port={free_port()}" for name in ("prefect", "mlflow", "tensorboard")]
    box.run("up", *ports)
    yield ports
    box.run("down")
    assert box.left_behind() == []


def test_a_deployment_runs_on_the_services(box: Box, services: list[str]):
    assert box.run("status").count("well") == 4
    assert "well" in box.run("up", *services), "up twice is fine"
    prefect = [str(Path(sys.executable).parent / "prefect"), "deployment", "run"]
    parameters = {"stage": "world", "overrides": [*TINY, "run_name=deployed"]}
    words = [f"--param={name}={json.dumps(value)}" for name, value in parameters.items()]
    answer = subprocess.run(
        [*prefect, "sam2-stage/make_world", *words, "--watch"],
        cwd=box.folder,
        env=box.environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert read_result(box.folder / "runs/deployed/world") is not None
    listed = box.run("run", *TINY, "run_name=deployed", "stop_after=extract_frames")
    assert "on the Prefect server" in listed, "a run on this machine uses the server that is up"

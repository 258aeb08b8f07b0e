"""The command line from outside: interrupted at any moment, on several ranks, it comes to the same weights.

One training stage is enough for that; the whole recipe is run in tests/flows/test_end_to_end.py.
"""

import hashlib
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
import torch

from pipeline.checkpoint import latest_valid
from pipeline.progress import read_progress
from stages.contract import read_result, read_spec
from stages.recipe import load_recipe

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

HOUSE = Path(__file__).resolve().parents[1]
MARK = "SAM2_TEST_MARK"
STEPS = 30
TINY = [
    "world.train_images=12",
    "world.val_images=2",
    "world.train_videos=2",
    "world.val_videos=1",
    "world.davis_train_videos=0",
    "world.frames=16",
    "world.width=96",
    "world.height=64",
    f"stages.image_pretrain.steps={STEPS}",
    "stages.image_pretrain.mixture.image_batch=2",
    "stages.image_pretrain.optim.schedule.warmup_steps=5",
    "stages.image_pretrain.loop.log_every=2",
    "stages.image_pretrain.loop.save_every=1000",
    "~stages.extract_frames",
    "~stages.video_train",
    "~stages.joint_train",
    "evaluation=null",
    "launch.tasks_per_node=1",
    "launch.threads=1",
    "launch.stop_seconds=60",  # on a busy machine a step may take long
]
COMMAND = [sys.executable, "-c", "import sys; from flows.cli import main; sys.exit(main())"]


class Place:
    """A folder with runs of its own, and a mark that everything started from it carries."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = hashlib.sha256(str(folder).encode()).hexdigest()
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "SAM2_"))}
        self.environment = {
            **kept,
            MARK: self.mark,
            "SAM2_STATE": str(folder / "state"),
            "PYTHONPATH": str(HOUSE),
            "OMP_NUM_THREADS": "1",
        }

    def start(self, *words: str) -> subprocess.Popen[str]:
        """`sam2-pipeline run` in a process group of its own, as a terminal starts it."""
        return subprocess.Popen(
            [*COMMAND, "run", "recipe=smoke", *words],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *words: str) -> str:
        """What it prints, once it has ended well."""
        process = self.start(*words)
        try:
            said, _ = process.communicate(timeout=400)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)  # it ends its jobs itself
        assert process.returncode == 0, said
        return said

    def alive(self, words: str = "") -> list[str]:
        """Processes that were started from here and still are; words: of their command lines."""
        return [f"{process.pid} {line}" for process, line in self._processes() if words in line]

    def _processes(self) -> list[tuple[psutil.Process, str]]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.mark:
                    found.append((process, " ".join(process.cmdline())))
            except psutil.Error:
                continue
        return found

    def stage(self, run: str, name: str) -> Path:
        return self.folder / "runs" / run / name

    def weights(self, run: str, name: str = "image_pretrain") -> dict[str, torch.Tensor]:
        file = self.stage(run, name) / "model.pt"
        return torch.load(file, map_location="cpu", weights_only=True)["model"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    made = Place(tmp_path_factory.mktemp("place"))
    yield made
    assert made.alive() == []


@pytest.fixture(scope="module")
def straight(place: Place) -> str:
    """The name of a run whose first training stage was never disturbed."""
    place.run(*TINY, "run_name=straight")
    return "straight"


def test_ctrl_c_leaves_nothing_behind_and_loses_nothing(place: Place, straight: str):
    words = [*TINY, "run_name=stopped"]
    stage = place.stage("stopped", "image_pretrain")
    process = place.start(*words)
    wait_for_step(process, stage, 4)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does: everyone in the group gets it
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in said, said
    assert place.alive() == []
    assert read_result(stage) is None

    saved = latest_valid(stage / "checkpoints")
    assert saved is not None, "it was saved on the way out"
    step = int(re.findall(r"\d+", saved.name)[0])
    assert 4 <= step < STEPS

    place.run(*words)
    rows = (stage / "metrics.jsonl").read_text().splitlines()
    logged = [int(found[1]) for row in rows if (found := re.search(r'"step": ?(\d+)', row))]
    assert logged == sorted(set(logged)) and logged[-1] == STEPS, "no step was taken twice"
    assert same(place.weights("stopped"), place.weights(straight))


def test_a_killed_run_continues_too(place: Place, straight: str):
    """SIGKILL to the launcher: the job notices, saves and ends; the same command clears up and goes on."""
    words = [*TINY, "run_name=killed"]
    stage = place.stage("killed", "image_pretrain")
    process = place.start(*words)
    wait_for_step(process, stage, 4)
    process.kill()
    process.communicate(timeout=120)
    until = time.monotonic() + 120
    while place.alive("submitit") and time.monotonic() < until:
        time.sleep(0.2)
    assert place.alive("submitit") == []
    place.run(*words)
    assert same(place.weights("killed"), place.weights(straight))


def test_two_ranks_learn_what_one_learns(place: Place, straight: str):
    words = [*TINY, "run_name=ranks"]
    place.run(*words, "launch.tasks_per_node=2")
    one, two = place.weights(straight), place.weights("ranks")
    moved = distance(one, initial(place))
    apart = distance(one, two)
    assert 0 < apart < 0.05 * moved, f"{apart / moved:.3f} of the way from the start"
    logs = list((place.stage("ranks", "image_pretrain") / "logs").rglob("*_1_log.out"))
    assert logs, "the second rank was there"


def test_another_seed_is_another_world_and_another_start(place: Place):
    here = ["recipe=smoke", f"runs={place.folder / 'runs'}", *TINY]
    zero, seven = load_recipe(here), load_recipe([*here, "seed=7"])
    assert zero.world_folder != seven.world_folder and seven.folder.name == "smoke-seed7"
    said = place.run(*TINY, "stop_after=world", "--seed", "7")
    assert seven.world_folder.is_dir() and "world" in said
    spec = read_spec(seven.folder / "world" / "spec.json")
    assert spec.settings["world"]["seed"] == 7


def wait_for_step(process: subprocess.Popen[str], stage: Path, step: int) -> None:
    """Until the running stage says that it has come this far."""
    deadline = time.monotonic() + 300
    while (seen := read_progress(stage)) is None or seen.step < step:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


def initial(place: Place) -> dict[str, torch.Tensor]:
    """The weights every run of the recipe starts from."""
    from stages.training import build_model

    spec = read_spec(place.stage("straight", "image_pretrain") / "spec.json")
    return build_model(spec).state_dict()


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def distance(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    squares = [(left[name] - right[name]).double().square().sum() for name in left]
    return float(torch.stack(squares).sum().sqrt())

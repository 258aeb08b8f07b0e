"""A recipe whose stages are jobs of a real SLURM, and a flow that is cancelled on its Prefect server."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.environment import free_port
from stages.contract import read_result
from tests.cluster import Cluster
from tests.flows.test_end_to_end import TINY, Box

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ON_SLURM = [
    *("launch.launcher=slurm", "launch.partition=main", "launch.timeout_minutes=20"),
    *("launch.nodes=2", "launch.tasks_per_node=1", "launch.shards=2", "launch.stop_seconds=25"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all, so that the data is made once."""
    return tmp_path_factory.mktemp("box")


@pytest.fixture
def box(cluster: Cluster, folder: Path) -> Box:
    """A folder whose commands find the cluster."""
    return Box(folder)


def queue(cluster: Cluster) -> dict[str, tuple[str, str]]:
    """State and number of nodes of every job there was, by its number."""
    found = cluster.ask("squeue", "-h", "--states=all", "-o", "%i|%T|%D").splitlines()
    return {job: (state, nodes) for job, state, nodes in (line.split("|") for line in found)}


def test_the_stages_of_a_recipe_are_jobs(box: Box, cluster: Cluster):
    before = queue(cluster)
    words = [*TINY, *ON_SLURM, "start_at=image_pretrain", "stop_after=video_train"]
    said = box.run("run", *words)
    assert "video_train" in said
    run = box.folder / "runs/smoke"
    for name in (
        "world",
        "extract_frames",
        "image_pretrain",
        "video_train",
        "video_train.evaluate",
    ):
        assert read_result(run / name) is not None, name
    jobs = [found for job, found in queue(cluster).items() if job not in before]
    assert {state for state, _ in jobs} == {"COMPLETED"}
    assert {nodes for _, nodes in jobs} == {"1", "2"}, "training on both nodes"
    log = next((run / "image_pretrain/logs").rglob("*_1_log.out")).read_text()
    assert "global_rank=1(2)" in log
    assert len(list((run / "extract_frames").glob("*-of-2/result.pkl"))) == 2
    assert "to do" not in box.run("plan", *words).split("run it")[0]


@pytest.fixture
def services(box: Box) -> Iterator[None]:
    box.run(
        "up", *(f"--{name}-port={free_port()}" for name in ("prefect", "mlflow", "tensorboard"))
    )
    yield
    box.run("down")
    assert box.left_behind() == []


@pytest.mark.usefixtures("services")
def test_a_flow_cancelled_in_prefect_leaves_no_job(box: Box, cluster: Cluster):
    def prefect(*words: str) -> str:
        answer = subprocess.run(
            [str(Path(sys.executable).parent / "prefect"), *words],
            cwd=box.folder,
            env={**box.environment, "COLUMNS": "300"},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert answer.returncode == 0, answer.stdout + answer.stderr
        return answer.stdout

    overrides = [*TINY, *ON_SLURM, "stages.image_pretrain.steps=5000"]
    parameters = {"stage": "image_pretrain", "overrides": overrides}
    words = [f"--param={name}={json.dumps(value)}" for name, value in parameters.items()]
    said = prefect("deployment", "run", "sam2-stage/image_pretrain", *words)
    flow_run = said.split("UUID: ")[1].split()[0]
    stage = box.folder / "runs/smoke/image_pretrain"
    nodes = ("squeue", "-h", "--states=RUNNING", "-o", "%D")
    cluster.wait(
        lambda: cluster.ask(*nodes) == "2" and (stage / "metrics.jsonl").exists(), seconds=500
    )
    prefect("flow-run", "cancel", flow_run)
    cluster.wait(lambda: not cluster.ask("squeue", "-h"), seconds=300)
    cluster.wait(
        lambda: "CANCELLED" in prefect("flow-run", "inspect", flow_run).upper(), seconds=300
    )
    assert json.loads((stage / "ended.json").read_text())["kind"] == "stopped"
    assert list((stage / "checkpoints").iterdir()), "it saved first"

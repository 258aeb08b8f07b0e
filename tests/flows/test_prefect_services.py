"""Deployments on a real Prefect server and worker, MLflow over HTTP, and an S3 endpoint: a whole
recipe, a cancelled stage, a server that goes away, and two nights."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import numpy as np
import psutil
import pytest
from PIL import Image

from flows.daemons import remembered
from pipeline import registry
from pipeline.environment import free_port
from pipeline.launch import read_handle
from pipeline.progress import read_progress
from pipeline.storage import write_json
from stages.contract import read_result
from tests.data.lookalikes import CLOSE_PALETTE
from tests.flows.test_end_to_end import TINY, Box
from tests.s3 import BUCKET, moto_server, pointed_at

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PATIENCE = 120
"""Seconds for an answer: SQLite waits up to 60 for its lock before the server says 503."""
ONE_RANK = ["launch.tasks_per_node=1", "launch.threads=1", "launch.stop_seconds=25"]
NIGHT = [
    "model.preset=micro",
    "model.image_size=96",
    "stages.finetune.optim.groups=[]",
    "stages.finetune.optim.layer_decay=1.0",
    "stages.finetune.optim.clip=1.0",
    "stages.finetune.loss.focal=1.0",
    "stages.finetune.sampling.frames=2",
    "stages.finetune.mixture.video_batch=2",
    "stages.finetune.prompts.corrected_frames=0",
    "stages.finetune.prompts.correction_clicks=0",
    "stages.finetune.prompts.initial_frames=1",
    "stages.finetune.drop_path=0.0",
    "stages.finetune.workers=0",
    "stages.finetune.precision=fp32",
    "evaluation.overlay_videos=1",
    "launch.launcher=inline",
    *ONE_RANK,
]
GOOD = [*NIGHT, "stages.finetune.steps=25", "stages.finetune.optim.lr=1e-3"]
BAD = [*NIGHT, "stages.finetune.steps=1", "stages.finetune.optim.lr=1e-9"]


class Services(Box):
    """Services in a folder of their own, and what Prefect says of them."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.environment |= {"SAM2_ARTIFACTS": f"s3://{BUCKET}/runs"}
        self.environment.pop("SAM2_DATA", None)
        self.ports = {name: free_port() for name in ("prefect", "mlflow", "tensorboard")}

    def up(self) -> str:
        return self.run("up", *(f"--{name}-port={port}" for name, port in self.ports.items()))

    @property
    def mlflow(self) -> str:
        return f"http://127.0.0.1:{self.ports['mlflow']}"

    def ask(self, path: str, body: Any = None, method: str | None = None) -> Any:
        """Prefect's API. While its database is locked it answers 503, and its clients ask again."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.ports['prefect']}/api/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"content-type": "application/json"},
            method=method,
        )
        for patience in (1, 2, 4, 8, 0):
            try:
                with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                    return json.loads(answer.read() or b"null")
            except urllib.error.HTTPError as error:
                if error.code != 503 or not patience:
                    raise
                time.sleep(patience)
        raise AssertionError("unreachable")

    def fetched(self, url: str) -> bytes:
        """What MLflow serves at `url`."""
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            return bytes(answer.read())

    def deployment(self, name: str) -> dict[str, Any]:
        """The deployment `flow/name`, as the server has it."""
        return dict(self.ask(f"deployments/name/{name}"))

    def deploy_run(self, name: str, tags: Sequence[str] = (), **parameters: Any) -> str:
        """Start a run of the deployment `name` as the form does; its id."""
        body = {"parameters": parameters, "tags": list(tags), "idempotency_key": uuid4().hex}
        made = self.ask(f"deployments/{self.deployment(name)['id']}/create_flow_run", body)
        return str(made["id"])

    def cancel(self, run: str) -> None:
        """What the button does."""
        state = {"type": "CANCELLING", "name": "Cancelling"}
        answer = self.ask(f"flow_runs/{run}/set_state", {"state": state})
        assert answer["status"] == "ACCEPT", answer

    def state(self, run: str) -> dict[str, Any]:
        return dict(self.ask(f"flow_runs/{run}")["state"])

    def wait(self, run: str, *wanted: str, seconds: float = 600) -> dict[str, Any]:
        """The state of `run` once its name is one of `wanted`."""
        until = time.monotonic() + seconds
        while (state := self.state(run))["name"] not in wanted:
            over = state["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
            assert not over and time.monotonic() < until, state
            time.sleep(0.3)
        return state

    def artifacts(self, run: str) -> dict[str, tuple[str, str]]:
        """(type, data) of every artifact of a flow run, by key."""
        body = {"flow_runs": {"id": {"any_": [run]}}, "limit": 200}
        found = self.ask("artifacts/filter", body)
        assert len({item["key"] for item in found}) == len(found), "each is made once"
        return {item["key"]: (item["type"], str(item["data"])) for item in found}

    def lines(self, run: str) -> list[str]:
        """The log of a flow run."""
        wanted = {"flow_run_id": {"any_": [run]}}
        found: list[str] = []
        while part := self.ask("logs/filter", {"logs": wanted, "limit": 200, "offset": len(found)}):
            found += [line["message"] for line in part]
        return found


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    with moto_server() as address, pointed_at(address):
        fsspec.filesystem("s3").mkdir(BUCKET)
        box = Services(tmp_path_factory.mktemp("services"))
        box.up()
        try:
            yield box
        finally:
            box.run("down")
        assert box.left_behind() == []


def wait_for_step(stage: Path, step: int, seconds: float = 400) -> None:
    until = time.monotonic() + seconds
    while (progress := read_progress(stage)) is None or progress.step < step:
        assert time.monotonic() < until, f"{stage} did not come to step {step}"
        time.sleep(0.1)


def test_a_whole_recipe_shows_itself_and_keeps_its_files_in_the_bucket(box: Services):
    settings = [*TINY, *ONE_RANK, "stages.joint_train.loop.log_every=1"]  # a curve has two points
    command = [str(Path(sys.executable).parent / "prefect"), "deployment", "run"]
    words = [f"--param=overrides={json.dumps(settings)}", "--param=run_name=whole"]
    answer = subprocess.run(
        [*command, "sam2/full-recipe", *words],
        cwd=box.folder, env=box.environment, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stdout + answer.stderr
    run = answer.stdout.split("UUID: ")[1].split()[0]
    box.wait(run, "Completed")
    folder = box.folder / "runs/whole"
    assert (folder / "report.html").is_file()

    shown = box.artifacts(run)
    kinds = {key: kind for key, (kind, _) in shown.items()}
    assert kinds["whole-table"] == "table" and kinds["whole-film"] == "image"
    assert "data:image/jpeg;base64," in shown["whole-results"][1]
    (report,) = re.findall(r"\((http\S+get-artifact\S+)\)", shown["whole-results"][1])
    assert box.fetched(report) == (folder / "report.html").read_bytes()
    assert kinds["joint-train"] == "markdown" and shown["joint-train-progress"][1] == "100"
    result = read_result(folder / "joint_train")
    assert result is not None and result.checkpoint is not None
    page = shown["joint-train"][1]
    assert result.checkpoint.sha256 in page and "data:image/png;base64," in page
    assert f"/runs/{result.run_id}?workflowType=machine_learning" in page
    assert box.fetched(shown["whole-film"][1]) == (folder / "film.jpg").read_bytes()
    assert set(box.ask(f"flow_runs/{run}")["tags"]) >= {"sam2", "smoke", "whole"}

    handle = read_handle(folder / "image_pretrain")
    assert handle is not None
    log = Path(handle.logs) / f"{handle.job_id}_0_log.out"
    said = [line for line in log.read_text().splitlines() if line.startswith("image_encoder")]
    told = box.lines(run)
    assert said and [sum(line.rstrip() == each for each in told) for line in said] >= [1] * len(
        said
    )

    from pipeline.mlflow_store import client

    stored = client(box.mlflow).get_run(result.run_id)
    assert stored.info.artifact_uri.startswith(f"s3://{BUCKET}/runs/")
    assert stored.data.tags["mlflow.parentRunId"]
    assert result.checkpoint.uri.startswith("runs:/")


def test_cancelling_ends_the_job_and_leaves_nothing(box: Services):
    settings = [*TINY, *ONE_RANK, "stages.image_pretrain.steps=100000"]
    run = box.deploy_run(
        "sam2-stage/image_pretrain",
        stage="image_pretrain",
        overrides=settings,
        run_name="cancelled",
    )
    stage = box.folder / "runs/cancelled/image_pretrain"
    wait_for_step(stage, 10)
    before = set(box.left_behind())
    assert any("pipeline.entry" in line or "submitit" in line for line in before)
    box.cancel(run)
    box.wait(run, "Cancelled")
    assert not [
        line for line in box.left_behind() if "pipeline.entry" in line or "submitit" in line
    ]
    assert read_result(stage) is None
    assert list((stage / "checkpoints").iterdir()), "it was asked first, and saved"
    assert box.artifacts(run)["image-pretrain"][1].count("ended without a result") == 1


def test_a_server_that_goes_away_meanwhile_is_told_later_and_keeps_what_was_changed_on_it(
    box: Services,
):
    settings = [*TINY, *ONE_RANK, "stages.image_pretrain.steps=60"]
    run = box.deploy_run(
        "sam2/full-recipe", overrides=settings, run_name="outage",
        start_at="image_pretrain", stop_after="image_pretrain",
    )  # fmt: skip
    nightly = box.deployment("mose-finetune/nightly")
    (schedule,) = nightly["schedules"]
    path = f"deployments/{nightly['id']}"
    box.ask(f"{path}/schedules/{schedule['id']}", {"active": False}, "PATCH")
    edited = {"tags": ["mine"], "description": "Mine", "paused": True}
    edited["job_variables"] = {"env": {"MINE": "1"}}
    mine = {"parameters": {**nightly["parameters"], "alias": "mine"}, "concurrency_limit": 3}
    box.ask(path, edited | mine, "PATCH")
    box.ask("work_pools/sam2-local", {"concurrency_limit": 7}, "PATCH")
    stage = box.folder / "runs/outage/image_pretrain"
    wait_for_step(stage, 10)
    server = remembered(box.folder / "state", "prefect")
    assert server is not None
    process = psutil.Process(server.pid)
    for one in [process, *process.children(recursive=True)]:
        one.kill()
    until = time.monotonic() + 400
    while read_result(stage.with_name("image_pretrain.evaluate")) is None:
        assert time.monotonic() < until, "the stages go on without the server"
        time.sleep(0.3)
    box.up()
    nightly = box.deployment("mose-finetune/nightly")
    assert nightly["parameters"]["alias"] == "mine" and not nightly["schedules"][0]["active"]
    assert {key: nightly[key] for key in edited} == edited
    assert nightly["global_concurrency_limit"]["limit"] == 3
    assert nightly["concurrency_options"]["collision_strategy"] == "ENQUEUE"
    assert box.ask("work_pools/sam2-local")["concurrency_limit"] == 7
    box.ask(path, {"paused": False}, "PATCH")  # for the nights of another test
    box.wait(run, "Completed")
    shown = box.artifacts(run)
    assert shown["image-pretrain-progress"][1] == "100"
    assert shown["image-pretrain-evaluate"][0] == "markdown" and "outage-table" in shown


def test_what_was_changed_on_the_server_survives_an_up_that_was_killed(box: Services):
    state = box.folder / "state"
    deployment = box.deployment("mose-finetune/nightly")
    aside = state / "prefect" / "changed.json"  # what the killed one leaves

    def leave(alias: Any) -> None:
        fields = {"parameters": {**deployment["parameters"], "alias": alias}}
        kept = {"id": deployment["id"], "name": "nightly", "fields": fields}
        write_json(aside, {"deployments": [kept]})

    leave("kept")
    assert "no longer fits" not in box.up()
    assert box.deployment("mose-finetune/nightly")["parameters"]["alias"] == "kept"
    leave(["no", "text"])
    assert "deployment nightly: what was changed on the server no longer fits" in box.up()
    after = box.deployment("mose-finetune/nightly")["parameters"]
    assert after.get("alias") != ["no", "text"] and not aside.exists()


def mose(root: Path) -> Path:
    """Noise in which the object is nearly everything: all that has to be learnt is to say yes."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 8)):
        videos = [f"{split}-{number}" for number in range(count)]
        for video in videos:
            top, bottom, left, right = rng.integers(1, 7, 4)
            label = np.zeros((48, 64), np.uint8)
            label[top : 48 - bottom, left : 64 - right] = 1
            mask = Image.fromarray(label)
            mask.putpalette(CLOSE_PALETTE)
            for part in ("JPEGImages", "Annotations"):
                (root / part / video).mkdir(parents=True)
            for frame in range(5):
                noise = Image.fromarray(rng.integers(0, 255, (48, 64, 3), np.uint8))
                noise.save(root / "JPEGImages" / video / f"{frame:05d}.jpg")
                mask.save(root / "Annotations" / video / f"{frame:05d}.png")
        (root / f"MOSE_sample_{split}_list.txt").write_text("\n".join(videos) + "\n")
    return root


def test_a_worse_night_is_told_from_the_night_before_and_not_promoted(box: Services):
    given = {"data": str(mose(box.folder / "MOSE")), "checkpoint": "", "alias": "nightly-test"}

    def night(date: str, overrides: list[str]) -> str:
        return box.deploy_run("mose-finetune/nightly", overrides=overrides, night=date, **given)

    def holder() -> registry.Version:
        version = registry.version_at(box.mlflow, "sam2-micro", "nightly-test")
        assert version is not None
        return version

    idle = box.deploy_run("mose-finetune/nightly", tags=["auto-scheduled"], checkpoint="")
    assert "set SAM2_DATA" in box.wait(idle, "Skipped")["message"]
    first = night("2026-11-20", GOOD)
    assert "nothing to compare with" in box.wait(first, "Completed")["message"]
    assert holder().tags["night"] == "mose-nightly-2026-11-20"
    again = night("2026-11-20", GOOD)
    assert f"as version {holder().version}" in box.wait(again, "Completed")["message"]

    second = night("2026-11-21", BAD)
    assert "against 2026-11-20: worse" in box.wait(second, "Worse")["message"]
    assert holder().tags["night"] == "mose-nightly-2026-11-20", "the alias stays"
    shown = box.artifacts(second)
    page = shown["mose-nightly-2026-11-21-comparison"][1]
    assert "**Worse: not registered" in page and "### Lost most" in page and "95 % interval" in page
    assert "finetune.stage.steps: 25 → 1" in page
    assert len(json.loads(shown["mose-nightly-2026-11-21-videos"][1])) == 8
    weights = read_result(box.folder / "runs/mose-nightly-2026-11-21/finetune")
    assert weights is not None and weights.checkpoint is not None
    assert registry.version_of(box.mlflow, "sam2-micro", weights.checkpoint.sha256) is None

    os.truncate(next((box.folder / "MOSE/JPEGImages/val-3").iterdir()), 0)
    third = night("2026-11-22", GOOD)
    assert "val-3" in box.wait(third, "DataBroken")["message"]
    assert not (box.folder / "runs/mose-nightly-2026-11-22/finetune").exists()

"""A small recipe whose jobs are quick stand-ins: what the flow decides, not what the stages do."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.run import Request
from pipeline.progress import ProgressWriter
from pipeline.storage import sha256
from stages.contract import (
    TRAINING_KINDS,
    CheckpointRef,
    StageResult,
    read_result,
    read_spec,
    write_result,
)


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing of a test reaches the state folder or the Prefect server of whoever runs it."""
    monkeypatch.setenv("SAM2_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """Settings that keep the smoke recipe in the test's folder and in this process."""
    return [f"runs={tmp_path / 'runs'}", "launch.launcher=inline", "launch.tasks_per_node=1"]


@pytest.fixture
def request_of(words: list[str]):
    """Build a Request of the smoke recipe with further settings."""

    def build(*overrides: str, **named: str) -> Request:
        return Request(overrides=(*words, *overrides), **named)

    return build


class StandIn:
    """Takes the place of `stages.job.run_stage` and counts what it was asked to run."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.inputs: dict[str, str] = {}
        self.fail_at = ""

    def __call__(self, spec_path: str) -> None:
        """Do nothing, quickly, and leave the files a stage leaves."""
        spec = read_spec(spec_path)
        folder = Path(spec.folder)
        if read_result(folder, spec.key) is not None:
            return
        self.ran.append(spec.name)
        if spec.input is not None:
            self.inputs[spec.name] = spec.input.uri
        if spec.name == self.fail_at:
            raise RuntimeError("the network fell over")
        ProgressWriter(folder, total=1).update(1, loss=0.5)
        file = folder / "model.pt"
        file.write_text(spec.key)
        reference = CheckpointRef(str(file), sha256(file), spec.name, 1, "")
        metrics = {"image/miou@1": 0.5, "video/jf": 50.0, "video/baseline_jf": 40.0}
        result = StageResult(
            stage=spec.name,
            key=spec.key,
            digest=sha256(file) if spec.kind in TRAINING_KINDS else spec.key,
            metrics=metrics if spec.kind == "evaluate" else {},
            checkpoint=reference if spec.kind in TRAINING_KINDS else None,
            files={"weights": str(file)},
            seconds=1.0,
        )
        write_result(folder, result)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Stages that are over at once."""
    job = StandIn()
    monkeypatch.setattr("flows.stage.run_stage", job)
    return job

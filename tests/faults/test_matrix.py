"""Whatever meets a job of two ranks, and whenever: it ends or goes on within a minute and says what
happened, its newest checkpoint is whole and finite, and run to its end it has the weights of a run
that nothing happened to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.environment import free_port
from pipeline.progress import Progress
from pipeline.stop import StopRequested
from pipeline.storage import open_file
from pipeline.tracking import prepare_store
from tests.faults.conftest import Run, same
from tests.faults.table import CASES, QUICK, Case
from tests.s3 import moto_server, pointed_at, upload

pytestmark = pytest.mark.timeout(60, func_only=True)


def check(case: Case, run: Run, undisturbed: Run) -> None:
    """Run to the end; it has met the fault, ended as the table says, and nothing is lost."""
    run.to_its_end()
    assert (run.folder.parent / "fault-0").exists(), "the fault was never met"
    if case.end == "goes on":
        assert run.ends == []
    else:
        assert len(run.ends) == 1
        assert isinstance(run.ends[0], StopRequested) == (case.end == "is stopped")
        assert re.search(case.words, str(run.ends[0]), re.DOTALL), run.ends[0]
    assert same(run, undisturbed)
    assert run.result["notes"] == undisturbed.result["notes"]
    run.check_leftovers()


def meet(case: Case, start: Any, undisturbed: Run, tmp_path: Path) -> None:
    given: dict[str, Any] = {"loop": dict(case.loop)}
    if case.fault == "MLflow":
        given["mlflow"] = f"sqlite:///{tmp_path}/mlflow.db"
        prepare_store(given["mlflow"], "faults", tmp_path / "artifacts")
    check(case, start(case.plan, **given), undisturbed)


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.name in QUICK], ids=lambda case: case.name
)
def test_a_fault(case: Case, start: Any, undisturbed: Run, tmp_path: Path) -> None:
    meet(case, start, undisturbed, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", [case for case in CASES if case.name not in QUICK], ids=lambda case: case.name
)
def test_every_fault(case: Case, start: Any, undisturbed: Run, tmp_path: Path) -> None:
    meet(case, start, undisturbed, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["breaks", "hangs"])
def test_a_loader_that_fails(how: str, start: Any, undisturbed: Run) -> None:
    """In a worker, of rank 1, while its batches are made ahead."""
    run = start(workers=1, **{how: "clip29"})
    run.to_its_end()
    (end,) = run.ends
    expected = "clip29 cannot be read" if how == "breaks" else "hangs: step 7, data"
    assert expected in str(end) and "on rank 1" in str(end)
    assert same(run, undisturbed)


@pytest.mark.slow
def test_the_number_of_data_workers_changes_nothing(start: Any, undisturbed: Run) -> None:
    run = start({"fault": "SIGKILL", "rank": 0, "phase": "forward", "step": 13}, workers=1)
    run.to_its_end()
    assert same(run, undisturbed)


def test_prefect_is_down(start: Any, undisturbed: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the launcher, which cannot show the progress, nor the ranks care."""
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    asked = []

    def show(progress: Progress | None) -> None:
        asked.append(progress)
        raise ConnectionError("All connection attempts failed")

    run = start()
    assert run.launch(on_poll=show) and asked
    assert same(run, undisturbed)


@pytest.mark.slow
def test_s3_is_down_when_the_weights_are_handed_over(
    start: Any, undisturbed: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    closed = f"http://127.0.0.1:{free_port()}"
    (tmp_path / "empty").mkdir()
    run = start(store="s3://weights/model.pt")
    with pointed_at(closed):
        assert not run.launch()
        assert re.search("s3://weights/model.pt.*Could not connect", str(run.ends[0]))
        run.check_checkpoints()
    with moto_server() as address, pointed_at(address):
        upload(tmp_path / "empty", "s3://weights/made")
        run.to_its_end()
        assert run.result["from"] == run.result["step"], "nothing is trained again"
        with open_file("s3://weights/model.pt") as file:
            (run.folder.parent / "store.pt").write_bytes(file.read())
    run.given["store"] = str(run.folder.parent / "store.pt")
    assert same(run, undisturbed)

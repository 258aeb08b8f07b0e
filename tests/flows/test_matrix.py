"""Sizes side by side: each a run of its own, and one that fails stops no other."""

import logging
from typing import Any

import pytest
from prefect.states import Completed, Failed

from flows import matrix
from flows.run import Request
from tests.flows.test_run import go


class Tables:
    """Stands in for the page; keeps the last table."""

    rows: list[dict[str, str]]

    def __init__(self, *_: Any) -> None:
        Tables.rows = []

    def flush(self, patience: float = 0) -> bool:
        return True

    def table(self, key: str, rows: list[dict[str, str]], description: str) -> None:
        assert key == "mx-sizes"
        Tables.rows = rows


@pytest.fixture
def run_matrix(monkeypatch, words, stand_in):
    """Call the flow without Prefect; `tiny` fails when asked to."""
    failing: list[str] = []

    def sam2(*, recipe, overrides, checkpoint, run_name, return_state):
        if any(f"model.preset={size}" in overrides for size in failing):
            return Failed(message="no memory left")
        go(Request(recipe, tuple(overrides), checkpoint=checkpoint or None, run_name=run_name))
        return Completed()

    monkeypatch.setattr(matrix, "sam2", sam2)
    monkeypatch.setattr(matrix, "Page", Tables)
    monkeypatch.setattr(matrix, "get_run_logger", lambda: logging.getLogger("test"))

    def run(*sizes: str, fails: str = "", checkpoint: str = "") -> Any:
        failing[:] = [fails] if fails else []
        return matrix.sam2_sizes.fn("smoke", list(sizes), words, checkpoint, "mx")

    return run


def test_every_size_has_a_row_and_a_folder(run_matrix, tmp_path):
    state = run_matrix("micro", "tiny")
    assert state.is_completed()
    assert [(row["size"], row["state"], row["J&F"]) for row in Tables.rows] == [
        ("micro", "done", "50.0"),
        ("tiny", "done", "50.0"),
    ]
    assert Tables.rows[0]["checkpoint"].endswith("mx-micro/joint_train/model.pt")
    assert (tmp_path / "runs/mx-tiny/report").is_dir()


def test_a_size_that_fails_does_not_stop_the_others(run_matrix, stand_in):
    state = run_matrix("micro", "tiny", "small", fails="tiny")
    assert (state.type.value, state.name) == ("FAILED", "PartlyFailed")
    assert "1 of 3 sizes failed: tiny" in state.message
    assert [row["state"] for row in Tables.rows] == ["done", "failed: no memory left", "done"]
    assert Tables.rows[1]["J&F"] == "", "nothing was measured"
    stand_in.ran.clear()
    assert run_matrix("micro", "tiny", "small").is_completed()
    assert len(stand_in.ran) == 10, "only what was missing ran"


def test_first_weights_are_chosen_by_size(run_matrix, stand_in, tmp_path):
    for size in ("micro", "tiny"):
        (tmp_path / f"w_{size}.pt").write_text(size)
    run_matrix("micro", "tiny", checkpoint=str(tmp_path / "w_{size}.pt"))
    assert stand_in.inputs["start.evaluate"] == str(tmp_path / "w_tiny.pt")

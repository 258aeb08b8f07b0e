"""A number that is none on one rank, wherever it arises: no rank takes the step, bad weights are gone
back from, and none are ever saved or handed over."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.faults.conftest import Run, same

pytestmark = pytest.mark.timeout(60, func_only=True)
AT = {"backward": 8, "optimiser": 8, "save": 10}


def planned(phase: str, rank: int, *more: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"fault": "NaN", "rank": rank, "phase": phase, "step": AT.get(phase)}, *more]


def test_a_loss_of_one_rank_leaves_the_step_out_on_both(start: Any) -> None:
    """As if the data had been bad on both; the samples of both are recorded."""
    run = start({"fault": "NaN", "rank": 1, "phase": "forward", "step": 15})  # second batch of 7
    run.to_its_end()
    assert run.ends == [] and run.result["skipped"] == 1
    (row,) = run.records
    assert (row["step"], row["samples"]) == (7, ["clip28", "clip30", "clip29", "clip31"])
    assert row["losses"][0] != "nan" and row["losses"][1] == "nan"
    other = start(name="other", bad=["clip28", "clip29"])
    other.to_its_end()
    assert same(run, other)


@pytest.mark.slow
@pytest.mark.parametrize(("phase", "rank"), [
    ("backward", 0), ("backward", 1), ("optimiser", 0), ("optimiser", 1), ("save", 0),
])  # fmt: skip
def test_interrupted_or_not_it_goes_back_to_the_same_weights(
    phase: str, rank: int, start: Any
) -> None:
    straight = start(*planned(phase, rank))
    straight.to_its_end()
    assert straight.ends == []
    assert bool(straight.result["notes"].get("bad/rolled_back")) == (phase != "backward")
    kill = {"fault": "SIGKILL", "rank": 1, "phase": "forward", "step": 14}
    other = start(*planned(phase, rank, kill), name="other")
    other.to_its_end()
    assert len(other.ends) == 1 and same(straight, other)
    assert other.result["notes"] == straight.result["notes"]


@pytest.mark.slow
def test_weights_that_are_not_finite_are_not_handed_over(start: Any, undisturbed: Run) -> None:
    run = start({"fault": "NaN", "rank": 0, "phase": "upload", "step": None})
    assert not run.launch()
    assert "the weights are not finite" in str(run.ends[0])
    with pytest.raises(FileNotFoundError):
        torch.load(run.given["store"], weights_only=True)
    run.to_its_end()
    assert same(run, undisturbed)

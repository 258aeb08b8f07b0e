"""Two gloo ranks, started as a real job: they train as one process would, and agree on every
decision."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.launch import launch
from pipeline.loop import fit
from pipeline.settings import LaunchConfig, LoopConfig
from tests.pipeline import jobs, toy


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("two")
    config = LaunchConfig(tasks_per_node=2, threads=1, poll_seconds=0.1)
    return launch(jobs.train_on_two_ranks, str(folder), folder, config, name="two")


def test_small_agreements(found: dict[str, Any]) -> None:
    assert found["size"] == 2
    assert found["gathered"] == [0, 1]
    assert found["shared"] == "from 0"
    assert found["mean"] == {"both": 0.5, "only 0": 7.0, "only 1": 7.0}
    assert found["any"] == [True, False]


def test_two_ranks_are_one_rank_with_twice_the_batch(found: dict[str, Any], tmp_path: Path) -> None:
    """Including parameters that some steps do not use, and one that none does."""
    model, state = toy.fresh()
    data = toy.batches(0, toy.TOTAL, size=2)
    fit(toy.ToyTask(model), data, state, LoopConfig(), total=toy.TOTAL, clip=1.0, folder=tmp_path)
    for name, value in toy.weights(model).items():
        torch.testing.assert_close(torch.tensor(found["plain"][name]), value, atol=1e-6, rtol=1e-5)
    assert found["plain.equal"]


def test_what_is_bad_on_one_rank_is_left_out_on_both(found: dict[str, Any]) -> None:
    assert found["bad.equal"]
    assert found["bad.skipped"] == [1, 1]
    assert found["bad"] != found["plain"]


def test_a_stop_on_one_rank_stops_both_at_the_same_step(found: dict[str, Any]) -> None:
    (first, _), (second, message) = found["stop.stopped"]
    assert first == second < toy.TOTAL
    assert "rank 1 was told" in message
    assert found["stop.equal"]

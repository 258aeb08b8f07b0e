"""Two gloo ranks, a real job: they train as one process would, and agree on every
decision."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.launch import launch
from pipeline.loop import fit
from pipeline.settings import LaunchConfig, LoopConfig
from tests.pipeline import jobs, toy
from tests.zygote import Zygote, forked_jobs


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, zygote: Zygote) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("two")
    config = LaunchConfig(tasks_per_node=2, threads=1, poll_seconds=0.1)
    with forked_jobs(zygote):
        return launch(jobs.train_on_two_ranks, str(folder), folder, config, name="two")


def test_small_agreements(found: dict[str, Any]) -> None:
    assert found["size"] == 2
    assert found["gathered"] == [0, 1]
    assert found["shared"] == "from 0"
    assert found["mean"] == {"both": 0.5, "only 0": 7.0, "only 1": 7.0}
    assert found["any"] == [True, False]


@pytest.mark.parametrize("name", ["plain", "sharded"])
def test_two_ranks_are_one_rank_with_twice_the_batch(
    found: dict[str, Any], tmp_path: Path, name: str
) -> None:
    """Including parameters that some steps do not use, and one that none does; and where `body` is
    shared out."""
    model, state = toy.fresh()
    data = toy.batches(0, toy.TOTAL, size=2)
    fit(toy.ToyTask(model), data, state, LoopConfig(), total=toy.TOTAL, clip=1.0, folder=tmp_path)
    for key, value in toy.weights(model).items():
        torch.testing.assert_close(torch.tensor(found[name][key]), value, atol=1e-6, rtol=1e-5)
    assert found[f"{name}.equal"]


def test_gradients_are_those_of_distributed_data_parallel(found: dict[str, Any]) -> None:
    """Where it has zeros for what no rank used we have none, so that AdamW leaves it alone."""
    for (ours, theirs), side in zip(found["gradients"], (True, True, False), strict=True):
        assert (ours["side.weight"] is not None) == side
        for name, gradient in theirs.items():
            if ours[name] is None:
                assert gradient is None or not torch.tensor(gradient).any()
            else:
                torch.testing.assert_close(
                    torch.tensor(ours[name]), torch.tensor(gradient), atol=0, rtol=1e-6
                )


@pytest.mark.parametrize("name", ["bad", "bad sharded"])
def test_what_is_bad_on_one_rank_is_left_out_on_both(found: dict[str, Any], name: str) -> None:
    assert found[f"{name}.equal"]
    assert found[f"{name}.skipped"] == [1, 1]
    assert found[name] != found["plain"]


def test_a_stop_on_one_rank_stops_both_at_the_same_step(found: dict[str, Any]) -> None:
    (first, _), (second, message) = found["stop.stopped"]
    assert first == second < toy.TOTAL
    assert "rank 1 was told" in message
    assert found["stop.equal"]

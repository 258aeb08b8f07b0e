"""A trunk that is shared out over real ranks trains as one that is not, and as one rank alone.

All runs of two ranks are one job (`jobs.share_out`), to save start-ups.
"""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from model.policy import LoRAConfig
from pipeline.checkpoint import latest_valid, read
from pipeline.distributed import World
from pipeline.errors import ConfigError
from pipeline.launch import launch
from pipeline.settings import LaunchConfig, OptimConfig
from stages.contract import StageResult, read_result, write_spec
from stages.job import run_stage
from stages.settings import TrainStage
from tests.stages import jobs
from tests.stages.conftest import Workshop

pytestmark = pytest.mark.timeout(900)  # for the job of `runs` on a busy machine
Run = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def alone(folder: Path) -> Run:
    """One rank with all four clips, stopped after two steps, and continued to the third."""
    jobs.train_clips(World(), str(folder / "alone"), steps=2)
    shutil.copytree(folder / "alone", folder / "from one")
    return jobs.train_clips(World(), str(folder / "alone"))


@pytest.fixture(scope="module")
def runs(folder: Path, alone: Run) -> dict[str, Run]:
    config = LaunchConfig(tasks_per_node=2, threads=1, poll_seconds=0.1)
    launch(jobs.share_out, str(folder), folder / "job", config, name="share")
    return torch.load(folder / "runs.pt", weights_only=True)


def assert_same(found: Run, expected: Run) -> None:
    """Weights, and losses and gradient norms of the steps that `found` went, at rtol 1e-5."""
    last = len(found["losses"])
    torch.testing.assert_close(
        torch.tensor(found["losses"]),
        torch.tensor(expected["losses"][-last:]),
        rtol=1e-5,
        atol=0,
    )
    for kind in ("weights", "average"):
        assert found[kind].keys() == expected[kind].keys()
        for name, value in expected[kind].items():
            torch.testing.assert_close(found[kind][name], value, rtol=1e-5, atol=1e-6, msg=name)


def moved(run: Run, other: Run) -> float:
    return max(float((run["weights"][n] - v).abs().max()) for n, v in other["weights"].items())


@pytest.mark.slow
def test_training_moves_weights_much_further_than_the_tolerance(alone: Run, tmp_path: Path) -> None:
    begun = jobs.train_clips(World(), str(tmp_path), steps=1, lr=0.0)
    assert moved(alone, begun) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["replicated", "sharded"])
def test_two_ranks_train_as_one_with_the_whole_batch(
    runs: dict[str, Run], alone: Run, name: str
) -> None:
    assert_same(alone, runs[name])
    assert_same(runs["sharded"], runs["replicated"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["accumulated", "saving"])
def test_a_rank_without_objects_accumulation_and_memory_savings(
    runs: dict[str, Run], name: str
) -> None:
    """Accumulated, rank 1's first batch of every step has nothing to follow."""
    assert_same(runs[name], runs["replicated"])


@pytest.mark.slow
def test_any_prompts_and_half_precision(runs: dict[str, Run]) -> None:
    for name in ("clicks", "bf16", "fp16"):
        assert_same(runs[f"{name}, sharded"], runs[name])


@pytest.mark.slow
def test_resuming_is_equal_to_the_bit(runs: dict[str, Run]) -> None:
    for kind in ("weights", "average"):
        for name, value in runs["sharded"][kind].items():
            assert torch.equal(runs["resumed"][kind][name], value), name


@pytest.mark.slow
def test_checkpoints_do_not_tell_who_wrote_them(
    folder: Path, runs: dict[str, Run], alone: Run
) -> None:
    """One rank begins and two that share continue; two that share begin and one continues."""
    assert_same(runs["from one"], alone)
    assert_same(jobs.train_clips(World(), str(folder / "half")), alone)
    files = [latest_valid(folder / place) for place in ("sharded", "replicated")]
    found, expected = (read(file) for file in files if file is not None)
    assert found.keys() == expected.keys()
    assert found["optimizer"]["param_groups"] == expected["optimizer"]["param_groups"]
    for kind in ("model", "average"):
        assert list(found[kind]) == list(expected[kind])
        for name, value in expected[kind].items():
            torch.testing.assert_close(found[kind][name], value, rtol=1e-5, atol=1e-6, msg=name)
    for place, state in expected["optimizer"]["state"].items():
        for key, value in state.items():
            other = found["optimizer"]["state"][place][key]
            torch.testing.assert_close(other, value, rtol=1e-4, atol=1e-7)
            assert other.untyped_storage().nbytes() == value.untyped_storage().nbytes()


@pytest.mark.slow
def test_what_is_not_finite_on_one_rank_is_left_out_on_both(runs: dict[str, Run]) -> None:
    assert runs["broken"]["skipped"] == 1
    assert all(torch.isfinite(value).all() for value in runs["broken"]["weights"].values())


@pytest.mark.slow
def test_a_rank_holds_its_part_only(runs: dict[str, Run]) -> None:
    trunk, mine = runs["sharded"]["trunk"]
    assert 0.45 * trunk < mine < 0.55 * trunk


@pytest.mark.slow
def test_one_batch_of_four_is_four_accumulated(alone: Run, tmp_path: Path) -> None:
    assert_same(alone, jobs.train_clips(World(), str(tmp_path), accumulate=4))


@pytest.mark.slow
def test_a_stage_shares_out_validates_and_hands_over(
    workshop: Workshop, pretrained: StageResult
) -> None:
    """Two real ranks, with averaged weights and a validation whose items they do not run alike."""
    from tests.stages.test_validation import validated

    results = []
    for shard in (False, True):
        settings = validated(workshop, max_images=3, hand_over="best", metric="image/miou@1")
        settings["stage"] |= {"shard": shard}
        settings["stage"]["optim"]["average"] = 0.9
        place = f"shared-{shard}"
        spec = workshop.spec("video_train", pretrained.checkpoint, place=place, **settings)
        config = LaunchConfig(tasks_per_node=2, threads=1, poll_seconds=0.1)
        launch(run_stage, str(write_spec(spec)), Path(spec.folder) / "job", config, name=place)
        result = read_result(spec.folder, spec.key)
        assert result is not None
        results.append(torch.load(result.files["weights"], weights_only=True)["model"])
    plain, shared = results
    assert list(plain) == list(shared)
    for name, value in plain.items():
        assert type(shared[name]) is torch.Tensor
        torch.testing.assert_close(shared[name], value, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize(
    ("field", "value"), [("lora", LoRAConfig(rank=4)), ("cache_features", True)]
)
def test_what_does_not_go_together(field: str, value: object) -> None:
    needed: dict[str, Any] = {"kind": "finetune", "datasets": (), "steps": 1}
    with pytest.raises(ConfigError, match=f"shard: found with {field}, use one of them"):
        TrainStage(**needed, optim=OptimConfig(lr=1e-4), shard=True, **{field: value})

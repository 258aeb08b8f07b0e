"""Functions that tests start as jobs."""

from dataclasses import replace
from functools import partial
from typing import Any


def measure(given: dict[str, Any]) -> dict[str, float]:
    """Validate the weights `given["weights"]` on `given["data"]`, on as many ranks as the job has."""
    import torch

    from data.sources import open_dataset
    from data.spec import DatasetSpec
    from model.config import preset
    from model.sam2 import build_sam2
    from model.weights import load_checkpoint
    from pipeline import distributed
    from pipeline.config import parse
    from stages.validation import Measure
    from stages.validation_settings import Validation

    torch.set_num_threads(1)
    world = distributed.init("cpu")
    data = {
        kind: open_dataset(parse(DatasetSpec, v, where=kind)) for kind, v in given["data"].items()
    }
    model = build_sam2(preset("micro"))
    load_checkpoint(given["weights"], model)
    config = Validation(every=1, images="i", videos="v", max_images=3, max_videos=2)
    found = Measure(config, data, world)(model)
    assert len({str(sorted(part)) for part in world.gather(list(found))}) == 1
    distributed.shutdown()
    return found


def train_clips(
    world: Any,
    folder: str,
    *,
    sharded: bool = False,
    steps: int = 3,
    accumulate: int = 1,
    prompts: dict[str, Any] | None = None,
    lr: float = 1e-2,
    broken: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """Train, or continue in `folder`, the micro network on four clips a step, shared out over the
    ranks and accumulated batches; one of them has no objects. broken: the last rank's loss in the
    second step is not a number.

    Returns `losses` and gradient norms of the steps, `weights` and their `average`, all whole,
    `skipped` steps, and the `trunk`'s numbers, in all and on this rank. AdamW's epsilon is
    so large that a step follows the gradient, not its sign: where a gradient is zero but for
    rounding (the biases of keys), the sign is noise.
    """
    import torch

    from model.config import preset
    from model.policy import LossConfig, PromptPolicy
    from model.sam2 import build_sam2
    from pipeline import checkpoint
    from pipeline.average import WeightAverage
    from pipeline.checkpoint import TrainState
    from pipeline.loop import Hooks, StepLog, fit
    from pipeline.optim import build_optimizer
    from pipeline.precision import LossScale
    from pipeline.settings import LoopConfig, OptimConfig
    from stages.clip_task import ClipTask
    from stages.sharding import shard_trunk, whole
    from tests.stages.test_clip_task import batch_of

    torch.manual_seed(world.rank if sharded else 0)  # rank 0's weights are the ones that count
    model = build_sam2(preset("micro")).train()
    sharding = shard_trunk(world, model) if sharded else None
    shards = sharding.shards if sharding else None
    optimizer, rates = build_optimizer(model, OptimConfig(lr=lr), 10, shards=shards)
    for group in optimizer.param_groups:
        group["eps"] = 0.1
    average = WeightAverage(model, 0.9, shards)
    state = TrainState(model, optimizer, rates, average=average, sharding=sharding)
    if settings.get("precision") == "fp16":
        state.scale = LossScale()
        state.scale.factor.fill_(256.0)  # its start is for longer runs
    checkpoint.resume(state, folder, world)
    policy = {"mask": 1.0, "click": 0.0, "box": 0.0, "initial_frames": 1} | (prompts or {})
    task = ClipTask(
        model, PromptPolicy(**policy), LossConfig(), seed=3, world=world,
        sharded=sharding is not None, **settings,
    )  # fmt: skip
    if broken and world.rank == world.size - 1:
        task.losses = partial(_spoilt, task.losses)  # type: ignore[method-assign]
    own = [0, 1, 2, 3][world.rank * 4 // world.size :][: 4 // world.size]
    size = len(own) // accumulate
    parts = [tuple(own[start : start + size]) for start in range(0, len(own), size)]
    batches = [batch_of(3, part) for part in parts] * (steps - state.step)
    logs: list[StepLog] = []
    fit(
        task, batches, state, LoopConfig(log_every=1, accumulate=accumulate), total=steps,
        clip=0.5, folder=folder, world=world, hooks=Hooks(log=logs.append),
    )  # fmt: skip
    names = ("loss", "grad_norm")
    found: dict[str, Any] = {"skipped": state.skipped, "losses": [
        [log.metrics[name] for name in names] for log in logs if "loss" in log.metrics
    ]}  # fmt: skip
    if sharding:
        counts = [
            sum(p.numel() for p in s.values()) for s in (sharding.parameters, sharding.shards)
        ]
        found["trunk"] = counts
    found["weights"] = {name: value.clone() for name, value in whole(state).state_dict().items()}
    with average.in_place():
        found["average"] = {n: value.clone() for n, value in whole(state).state_dict().items()}
    return found


def _spoilt(losses: Any, batch: Any, step: int, whole: float) -> Any:
    found = losses(batch, step, whole)
    return replace(found, total=found.total * float("nan")) if step == 1 else found


def share_out(folder: str) -> None:
    """What test_sharding asks of two gloo ranks; rank 0 leaves all answers in `runs.pt`."""
    import torch

    from model.policy import MemorySavings
    from pipeline import distributed

    torch.set_num_threads(1)
    world = distributed.init("cpu", timeout_seconds=120)

    def run(place: str, **settings: Any) -> dict[str, Any]:
        return train_clips(world, f"{folder}/{place}", **settings)

    clicks = {"mask": 0.0, "click": 1.0, "corrected_frames": 0, "initial_frames": 2}
    savings = MemorySavings(recompute=("trunk", "memory"), frames_at_once=2, objects_at_once=1)
    found = {
        "replicated": run("replicated"),
        "sharded": run("sharded", sharded=True),
        "accumulated": run("accumulated", sharded=True, accumulate=2),
        "saving": run("saving", sharded=True, savings=savings),
        "from one": run("from one", sharded=True),
        "broken": run("broken", sharded=True, broken=True),
    }
    run("resumed", sharded=True, steps=2)
    found["resumed"] = run("resumed", sharded=True)
    run("half", sharded=True, steps=2)
    for name, settings in (
        ("clicks", {"prompts": clicks}),
        ("bf16", {"precision": "bf16"}),
        ("fp16", {"precision": "fp16"}),
    ):
        found[name] = run(name, steps=2, **settings)
        found[f"{name}, sharded"] = run(f"{name}, sharded", steps=2, sharded=True, **settings)
    if world.is_first:
        torch.save(found, f"{folder}/runs.pt")
    distributed.shutdown()

"""The stage that meets the faults: a toy network with all that a training stage has around it.

Real data workers, ranks, accumulation, validation shared over the ranks, checkpoints, records in
MLflow, and weights handed to a store at the end; done in half a second when nothing happens.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from pipeline import checkpoint, distributed, storage
from pipeline.boundary import Hooks, StepLog
from pipeline.checkpoint import TrainState
from pipeline.distributed import World
from pipeline.errors import StageError
from pipeline.heartbeat import pulse
from pipeline.loop import fit
from pipeline.optim import build_optimizer
from pipeline.progress import ProgressWriter
from pipeline.settings import LoopConfig, OptimConfig
from pipeline.staging import all_finite
from pipeline.storage import atomic_file
from tests.pipeline import toy

STEPS = 20
CONFIG: dict[str, Any] = {
    "log_every": 2, "save_every": 5, "keep": 3, "accumulate": 2, "bad_steps": 2,
    "hang_seconds": 2.0, "start_seconds": 20.0,
}  # fmt: skip
_state: list[TrainState] = []


def state_of_this_process() -> TrainState:
    """What is being trained here."""
    return _state[0]


@dataclass(frozen=True)
class Losses:
    total: Tensor
    parts: dict[str, Tensor]

    def spoilt(self) -> Losses:
        return replace(self, total=self.total * float("nan"))


class Network(nn.Module):
    """Wide enough that its checkpoint does not fit a full disk."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(4, 64), nn.LayerNorm(64), nn.Dropout(0.2))
        self.head, self.wide = nn.Linear(64, 1), nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.wide(self.body(x)))


class Task:
    """Mean square of the output; not a number for a sample named in `bad`."""

    def __init__(self, model: Network, bad: tuple[str, ...], pause: float) -> None:
        self.model, self.bad, self.pause = model, bad, pause

    def weight(self, batch: toy.Batch) -> float:
        return float(len(batch.x))

    def losses(self, batch: toy.Batch, step: int, whole: float) -> Losses:
        time.sleep(self.pause)
        loss = (self.model(batch.x) - 1).square().sum() / whole
        found = Losses(loss, {"square": loss.detach()})
        return found.spoilt() if set(batch.names) & set(self.bad) else found


class Samples(Dataset[toy.Batch]):
    """Number -> the sample of one rank; `breaks` raises, `hangs` never comes."""

    def __init__(self, given: dict[str, Any], rank: int) -> None:
        self.given, self.rank = given, rank

    def __getitem__(self, index: int) -> toy.Batch:
        name = f"clip{2 * index + self.rank}"
        strikes = name in (self.given.get("breaks"), self.given.get("hangs"))
        if strikes and not _marked(self.given):
            if name == self.given.get("hangs"):
                time.sleep(600)
            raise RuntimeError(f"{name} cannot be read")
        return toy.Batch(toy.sample(2 * index + self.rank)[None], (name,))


def _marked(given: dict[str, Any]) -> bool:
    """Whether the loader has failed before; marks it."""
    with suppress(FileExistsError):
        Path(given["mark"]).touch(exist_ok=False)
        return False
    return True


def _same(batch: toy.Batch) -> toy.Batch:
    return batch


def batches(given: dict[str, Any], rank: int, start: int) -> Iterator[toy.Batch]:
    """From `start` on, made by as many workers as `given` says."""
    samples = Samples(given, rank)
    stop = given.get("steps", STEPS) * CONFIG["accumulate"]
    numbers = range(start * CONFIG["accumulate"], stop)
    if not given.get("workers"):
        pulse.explain("data", lambda: f"clip of rank {rank}")
        yield from (samples[number] for number in numbers)
        return
    yield from DataLoader(
        samples, sampler=numbers, batch_size=None, num_workers=1, collate_fn=_same,
        multiprocessing_context="fork",
    )  # fmt: skip


def validation(world: World) -> Any:
    """A hook: the output on four samples, shared over the ranks, noted as the best so far."""

    def validate(state: TrainState) -> None:
        with torch.no_grad():
            state.model.eval()
            own = {
                n: float(state.model(toy.sample(1000 + n)[None]))
                for n in range(world.rank, 4, world.size)
            }
            state.model.train()
        whole = {n: value for part in world.gather(own) for n, value in part.items()}
        found = sum(whole[n] for n in range(4)) / 4
        state.notes["validation/last"] = found
        state.notes["validation/best"] = max(found, state.notes.get("validation/best", found))

    return validate


def train(given: dict[str, Any]) -> dict[str, Any]:
    """Train in `given["folder"]`, or go on there; rank 0 answers with where it ended."""
    torch.set_num_threads(1)
    folder = Path(given["folder"])
    world = distributed.init("cpu", timeout_seconds=60)
    model = Network().train()
    total = given.get("steps", STEPS)
    optimizer, rates = build_optimizer(model, OptimConfig(lr=1e-2), total)
    state = TrainState(model, optimizer, rates)
    _state[:] = [state]
    checkpoint.resume(state, folder / "checkpoints", world)
    began_at = state.step
    run = _run(given, folder) if world.is_first else None
    progress = ProgressWriter(folder, total, start=state.step) if world.is_first else None

    def log(line: StepLog) -> None:
        assert progress is not None
        progress.update(line.step, line.metrics.get("loss"))
        if run is not None:
            run.log_metrics(line.step, line.metrics)

    config = LoopConfig(**{**CONFIG, **given.get("loop", {})})
    try:
        fit(
            Task(model, tuple(given.get("bad", ())), given.get("pause", 0.0)),
            batches(given, world.rank, state.step),
            state,
            config,
            total=total,
            clip=1.0,
            folder=folder / "checkpoints",
            seed=1,
            world=world,
            hooks=Hooks(log=log, every=[(6, validation(world))]),
        )
        if world.is_first:
            pulse.phase("upload")
            hand_over(state, given, folder)
    finally:
        if run is not None:
            run.close("FINISHED", wait_seconds=2.0)
        distributed.shutdown()
    return {"step": state.step, "skipped": state.skipped, "notes": state.notes, "from": began_at}


def hand_over(state: TrainState, given: dict[str, Any], folder: Path) -> None:
    """Put the weights into the store, if they are finite."""
    weights = {name: value.detach() for name, value in state.model.state_dict().items()}
    if not all_finite(weights):
        raise StageError("the weights are not finite; they are not handed over")
    with atomic_file(folder / "model.pt") as file:
        torch.save(weights, file)
    storage.put(folder / "model.pt", given["store"])


def _run(given: dict[str, Any], folder: Path) -> Any:
    if not given.get("mlflow"):
        return None
    from pipeline.tracking import open_run

    return open_run(given["mlflow"], "faults", "toy", "key", folder)


def evaluate(given: dict[str, Any]) -> list[int]:
    """Follow a square through eight videos with an untrained network, shared over the ranks: the
    pixels it is thought to have in each."""
    import numpy as np

    from model.config import preset
    from model.sam2 import build_sam2
    from stages.evaluation.sharing import share_out
    from stages.evaluation.video import Task as Video
    from stages.evaluation.video import sam2_tracker

    torch.set_num_threads(1)
    world = distributed.init("cpu", timeout_seconds=60)
    torch.manual_seed(0)
    track = sam2_tracker(build_sam2(preset("micro")).eval())
    mask = np.zeros((32, 32), bool)
    mask[8:16, 8:16] = True

    def score(index: int) -> int:
        draw = np.random.default_rng(index)
        frames = (draw.integers(0, 256, (32, 32, 3), np.uint8) for _ in range(12))
        if world.is_first and index:
            Path(given["folder"], "at-work").touch()
        with torch.inference_mode():
            return sum(int(m.sum()) for m in track(Video("film", (1,), 0, frames, {0: {0: mask}})))

    try:
        return share_out(8, score, world)
    finally:
        distributed.shutdown()

"""What checkpoints cost: how long training waits for one, how soon it goes on after a kill, and what
a kill takes away."""

from __future__ import annotations

import random
import shutil
import statistics
import subprocess
import sys
import time
from itertools import repeat
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.measure import Row, milliseconds, threads
from benchmarks.steps import MASKS, random_batch, stage_of_smoke
from model.config import preset
from model.sam2 import build_sam2
from pipeline import checkpoint
from pipeline.checkpoint import TrainState
from pipeline.distributed import World
from pipeline.loop import Hooks, fit
from pipeline.optim import build_optimizer
from pipeline.saving import Saver
from pipeline.settings import LoopConfig
from pipeline.storage import size_text
from stages.clip_task import ClipTask

NETWORKS = {"micro": 9, "tiny": 5, "base_plus": 2}
"""How often each is saved in either way."""
STEPS, KILLS = 100_000, 5
INTERVALS = (10, 100)


def saving_rows() -> list[Row]:
    """Stalls of every size, then restarts and losses of micro."""
    with threads(1), TemporaryDirectory(prefix="bench-saving-") as folder:
        stalls = [_stall(Path(folder, name), name, pairs) for name, pairs in NETWORKS.items()]
        return [*stalls, *_kills(Path(folder))]


def state_of(network: str) -> TrainState:
    """Weights and AdamW's moments, as after a step."""
    model = build_sam2(preset(network)).train()
    optimizer, rates = build_optimizer(model, stage_of_smoke("image_pretrain").optim, STEPS)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return TrainState(model, optimizer, rates)


def _stall(folder: Path, network: str, pairs: int) -> Row:
    state, ours, theirs, copies = state_of(network), [], [], []
    with Saver(folder, LoopConfig(), World()) as saver:
        for turn in range(pairs + 1):
            for wait in (False, True) if turn % 2 else (True, False):
                state.step += 1
                worked = time.thread_time()
                taken = milliseconds(lambda wait=wait: saver.save(state, wait=wait))
                copies.append(1000 * (time.thread_time() - worked))
                saver.wait()
                if turn:  # the first one makes the buffers
                    (theirs if wait else ours).append(taken)
    size = next(folder.glob("step-*.pt")).stat().st_size
    shutil.rmtree(folder)
    return Row(
        f"checkpoint: {network}",
        "training waits for the copy",
        "and until it is written and read back",
        statistics.median(ours),
        statistics.median(theirs),
        statistics.median(b / a for a, b in zip(ours, theirs, strict=True)),
        f"{size_text(size)}, with AdamW's moments; copying takes {statistics.median(copies):.0f} ms of one core",
    )


def _kills(folder: Path) -> list[Row]:
    """Runs that are killed at random moments and started again."""
    lost: dict[int, list[float]] = {interval: [] for interval in INTERVALS}
    restarts, chance = [], random.Random(0)
    begun = [_Life(folder / f"begun-{turn}", 100, 0.2).first_step for turn in range(KILLS)]
    for interval in INTERVALS:
        for _ in range(KILLS):
            life = _Life(folder / f"every-{interval}", interval, 1 + 3 * chance.random())
            found = checkpoint.latest_valid(folder / f"every-{interval}")
            kept = checkpoint.step_of(found) if found else 0
            lost[interval].append((life.step - kept) * life.seconds_a_step)
            restarts.append(life.first_step)
    often, seldom = (1000 * statistics.mean(lost[interval]) for interval in INTERVALS)
    first, again = 1000 * statistics.median(begun), 1000 * statistics.median(restarts[1:])
    most = 1000 * max(lost[INTERVALS[0]])
    return [
        Row(
            "from the start of the process to the first new step: micro",
            "continued from a checkpoint",
            "begun",
            again,
            first,
            first / again,
            "imports and building included",
        ),
        Row(
            "work lost at a kill -9: micro",
            f"saving every {INTERVALS[0]} steps",
            f"every {INTERVALS[1]} steps",
            often,
            seldom,
            seldom / max(often, 1e-3),
            f"mean of {KILLS} kills at random moments; at most {most:.0f} ms and "
            f"{1000 * max(lost[INTERVALS[1]]):.0f} ms",
        ),
    ]


class _Life:
    """A process that trains in `folder` until it is killed, `seconds` after its first new step."""

    def __init__(self, folder: Path, interval: int, seconds: float) -> None:
        command = [sys.executable, "-m", "benchmarks.saving", str(folder), str(interval)]
        began, times, steps = time.monotonic(), [], []
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                times.append(time.monotonic())
                steps.append(int(line))
                if times[-1] - times[0] >= seconds:
                    process.kill()
        self.first_step, self.step = times[0] - began, steps[-1]
        self.seconds_a_step = (times[-1] - times[0]) / max(steps[-1] - steps[0], 1)


def _train(folder: str, interval: str) -> None:
    """Train micro on one picture, saying each step."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    stage = stage_of_smoke("image_pretrain")
    model = build_sam2(preset("micro", 96)).train()
    optimizer, rates = build_optimizer(model, stage.optim, STEPS)
    state = TrainState(model, optimizer, rates)
    checkpoint.resume(state, folder)
    fit(
        ClipTask(model, MASKS, stage.loss, seed=0, world=World()),
        repeat(random_batch("image", 1, 1, 1, 96)),
        state,
        LoopConfig(save_every=int(interval)),
        total=STEPS,
        clip=1.0,
        folder=folder,
        hooks=Hooks(every=[(1, lambda state: print(state.step, flush=True))]),
    )


if __name__ == "__main__":
    _train(*sys.argv[1:])

"""What checkpoints cost: how long training waits for one, how soon it goes on after a kill, and what
a kill takes away."""

from __future__ import annotations

import multiprocessing
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
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

NETWORKS = {"micro": 9, "tiny": 1, "base_plus": 1}
"""How often each is saved in either way."""
STEPS, RESTARTS, KILLS = 100_000, 2, 3
INTERVALS = (5, 50)


def saving_rows() -> list[Row]:
    """Stalls of every size, then restarts and losses of micro."""
    with threads(1), TemporaryDirectory(prefix="bench-saving-") as folder:
        stalls = [_stall(Path(folder, name), name, pairs) for name, pairs in NETWORKS.items()]
        return [*stalls, _restarts(Path(folder, "restarts")), _losses(Path(folder))]


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
        saver.host.of(checkpoint.pack(state))  # makes the buffers
        for turn in range(pairs):
            for wait in (False, True) if turn % 2 else (True, False):
                state.step += 1
                worked = time.thread_time()
                taken = milliseconds(lambda wait=wait: saver.save(state, wait=wait))
                copies.append(1000 * (time.thread_time() - worked))
                saver.wait()
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


def _restarts(folder: Path) -> Row:
    """New processes: one begins, the others go on where it was killed."""
    begun, *continued = (_life_of_its_own(folder) for _ in range(1 + RESTARTS))
    again = statistics.median(continued)
    return Row(
        "from the start of the process to the first new step: micro",
        "continued from a checkpoint",
        "begun",
        1000 * again,
        1000 * begun,
        begun / again,
        "imports and building included",
    )


def _life_of_its_own(folder: Path) -> float:
    """Seconds until the first new step of a process that is killed once it has saved."""
    command, began = [sys.executable, "-m", "benchmarks.saving", str(folder)], time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = int(next(process.stdout))
        seconds = time.monotonic() - began
        for line in process.stdout:
            if int(line) >= first + 2 * INTERVALS[0]:
                process.kill()
    return seconds


def _losses(folder: Path) -> Row:
    """Runs that are killed at random moments and started again, forked, to be quick about it."""
    lost: dict[int, list[float]] = {interval: [] for interval in INTERVALS}
    chance = random.Random(0)
    for interval in INTERVALS:
        place = folder / f"every-{interval}"
        for _ in range(KILLS):
            step, seconds_a_step = _killed_life(place, interval, chance.randint(10, 30))
            found = checkpoint.latest_valid(place)
            kept = checkpoint.step_of(found) if found else 0
            lost[interval].append(1000 * (step - kept) * seconds_a_step)
    often, seldom = (statistics.mean(lost[interval]) for interval in INTERVALS)
    return Row(
        "work lost at a kill -9: micro",
        f"saving every {INTERVALS[0]} steps",
        f"every {INTERVALS[1]} steps",
        often,
        seldom,
        seldom / max(often, 1e-3),
        f"mean of {KILLS} kills at random steps; at most {max(lost[INTERVALS[0]]):.0f} ms and "
        f"{max(lost[INTERVALS[1]]):.0f} ms",
    )


def _killed_life(folder: Path, interval: int, steps: int) -> tuple[int, float]:
    """Train so many steps in `folder`, and be killed; the last step, seconds a step."""
    fork = multiprocessing.get_context("fork")
    reader, writer = fork.Pipe(duplex=False)
    process = fork.Process(target=_train, args=(folder, interval, writer.send))
    process.start()
    writer.close()
    step = first = reader.recv()
    began = time.monotonic()
    while step < first + steps:
        step = reader.recv()
    process.kill()
    taken = time.monotonic() - began
    process.join()
    return step, taken / steps


def _train(folder: str | Path, interval: int, say: Callable[[int], None]) -> None:
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
        LoopConfig(save_every=interval),
        total=STEPS,
        clip=1.0,
        folder=folder,
        hooks=Hooks(every=[(1, lambda state: say(state.step))]),
    )


if __name__ == "__main__":
    _train(sys.argv[1], INTERVALS[0], partial(print, flush=True))

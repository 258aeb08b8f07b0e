"""A training step on a GPU: base_plus at 1024 px, 8 frames of 3 objects in bf16, as it is, compiled, recomputed.

Time by CUDA events, memory by the allocator's own peak, arithmetic counted by torch over the eager step. The share
of the card's peak uses the vendors' figures for dense bf16; for other cards only TFLOP/s are told.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.steps import CLICKS, random_batch, stage_of_smoke, stepper
from model.compile import compile_training, missing_compiler
from model.config import preset
from model.policy import MemorySavings
from model.sam2 import build_sam2
from pipeline.distributed import World
from stages.clip_task import ClipTask

DENSE_BF16 = {"A100": 312e12, "H100": 989e12, "H200": 989e12, "L40S": 362e12}
"""Operations a second, from the vendors' data sheets (SXM versions), without sparsity."""
WARM_UP, MEASURED = 3, 10
Way = Literal[
    "eager", "eager, trunk recomputed", "compiled", "compiled, trunk recomputed", "graphs"
]
WAYS: tuple[Way, ...] = (
    "eager",
    "eager, trunk recomputed",
    "compiled",
    "compiled, trunk recomputed",
    "graphs",
)


@dataclass(frozen=True)
class GpuStep:
    """What a step costs in one of the ways."""

    way: Way
    milliseconds: float
    """Median of the measured steps."""
    flops: float
    """Of the eager step: recomputation is not counted as work."""
    peak_bytes: int
    problem: str = ""
    """Why it did not run, in place of figures."""


def gpu_steps(
    network: str = "base_plus",
    side: int = 1024,
    frames: int = 8,
    objects: int = 3,
    device: str = "cuda",
    ways: tuple[Way, ...] = WAYS,
) -> list[GpuStep]:
    """Every way in turn, with fresh weights; one that fails says why and the next is tried."""
    found, flops = [], 0.0
    for way in ways:
        try:
            run = _prepared(way, network, side, frames, objects, device)
            if way == "eager":
                with FlopCounterMode(display=False) as counter:
                    run()
                flops = float(counter.get_total_flops())
            found.append(_measured(way, run, flops, device))
        except Exception as error:  # out of memory, no compiler: part of the answer
            found.append(GpuStep(way, 0.0, 0.0, 0, str(error).splitlines()[0]))
    return found


def gpu_table(steps: list[GpuStep], card: str) -> list[tuple[str, ...]]:
    """Rows of text, the head first."""
    peak = next((rate for name, rate in DENSE_BF16.items() if name in card), None)
    rows = [("training step, bf16", "ms", "TFLOP/s", f"of {card}'s peak", "peak memory")]
    for step in steps:
        if step.problem:
            rows.append((step.way, "", "", "", step.problem))
            continue
        rate = step.flops / (step.milliseconds / 1000)
        share = f"{100 * rate / peak:.0f} %" if peak else "not known"
        memory = f"{step.peak_bytes / 2**30:.1f} GiB"
        rows.append((step.way, f"{step.milliseconds:.0f}", f"{rate / 1e12:.3g}", share, memory))
    return rows


def _prepared(
    way: Way, network: str, side: int, frames: int, objects: int, device: str
) -> Callable[[], None]:
    place = torch.device(device)
    batch = random_batch("video", 1, frames, objects, side)
    torch.manual_seed(0)
    model = build_sam2(preset(network, side)).to(place).train()
    if way.startswith(("compiled", "graphs")):
        missing = missing_compiler(place)
        if missing:
            raise RuntimeError(f"needs {missing}")
        compile_training(model, graphs=way == "graphs")
    stage = stage_of_smoke("image_pretrain")
    task = ClipTask(
        model,
        CLICKS,
        stage.loss,
        seed=0,
        world=World(device=place),
        precision="bf16",
        savings=MemorySavings(recompute=("trunk",) if "recomputed" in way else ()),
        graphs=way == "graphs",
    )
    step = stepper(model, task, stage, batch)
    return lambda: step(1)


def _measured(way: Way, run: Callable[[], None], flops: float, device: str) -> GpuStep:
    for _ in range(WARM_UP):
        run()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times = [_milliseconds(run, device) for _ in range(MEASURED)]
    held = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    return GpuStep(way, statistics.median(times), flops, held)


def _milliseconds(run: Callable[[], None], device: str) -> float:
    if device != "cuda":
        began = time.perf_counter()
        run()
        return 1000 * (time.perf_counter() - began)
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before.record()
    run()
    after.record()
    torch.cuda.synchronize()
    return float(before.elapsed_time(after))

"""A training step: how long, on how many threads, in how much memory; micro as in the smoke recipe, and tiny."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

from benchmarks.measure import Row, compare, peak_bytes, threads
from data.types import ClipBatch
from model.config import preset
from model.policy import MemorySavings, PromptPolicy
from model.sam2 import SAM2, build_sam2
from pipeline.distributed import World
from pipeline.optim import build_optimizer
from stages.clip_task import ClipTask
from stages.recipe import load_recipe
from stages.settings import TrainStage

MASKS = PromptPolicy(mask=1, click=0, box=0, initial_frames=1)
CLICKS = PromptPolicy(mask=0, click=1, box=0, initial_frames=1, corrected_frames=1)
"""A click, and seven corrections of its answer."""


@dataclass(frozen=True)
class Case:
    """A step to be measured."""

    network: str
    side: int
    clips: int
    frames: int
    objects: int
    """Of each clip."""
    prompts: PromptPolicy
    savings: MemorySavings = field(default_factory=MemorySavings)

    def __str__(self) -> str:
        what = "pictures" if self.frames == 1 else f"clips x {self.frames} frames"
        prompted = "masks" if self.prompts.mask else "clicks"
        saved = ", trunk recomputed" if self.savings.recompute else ""
        return f"{self.network} {self.side} px, {self.clips} {what} x {self.objects} objects, {prompted}{saved}"


CASES = (
    Case("micro", 96, 16, 1, 2, CLICKS),
    Case("micro", 96, 4, 4, 2, MASKS),
    Case("micro", 96, 4, 4, 2, CLICKS),
    Case("tiny", 256, 4, 1, 2, CLICKS),
    Case("tiny", 256, 1, 4, 2, MASKS),
    Case("tiny", 256, 1, 4, 2, CLICKS),
    Case("tiny", 256, 1, 4, 2, CLICKS, MemorySavings(recompute=("trunk",))),
)
"""The clips of tiny are those of the published training's costs in docs/performance.md."""


@dataclass(frozen=True)
class StepCost:
    """What one step takes, medians; memory is the most the whole process ever held."""

    name: str
    milliseconds: float
    cpu_milliseconds: float
    peak_bytes: int
    start_bytes: int


def training_rows() -> tuple[list[Row], list[StepCost]]:
    """Every case in a process of its own, so that its memory can be told; rows for micro."""
    rows, costs = [], []
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for case in CASES:
            row, cost = pool.apply(_measure, (case,))
            rows += [row] if row is not None else []
            costs.append(cost)
        rows.append(pool.apply(_dropout_row))
    return rows, costs


def _dropout_row() -> Row:
    """The memory attention's dropout of 0.1 keeps it from the fused kernel."""
    steps = []
    for dropout in (0.0, 0.1):
        torch.manual_seed(0)
        model = build_sam2(replace(preset("tiny", 256), dropout=dropout)).train()
        stage = stage_of_smoke("image_pretrain")
        task = ClipTask(model, MASKS, stage.loss, seed=0, world=World())
        steps.append(stepper(model, task, stage, random_batch("video", 1, 4, 2, 256)))
    with threads(1):
        return compare(
            "step: tiny 256 px, 4 frames x 2 objects, masks",
            ("without dropout", lambda: steps[0](1)),
            ("dropout 0.1", lambda: steps[1](1)),
            pairs=5,
            seconds=60.0,
            note="another recipe, not only another speed; 1 thread, fp32",
            clock=time.process_time,
        )


def optimizer_rows() -> list[Row]:
    """Fused AdamW, which also leaves bad steps out by itself, against torch's default."""
    models = [build_sam2(preset("micro")) for _ in range(2)]
    fused, _ = build_optimizer(models[0], stage_of_smoke("image_pretrain").optim, 100)
    plain = torch.optim.AdamW(models[1].parameters(), lr=1e-3, fused=False)
    for model in models:
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 1e-3)
    count = sum(parameter.numel() for parameter in models[0].parameters())
    with threads(1):
        row = compare(
            "optimiser step",
            ("fused AdamW", fused.step),
            ("torch's default AdamW", plain.step),
            pairs=15,
            note=f"micro, {count / 1e6:.2f} M parameters, 1 thread",
        )
    return [row]


def random_batch(kind: str, clips: int, frames: int, objects: int, side: int) -> ClipBatch:
    """Boxes that wander over noise, `objects` in every clip."""
    chance = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (clips, frames, 3, side, side), generator=chance)
    masks = torch.zeros(clips * objects, frames, side, side, dtype=torch.bool)
    for row in range(len(masks)):
        x, y = (int(torch.randint(0, side // 2, (), generator=chance)) for _ in range(2))
        for t in range(frames):
            masks[row, t, y : y + side // 3, x + 2 * t : x + 2 * t + side // 3] = True
    return ClipBatch(
        frames=pixels.to(torch.uint8),
        masks=masks,
        clip_of_object=torch.arange(clips).repeat_interleave(objects),
        names=tuple(str(clip) for clip in range(clips)),
        kind="image" if kind == "image" else "video",
        slots=tuple(range(clips)),
    )


def stage_of_smoke(name: str) -> TrainStage:
    """A training stage of the recipe smoke, for its settings."""
    stage = load_recipe(["recipe=smoke"]).stages[name]
    assert isinstance(stage, TrainStage)
    return stage


def _measure(case: Case) -> tuple[Row | None, StepCost]:
    kind = "image" if case.frames == 1 else "video"
    batch = random_batch(kind, case.clips, case.frames, case.objects, case.side)
    stage = stage_of_smoke("image_pretrain")
    torch.manual_seed(0)
    model = build_sam2(preset(case.network, case.side)).train()
    task = ClipTask(model, case.prompts, stage.loss, seed=0, world=World(), savings=case.savings)
    step, count = stepper(model, task, stage, batch), 4 if case.network == "micro" else 1
    start = peak_bytes()

    def with_threads(number: int) -> Callable[[], None]:
        def run() -> None:
            with threads(number):
                step(2)

        return run

    row = None
    if case.network == "micro":
        row = compare(
            f"step: {case}",
            ("2 threads", with_threads(2)),
            ("1 thread", with_threads(1)),
            pairs=3,
            note="2 steps a turn, fp32",
        )
    with threads(1):
        step(1)
        wall, cpu = _step_times(step, count)
    return row, StepCost(str(case), wall, cpu, peak_bytes(), start)


def stepper(
    model: SAM2, task: ClipTask, stage: TrainStage, batch: ClipBatch
) -> Callable[[int], None]:
    """A function that takes so many training steps on `batch`."""
    optimizer, _ = build_optimizer(model, stage.optim, 100)
    parameters = [p for p in model.parameters() if p.requires_grad]

    def run(count: int) -> None:
        for number in range(count):
            task.losses(batch, number, task.weight(batch)).total.backward()
            torch.nn.utils.clip_grad_norm_(parameters, stage.optim.clip, foreach=True)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return run


def _step_times(step: Callable[[int], None], count: int) -> tuple[float, float]:
    """Milliseconds of one step: by the clock, and of all processor cores together; medians over
    three times `count` steps."""
    wall, cpu = [], []
    for _ in range(3):
        began, spent = time.perf_counter(), time.process_time()
        step(count)
        wall.append(1000 * (time.perf_counter() - began) / count)
        cpu.append(1000 * (time.process_time() - spent) / count)
    return statistics.median(wall), statistics.median(cpu)

"""The network and the video predictor: against the published way of working, against themselves compiled, and
against themselves in bfloat16. On the CPU, and on a CUDA device where there is one."""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.as_reference import as_reference, track_as_reference
from benchmarks.measure import Row, compare, megabytes, peak_bytes, threads
from model.compile import compile_blocks, missing_compiler
from model.config import preset
from model.sam2 import SAM2, build_sam2
from model.types import ImageFeatures, Memory, Prompts
from model.video_predictor import VideoPredictor

FRAMES = 8
SIDE = {"cpu": 256, "cuda": 1024}
"""Input side of the tiny network: the CPU would take minutes at 1024."""
MEMORIES, POINTERS = 7, 16
"""A full memory bank."""
DIFFERENT_PIXELS = 1e-3
"""Share of the pixels that two ways of rounding may decide differently."""
CLOCK = {"cpu": time.process_time, "cuda": time.perf_counter}
"""On the CPU one thread is measured by its own time: other processes disturb that less."""


def devices() -> list[str]:
    """The kinds of device that are there."""
    return ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def predictor_rows() -> list[Row]:
    """1 and 4 objects through a video; each in a process of its own so that its memory can be told."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        cases = [(device, objects) for device in devices() for objects in (1, 4)]
        return [row for case in cases for row in pool.apply(_predictor_rows, case)]


def network_rows() -> list[Row]:
    """The image encoder, and memory attention for 4 objects."""
    rows = []
    for device in devices():
        model = network("tiny", SIDE[device], device)
        plain = as_reference(model)
        images = torch.randn(4, 3, SIDE[device], SIDE[device], device=device)
        full, alone = remembered(model, 4), [remembered(plain, 1) for _ in range(4)]
        with inference(1):
            torch.testing.assert_close(
                model.encode(images).s16, plain.encode(images).s16, atol=1e-3, rtol=1e-3
            )
            rows += [
                compare(
                    "image encoder, 4 frames",
                    ("ours", synced(lambda: model.encode(images), device)),  # noqa: B023
                    (
                        "as published, one by one",
                        synced(lambda: [plain.encode(x[None]) for x in images], device),  # noqa: B023
                    ),
                    pairs=5,
                    clock=CLOCK[device],
                    note=f"tiny at {SIDE[device]} px, fp32, {device}",
                ),
                compare(
                    f"memory attention, {MEMORIES} memories, 4 objects",
                    ("one batch", synced(lambda: model.recall(*full), device)),  # noqa: B023
                    (
                        "object by object",
                        synced(lambda: [plain.recall(*one) for one in alone], device),  # noqa: B023
                    ),
                    pairs=5,
                    clock=CLOCK[device],
                    note=f"tiny at {SIDE[device]} px, fp32, {device}",
                ),
            ]
    return rows


def compiled_rows() -> list[Row]:
    """Encoder and memory attention with compiled blocks against without: micro on a CPU, which compiles for
    minutes, tiny on a GPU."""
    rows = []
    for device in devices():
        name, side = ("micro", 96) if device == "cpu" else ("tiny", SIDE[device])
        what = [f"image encoder, 4 frames ({device})", f"memory attention, 2 objects ({device})"]
        missing = missing_compiler(torch.device(device))
        if missing:
            nan = math.nan
            rows += [Row(w, "compiled", "eager", nan, nan, nan, f"needs {missing}") for w in what]
            continue
        eager, compiled = network(name, side, device), network(name, side, device)
        compile_blocks(compiled)
        images, full = torch.randn(4, 3, side, side, device=device), remembered(eager, 2)
        with inference(1):
            calls: list[Callable[[SAM2], Tensor]] = [
                lambda model: model.encode(images).s16,  # noqa: B023
                lambda model: model.recall(*full),  # noqa: B023
            ]
            for label, call in zip(what, calls, strict=True):
                began = time.monotonic()
                first = call(compiled)
                took = time.monotonic() - began
                torch.testing.assert_close(first, call(eager), atol=1e-5, rtol=1e-4)
                rows.append(
                    compare(
                        label,
                        ("compiled", synced(lambda c=call: c(compiled), device)),  # noqa: B023
                        ("eager", synced(lambda c=call: c(eager), device)),  # noqa: B023
                        note=f"{name} at {side} px, fp32; first call {took:.0f} s",
                        clock=CLOCK[device],
                    )
                )
    return rows


def network(name: str, side: int, device: str) -> SAM2:
    """Random weights that take every object for present."""
    torch.manual_seed(0)
    model = build_sam2(preset(name, side)).eval()
    model.get_parameter("sam_mask_decoder.pred_obj_score_head.layers.2.bias").data.fill_(5.0)
    return model.to(device)


@torch.inference_mode()
def remembered(
    model: SAM2, objects: int
) -> tuple[ImageFeatures, list[tuple[Memory, int]], list[tuple[Tensor, float]], float]:
    """What `model.recall` is asked with when the memory is full."""
    side = model.config.image_size
    seen = model.encode(torch.randn(1, 3, side, side, device=model.device))
    click = torch.full((objects, 1, 2), side / 3, device=model.device)
    prompts = Prompts(click, torch.ones(objects, 1, dtype=torch.int64, device=model.device))
    answer = model.decode(model.unconditioned(seen), seen, prompts, multimask=True)
    full = F.interpolate(answer.low, size=(side, side), mode="bilinear")
    memory = model.remember(seen, full, answer.object_score, from_prompt=False)
    slots = [(memory, slot) for slot in range(MEMORIES)]
    return seen, slots, [(answer.pointer, float(t)) for t in range(POINTERS)], 15.0


@contextmanager
def inference(count: int) -> Iterator[None]:
    """No gradients, `count` threads."""
    with torch.inference_mode(), threads(count):
        yield


def synced(call: Callable[[], object], device: str) -> Callable[[], object]:
    """`call` and, on a GPU, the wait for its end."""
    if device == "cpu":
        return call

    def run() -> object:
        answer = call()
        torch.cuda.synchronize()
        return answer

    return run


def _predictor_rows(device: str, objects: int) -> list[Row]:
    frames, masks = _video(objects)
    model = network("tiny", SIDE[device], device)
    predictor, plain = VideoPredictor(model), as_reference(model)
    start = peak_bytes(device)

    def ours() -> Tensor:
        return torch.stack(list(predictor.track(frames, masks)))

    def half() -> Tensor:
        with torch.autocast(device, dtype=torch.bfloat16):
            return ours()

    def published() -> Tensor:
        return torch.stack(list(track_as_reference(plain, frames, masks)))

    label = f"track {objects} object{'s' * (objects > 1)}, {FRAMES} frames"
    where = f"tiny at {SIDE[device]} px, video 854x480, {device}"
    clock = CLOCK[device]
    with threads(1):
        tracked = ours()
        grown = megabytes(peak_bytes(device) - start)
        different = float(((tracked > 0) != (published() > 0)).float().mean())
        assert different <= DIFFERENT_PIXELS, different
        fp32 = compare(label, ("ours", ours), ("as published", published), pairs=3, clock=clock)
        found, whole = half() > 0, tracked > 0
        agreement = float((found & whole).sum() / (found | whole).sum())
        bf16 = compare(label, ("bf16 autocast", half), ("fp32", ours), pairs=3, clock=clock)
    rows = [
        fp32.noted(f"{where}; {grown} more at the peak; {different:.2%} of the pixels differ"),
        bf16.noted(f"{where}; IoU of the masks {agreement:.3f}"),
    ]
    if device == "cpu":
        one, two = (partial(_on_threads, count, ours) for count in (1, 2))
        wall = compare(label, ("2 threads", two), ("1 thread", one), pairs=3)
        rate = 1000 * FRAMES / wall.better_ms
        rows.append(wall.noted(f"{where}; {rate:.1f} frames/s; needs an idle machine"))
    return rows


def _on_threads(count: int, call: Callable[[], object]) -> None:
    with threads(count):
        call()


def _video(objects: int) -> tuple[np.ndarray, np.ndarray]:
    """Random frames and boxes on the first one."""
    frames = np.random.default_rng(0).integers(0, 256, (FRAMES, 480, 854, 3), dtype=np.uint8)
    masks = np.zeros((objects, 480, 854), bool)
    for row in range(objects):
        masks[row, 80 + 40 * row : 240 + 40 * row, 60 + 190 * row : 230 + 190 * row] = True
    return frames, masks

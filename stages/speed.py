"""How fast a network segments on this machine: frames a second, percentiles of latency, memory.

Three kinds of work, each for a number of objects:

- image: a picture nobody has seen, its masks for one box an object
- click: one more click an object on a picture that is encoded already
- video: the next frame of a video whose memory is full, all objects followed from masks

Pictures lie decoded in memory; a measurement ends when the masks are on the CPU at the size of the
video. Every case runs in a process of its own, so that its memory can be told.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from model.compile import compile_blocks
from model.config import preset
from model.image_predictor import ImagePredictor
from model.sam2 import SAM2, build_sam2
from model.video_predictor import VideoPredictor
from model.weights import load_checkpoint
from model.weights_identity import describe
from pipeline.device import usable_device
from pipeline.errors import ConfigError, StageError

Work = Literal["image", "click", "video"]
WARM_UP = 16
"""Calls before the clock starts: by then a memory bank is full (7 masks, 16 object pointers) and
whatever is compiled or cached is so."""
LEAST = 5
"""Measurements that are taken even when time is up."""
PERCENTILES = (50, 90, 99)
Precision = Literal["fp32", "bf16", "fp16"]
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class SpeedCase:
    """One measurement to take."""

    work: Work
    objects: int
    preset: str | None = None
    """A network with random weights; or"""
    checkpoint: str | None = None
    """a file of weights."""
    image_size: int | None = None
    """Side of the network's input; none takes that of the network."""
    size: tuple[int, int] = (854, 480)
    """Width and height of the pictures."""
    count: int = 100
    """Measurements to take, after the warm-up."""
    seconds: float = 60.0
    """Or as many as fit into this time."""
    device: str = "cpu"
    precision: Precision = "fp32"
    compiled: bool = False
    threads: int | None = None
    """Of the CPU; none leaves torch's choice."""
    frames_at_once: int = 1
    """Video: frames encoded together. 1 is a live stream; more is faster, and later."""

    def __post_init__(self) -> None:
        if self.objects < 1 or self.count < LEAST or self.frames_at_once < 1:
            raise ConfigError(
                f"{self.objects} objects, {self.count} measurements, {self.frames_at_once} frames "
                f"at once: expected 1 or more, {LEAST} or more, 1 or more"
            )
        if (self.preset is None) == (self.checkpoint is None):
            raise ConfigError("expected either a preset or a checkpoint to measure")


@dataclass(frozen=True)
class Speed:
    """What was measured, in milliseconds a picture or frame."""

    per_second: float
    """Over the whole time that was measured."""
    percentiles: tuple[float, ...]
    """Latency at each of `PERCENTILES`."""
    measurements: int
    first: float
    """Of the very first call, which compiles and allocates."""
    peak_bytes: int
    """Most memory held: on a GPU what torch allocated there, else by the whole process."""
    network: str
    """Its size, version and input side."""


def measure_each(cases: Sequence[SpeedCase]) -> Iterator[Speed]:
    """The answers in order, one after the other. Raises StageError where a process was killed."""
    context = multiprocessing.get_context("spawn")
    for case in cases:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            try:
                yield pool.submit(measure_speed, case).result()
            except BrokenProcessPool as error:
                raise StageError(
                    f"{case.work} with {case.objects} objects: the process was killed, out of "
                    "memory? Measure a smaller network or fewer objects"
                ) from error


def measure_speed(case: SpeedCase) -> Speed:
    """Take one measurement, in this process."""
    device = usable_device(case.device)
    if case.threads is not None:
        torch.set_num_threads(case.threads)
    model = _network(case).to(device).eval()
    if case.compiled:
        compile_blocks(model)
    halved = case.precision != "fp32"
    autocast = torch.autocast(device.type, TYPES[case.precision]) if halved else nullcontext()
    with torch.inference_mode(), autocast:
        calls = _calls(model, case)
        first = _milliseconds(calls)
        for _ in range(WARM_UP - 1):
            next(calls)
        times: list[float] = []
        while len(times) < case.count and (
            sum(times) < 1000 * case.seconds or len(times) < LEAST * case.frames_at_once
        ):
            times.append(_milliseconds(calls))
    return Speed(
        per_second=1000 * len(times) / sum(times),
        percentiles=tuple(float(np.percentile(times, p)) for p in PERCENTILES),
        measurements=len(times),
        first=first,
        peak_bytes=peak_bytes(case.device),
        network=f"{describe(model.config)} at {model.config.image_size}",
    )


def _network(case: SpeedCase) -> SAM2:
    if case.checkpoint is not None:
        return load_checkpoint(case.checkpoint, image_size=case.image_size)
    assert case.preset is not None
    torch.manual_seed(0)
    model = build_sam2(preset(case.preset, case.image_size))
    bias = model.get_parameter("sam_mask_decoder.pred_obj_score_head.layers.2.bias")
    bias.data.fill_(5.0)  # else random weights take every object for absent
    return model


def _calls(model: SAM2, case: SpeedCase) -> Iterator[Any]:
    """Does one piece of work at every `next`, without end."""
    if case.work == "video":
        predictor = VideoPredictor(model, frames_at_once=case.frames_at_once)
        for logits in predictor.track(_pictures(case), _masks(case)):
            yield (logits > 0).cpu()
    boxes, points = _boxes(case), _boxes(case)[:, None, :2] + 2.0
    labels = np.ones((case.objects, 1), np.int64)
    images = ImagePredictor(model)
    for picture in _pictures(case):
        if case.work == "image":
            images.set_image(picture)
            yield images.predict(boxes=boxes, multimask=False).masks.cpu()
            continue
        images.set_image(picture)
        low = images.predict(points, labels, multimask=True).best().low
        while True:
            answer = images.predict(points, labels, mask_input=low, multimask=False)
            yield answer.masks.cpu()


def _pictures(case: SpeedCase) -> Iterator[np.ndarray]:
    """Noise without end, uint8 [H, W, 3]; drawn once, as drawing takes time."""
    width, height = case.size
    noise = np.random.default_rng(0).integers(0, 256, (4, height, width, 3), dtype=np.uint8)
    while True:
        yield from noise


def _boxes(case: SpeedCase) -> np.ndarray:
    """float32 [O, 4], x0, y0, x1, y1: side by side across the picture."""
    width, height = case.size
    left = np.linspace(0, 0.8 * width, case.objects + 1)[:-1] + 0.02 * width
    right = left + max(4.0, 0.6 * width / case.objects)
    top, bottom = np.full_like(left, 0.3 * height), np.full_like(left, 0.7 * height)
    return np.stack([left, top, right, bottom], 1).astype(np.float32)


def _masks(case: SpeedCase) -> np.ndarray:
    """bool [O, H, W]: the boxes, filled."""
    width, height = case.size
    masks = np.zeros((case.objects, height, width), bool)
    for mask, (x0, y0, x1, y1) in zip(masks, _boxes(case).astype(int), strict=True):
        mask[y0:y1, x0:x1] = True
    return masks


def _milliseconds(calls: Iterator[Any]) -> float:
    began = time.perf_counter()
    next(calls)
    return 1000 * (time.perf_counter() - began)


def peak_bytes(device: str = "cpu") -> int:
    """The most memory this process ever held, on the GPU what torch ever held there.

    Linux's own peak is read where it is there: `ru_maxrss` begins with that of the process's parent.
    """
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(peak.split()[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

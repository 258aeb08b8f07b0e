"""What kept features of a frozen image encoder gain: a step that reads them against one that runs the encoder."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.measure import Row, compare, threads
from benchmarks.steps import random_batch
from model.config import preset
from model.policy import LossConfig, PromptPolicy
from model.sam2 import build_sam2
from pipeline.diskcache import DiskCache
from pipeline.distributed import World
from pipeline.optim import freeze
from stages.clip_task import ClipTask
from stages.feature_cache import FeatureCache
from stages.settings import ENCODER

SIDE, FRAMES, OBJECTS = 256, 4, 2


def feature_rows() -> list[Row]:
    """Forward and backward of one clip, prompted by a mask; the first turn fills the cache."""
    torch.manual_seed(0)
    model = build_sam2(preset("tiny", SIDE)).train()
    freeze(model, ENCODER)
    batch = random_batch("video", 1, FRAMES, OBJECTS, SIDE)
    prompts = PromptPolicy(mask=1, click=0, box=0, initial_frames=1, corrected_frames=0)

    def step(features: FeatureCache | None) -> Callable[[], None]:
        task = ClipTask(model, prompts, LossConfig(), seed=0, world=World(), features=features)

        def run() -> None:
            task.losses(batch, 0, task.weight(batch)).total.backward()
            model.zero_grad()

        return run

    with tempfile.TemporaryDirectory() as folder, threads(1):
        row = compare(
            "step with a frozen image encoder",
            (
                "features read from disk",
                step(FeatureCache(model, DiskCache(Path(folder), 1 << 30))),
            ),
            ("encoder run", step(None)),
            pairs=5,
            seconds=60,
            note=f"tiny at {SIDE} px, {FRAMES} frames x {OBJECTS} objects, 1 thread, processor time",
            clock=time.process_time,
        )
    return [row]

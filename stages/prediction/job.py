"""The results of one picture or video: finished, or not there at all."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch

from model.sam2 import SAM2
from model.weights import load_checkpoint
from pipeline.device import usable_device
from pipeline.environment import env_rank
from pipeline.errors import CheckpointError
from pipeline.storage import sha256
from stages.prediction.annotated import follow
from stages.prediction.answer import Answer
from stages.prediction.films import ask_film
from stages.prediction.pictures import ask_picture, find_everything
from stages.prediction.results import ResultFolder
from stages.prediction.sources import AnnotatedFilm, Item, Picture
from stages.prediction.spec import Event, PredictSpec, Tell
from stages.prediction.writers import open_writers, write_answers

LEAST_SPACE = 32 << 20
"""Bytes that must be free before an item is begun."""


class Done(NamedTuple):
    """An item whose results are in their places."""

    frames: int
    found: bool
    """Is there a mask on any of them?"""


def do_item(spec: PredictSpec, digest: str, item: Item, tell: Tell | None = None) -> Done:
    """Make the results of one item with the weights of `digest`.

    Raises DataError for what is wrong with the item, CheckpointError where the weights are not
    those of `spec.preset`, StorageError where the disk is full.
    """
    count, found = 0, False

    def told() -> Iterator[Answer]:
        nonlocal count, found
        for answer in _answers(spec, digest, item):
            found = found or bool(answer.rows.any())
            yield answer
            count += 1
            if tell:
                tell(Event("frame", item.name))

    if tell:
        tell(Event("begun", item.name, item.frame_total()))
    if isinstance(item, Picture):
        film, file_name, fps = False, item.path.name, 1.0
    else:
        film, file_name, fps = True, "", item.frames_per_second()
    results = ResultFolder(Path(spec.out))
    with results.making(item.name, item_key(spec, item, digest), LEAST_SPACE) as folder:
        layouts = spec.layouts if spec.masks else ()
        writers = open_writers(layouts, folder, item.name, film=film, file_name=file_name)
        overlay = folder / "overlays" / f"{item.name}{'.mp4' if film else '.jpg'}"
        write_answers(told(), writers, overlay if spec.overlay else None, fps)
    return Done(count, found)


def digest_of(checkpoint: str) -> str:
    """SHA-256 of the weights; of a folder of shards, that of each file. Raises CheckpointError."""
    place = Path(checkpoint)
    files = (
        sorted(path for path in place.iterdir() if path.is_file()) if place.is_dir() else [place]
    )
    try:
        return " ".join(sha256(file) for file in files)
    except OSError as error:
        raise CheckpointError(
            f"{place} cannot be read ({error.strerror}); check the path"
        ) from error


def item_key(spec: PredictSpec, item: Item, digest: str) -> str:
    """Identity of an item's result: of the weights (`digest_of`), the settings and the item itself."""
    matters = replace(
        spec,
        source="",
        out="",
        checkpoint="",
        device=None,
        split=None,
        names=(),
        shard=(1, 1),
        workers=1,
        again=False,
    )
    files = sorted({p.mask for p in spec.prompts if isinstance(p.mask, str)})
    masks = [sha256(file) for file in files if os.path.isfile(file)]
    return hashlib.sha256(f"{matters}\n{digest}\n{masks}\n{item.trace()}".encode()).hexdigest()


def _answers(spec: PredictSpec, digest: str, item: Item) -> Iterator[Answer]:
    model = _network(
        spec.checkpoint, digest, spec.preset, spec.image_size, spec.device, spec.workers
    )
    threshold = spec.score_threshold
    if isinstance(item, AnnotatedFilm):
        return follow(model, item, threshold, late_objects=bool(spec.late_objects))
    if isinstance(item, Picture):
        if spec.everything is not None:
            return find_everything(model, item, spec.everything, threshold)
        return ask_picture(model, item, spec.prompts, threshold)
    return ask_film(model, item, spec.prompts, threshold, backwards=spec.backwards)


@lru_cache(maxsize=1)
def _network(
    checkpoint: str,
    digest: str,
    preset: str | None,
    image_size: int | None,
    device: str | None,
    workers: int,
) -> SAM2:
    """The network, loaded once in each process while its file stays the same; processes share the
    cores and the GPUs."""
    if workers > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    if device is None:
        device = (
            f"cuda:{_rank() % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"
        )
    place = usable_device(device)
    return load_checkpoint(checkpoint, image_size=image_size, expect=preset).to(place).eval()


def _rank() -> int:
    """A number for this process among those that work side by side."""
    last = multiprocessing.current_process().name.rpartition("-")[2]
    return int(last) - 1 if last.isdecimal() else env_rank()

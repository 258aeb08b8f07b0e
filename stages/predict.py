"""Masks for somebody's own pictures and videos, or for a data set's.

A broken picture or video does not stop the others; it is named at the end. What is finished is not
made again by another call with the same settings.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pipeline.errors import ConfigError, DataError
from pipeline.progress import ProgressWriter
from pipeline.stop import check_stop
from pipeline.workers import call_each
from stages.prediction.job import Done, digest_of, do_item, item_key
from stages.prediction.results import ResultFolder, places_in
from stages.prediction.sources import Item, Source, find_items
from stages.prediction.spec import MOST_COLOURS, Event, Layout, PredictSpec, Summary, Tell

DATA = ("JPEGImages", "Annotations")
"""What the folders of a data set begin with."""


def predict(spec: PredictSpec, tell: Tell) -> Summary:
    """Predict everything in `spec.source` and say what was done.

    Raises DataError where there is nothing to predict, ConfigError where options do not go
    together, CheckpointError where the weights cannot be read or are not those of `spec.preset`,
    StorageError where `spec.out` cannot be written; what is wrong with single items is in the
    summary.
    """
    work = work_of(spec)
    spec, source, todo, results = work.spec, work.source, work.todo, work.results
    begun = time.monotonic()
    tell(Event("planned", spec.source, len(source.items)))
    for _ in range(len(source.items) - len(todo)):
        tell(Event("skipped", ""))
    try:
        done, failures = _do_all(spec, work.digest, todo, tell)
    finally:
        results.clear(item.name for item in todo)
    return Summary(
        finished=len(todo) - len(failures),
        skipped=len(source.items) - len(todo),
        frames=sum(each.frames for each in done.values()),
        empty=tuple(name for name, each in done.items() if not each.found),
        seconds=time.monotonic() - begun,
        failures=tuple(failures),
        places=places_in(results.folder),
    )


@dataclass(frozen=True)
class Work:
    """What a call of `predict` has before it."""

    spec: PredictSpec
    """With nothing left open."""
    source: Source
    digest: str
    """Of the weights."""
    results: ResultFolder
    todo: Sequence[Item]
    """What no earlier call has finished with these settings."""


def work_of(spec: PredictSpec) -> Work:
    """What there is to do. Raises as `predict`."""
    source = find_items(spec)
    spec = settled(spec, source)
    digest = digest_of(spec.checkpoint)
    results = ResultFolder(Path(spec.out))
    todo = [
        item
        for item in source.items
        if spec.again or not results.is_finished(item.name, item_key(spec, item, digest))
    ]
    return Work(spec, source, digest, results, todo)


@dataclass(frozen=True)
class PredictShare:
    """A shard of the items as a job of its own, on whatever machine it lands."""

    spec: PredictSpec
    folder: str
    """The job's, where its progress is written."""


def predict_share(share: PredictShare) -> Summary:
    """Predict one shard; what is wrong with single items is in the summary."""
    progress: ProgressWriter | None = None
    done = 0

    def tell(event: Event) -> None:
        nonlocal done, progress
        if event.kind == "planned":
            progress = ProgressWriter(share.folder, event.frames or 0, unit="item")
        elif event.kind in ("finished", "skipped", "failed") and progress is not None:
            done += 1
            progress.update(done)
        check_stop()

    return predict(share.spec, tell)


def _do_all(
    spec: PredictSpec, digest: str, todo: Sequence[Item], tell: Tell
) -> tuple[dict[str, Done], list[str]]:
    """Predict items, in processes of their own where several are wanted: those that are done, by
    name, and what is wrong with the others."""
    done: dict[str, Done] = {}
    failures = []
    do = partial(do_item, spec, digest)
    if spec.workers == 1:  # what is told does not come out of another process
        do = partial(do, tell=tell)
    with closing(call_each(do, ((item,) for item in todo), spec.workers)) as answers:
        for number, answer in answers:
            name = todo[number].name
            try:
                done[name] = answer()
            except DataError as error:
                failures.append(str(error))
                tell(Event("failed", name))
            else:
                tell(Event("finished", name, sum(each.frames for each in done.values())))
    return done, failures


def settled(spec: PredictSpec, source: Source) -> PredictSpec:
    """The spec with what suits the source in place of what was left open.

    Raises ConfigError where options and source do not go together.
    """
    _apart(spec, source)
    annotated = source.format is not None
    if not (annotated or spec.everything or spec.prompts):
        raise ConfigError(
            f"{spec.source}: nothing says what to look for; give --point x,y, --box x0,y0,x1,y1, "
            "--mask FILE.png, --prompts FILE.json, or --everything for pictures"
        )
    layouts: tuple[Layout, ...] = spec.layouts or (
        ("rle",) if spec.everything else (source.layout,)
    )
    largest = max((prompt.object or 1 for prompt in spec.prompts), default=1)
    if spec.masks and "palette" in layouts and largest > MOST_COLOURS:
        raise ConfigError(
            f"object {largest} has no place in a palette picture, which knows 1 to {MOST_COLOURS}; "
            "write --format objects or --format rle"
        )
    late = source.late_objects if spec.late_objects is None else spec.late_objects
    overlay = not annotated if spec.overlay is None else spec.overlay
    return replace(spec, layouts=layouts, late_objects=late, overlay=overlay)


def _apart(spec: PredictSpec, source: Source) -> None:
    """Refuse to write where the source is."""
    given, out = Path(spec.source).resolve(), Path(spec.out).expanduser().resolve()
    if not given.is_dir():
        return
    inside = out.relative_to(given).parts if out.is_relative_to(given) else ()
    in_data = source.format is not None and inside and inside[0].startswith(DATA)
    if out == given or in_data:
        raise ConfigError(f"--out {out} is where the source is; give another folder")

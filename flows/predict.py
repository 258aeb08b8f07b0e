"""`predict`: masks of pictures, videos and data sets."""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.jobs import launch_config
from flows.parts import progress_bar
from flows.predict_end import check_wishes, conclude
from flows.predict_words import spec_of
from flows.weights import local_weights
from pipeline.errors import ConfigError, DataError
from stages.prediction.results import NOTES, places_in
from stages.prediction.spec import Event, PredictSpec, Summary, Tell

if TYPE_CHECKING:
    from pipeline.settings import LaunchConfig

FAILURES_SHOWN = 10
NOTHING = Summary(finished=0, skipped=0, frames=0, seconds=0, empty=(), failures=(), places=())


def predict(arguments: argparse.Namespace) -> int:
    """Predict, show how far it is, and say where things are; 2 where some items are broken."""
    from stages.predict import predict as run

    spec = spec_of(arguments)
    config = launch_config(arguments)
    whole = spec.shard == (1, 1)
    if not whole and (config is not None or arguments.score or arguments.zip):
        raise ConfigError(
            "--shard is one part of many: no --jobs, --score or --zip; leave it out of a last call, "
            "which finds the parts finished"
        )
    spec = replace(spec, checkpoint=str(local_weights(arguments.checkpoint, arguments.runs)))
    if arguments.score or arguments.zip:
        check_wishes(spec, arguments.zip)
    if config is None:
        with _shown() as tell:
            summary = run(spec, tell)
    else:
        summary = _in_jobs(spec, arguments.jobs, config)
    _report(summary, everything=spec.everything is not None)
    if summary.failures:
        more = len(summary.failures) - FAILURES_SHOWN
        lines = [*summary.failures[:FAILURES_SHOWN], *([f"… and {more} more"] if more > 0 else [])]
        if arguments.score or arguments.zip:
            lines.append("neither scored nor packed, as not everything is there")
        raise DataError("\n".join(lines))
    if arguments.score or arguments.zip:
        conclude(spec, score=arguments.score, style=arguments.zip)
    return 0


def _in_jobs(spec: PredictSpec, jobs: int, config: LaunchConfig) -> Summary:
    """The items shared out over jobs; each picture or video that is finished stays so."""
    from pipeline.array import launch_array, shard_folders
    from stages.predict import PredictShare, predict_share, work_of

    spec = replace(
        spec, source=str(Path(spec.source).absolute()), out=str(Path(spec.out).absolute())
    )
    work = work_of(spec)
    total = len(work.source.items)
    if not work.todo:
        return replace(NOTHING, skipped=total, places=places_in(Path(spec.out)))
    count, began = min(jobs, total), time.monotonic()
    folder = Path(spec.out) / NOTES / "jobs"
    shares = [
        PredictShare(replace(spec, shard=(number + 1, count)), str(place))
        for number, place in enumerate(shard_folders(folder, count))
    ]
    todo = hashlib.sha256(repr([item.name for item in work.todo]).encode()).hexdigest()
    with progress_bar("predicting") as (bar, task):

        def look(progress: Any) -> None:
            bar.update(task, completed=progress.step if progress else 0, total=total)

        parts = launch_array(
            predict_share,
            shares,
            folder,
            config,
            name="predict",
            key=f"{work.digest} {todo} {time.time() if spec.again else ''}",
            on_poll=look,
        )
    return Summary(
        finished=sum(part.finished for part in parts),
        skipped=sum(part.skipped for part in parts),
        frames=sum(part.frames for part in parts),
        seconds=time.monotonic() - began,
        empty=tuple(name for part in parts for name in part.empty),
        failures=tuple(line for part in parts for line in part.failures),
        places=places_in(Path(spec.out)),
    )


@contextmanager
def _shown() -> Iterator[Tell]:
    """A progress bar where there is a terminal: of frames, or of items where there are several."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"), TimeRemainingColumn(),
    )  # fmt: skip
    frames, begun, several = 0, 0.0, False
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("predicting", total=None, speed="")

        def tell(event: Event) -> None:
            nonlocal frames, begun, several
            if event.kind == "planned":
                several = (event.frames or 0) > 1
                bar.update(task, total=event.frames if several else None)
            elif event.kind == "begun":
                begun = begun or time.monotonic()
                bar.update(task, description=event.name)
                if not several:
                    bar.update(task, total=event.frames)
            elif event.kind == "frame":
                frames += 1
                speed = frames / max(time.monotonic() - begun, 1e-3)
                bar.update(task, advance=not several, speed=f"{speed:.1f} frames/s")
            elif several:
                bar.advance(task)
                frames = event.frames or frames

        yield tell


def _report(summary: Summary, *, everything: bool) -> None:
    """What was done, where it is, and where nothing was found."""
    if not (summary.finished or summary.skipped):
        if not summary.failures:
            print("this shard is empty: there are fewer pictures or videos than shards")
        return
    speed = f" ({summary.frames / max(summary.seconds, 1e-3):.1f} frames/s)"
    frames = f"{summary.frames} frame{'s' * (summary.frames != 1)}"
    made = f"{summary.finished} predicted, {frames}{speed}"
    there = f"{summary.skipped} there already (--again makes them anew)"
    parts = [made] if summary.finished else []
    parts += [there] if summary.skipped else []
    print(f"{'; '.join(parts)}: {', '.join(summary.places)}")
    if summary.empty:
        names = ", ".join(summary.empty[:FAILURES_SHOWN])
        rest = len(summary.empty) - FAILURES_SHOWN
        remedy = " (--predicted-iou and --stability say what is kept)" if everything else ""
        print(f"no object was found in {names}{f' and {rest} more' if rest > 0 else ''}{remedy}")

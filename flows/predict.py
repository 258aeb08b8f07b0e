"""`predict`: masks of pictures, videos and data sets."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from flows.predict_words import spec_of
from pipeline.errors import DataError
from stages.prediction.spec import Event, Summary, Tell

FAILURES_SHOWN = 10


def predict(arguments: argparse.Namespace) -> int:
    """Predict, show how far it is, and say where things are; 2 where some items are broken."""
    from stages.predict import predict as run

    spec = spec_of(arguments)
    weights = _weights(arguments.checkpoint, arguments.runs.expanduser().absolute())
    spec = replace(spec, checkpoint=str(weights))
    with _shown() as tell:
        summary = run(spec, tell)
    _report(summary, everything=spec.everything is not None)
    if summary.failures:
        more = len(summary.failures) - FAILURES_SHOWN
        lines = [*summary.failures[:FAILURES_SHOWN], *([f"… and {more} more"] if more > 0 else [])]
        raise DataError("\n".join(lines))
    return 0


def _weights(words: str, runs: Path) -> Path:
    """A local file, or folder of shards, with the weights."""
    from pipeline.tracking import fetch_checkpoint

    if Path(words).expanduser().is_dir():
        return Path(words).expanduser()
    return fetch_checkpoint(words, "", runs / "cache", f"sqlite:///{runs / 'mlflow.db'}")


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

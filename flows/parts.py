"""The parts of a run as commands of their own, on a person's own files."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def synth(arguments: argparse.Namespace) -> int:
    """`synth`: a synthetic world in a folder."""
    from data.world.spec import WorldSpec
    from data.world.world import make_world

    spec = WorldSpec(
        seed=arguments.seed,
        train_images=arguments.images,
        train_videos=arguments.videos,
        val_images=arguments.val_images,
        val_videos=arguments.val_videos,
    )
    with progress_bar("drawing") as (bar, task):

        def tell(done: int, total: int, latest: str) -> None:
            bar.update(task, completed=done, total=total)

        world = make_world(spec, arguments.out, progress=tell, workers=arguments.workers)
    how = "was there already" if world.reused else f"drawn in {world.seconds:.0f} s"
    print(f"{world.root}: {how}")
    for name, count in world.counts.items():
        print(f"  {name:<20} {count}")
    return 0


@contextmanager
def progress_bar(what: str) -> Iterator[tuple[Progress, Any]]:
    """A progress bar where there is a terminal to show it."""
    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        yield bar, bar.add_task(what, total=None)

"""`reap`: what killed processes left behind, and its end; and the look around that every run
begins with."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from flows import daemons, services
from flows.flow_runs import on_record, settle_dead
from flows.home import prefect_settings, state_folder
from flows.orphans import Orphan, find_orphans
from flows.run import Run
from pipeline.errors import ConfigError, PipelineError


def reap(arguments: argparse.Namespace) -> int:
    """`reap`: list orphans, and with `--yes` end them; 0 when none is left, else 1."""
    runs: Path = arguments.runs
    if not runs.is_dir():
        raise ConfigError(
            f"{runs}: there is no such folder; give the runs folder, or one run of it"
        )
    state = state_folder()
    found = find_orphans(runs.resolve(), state)
    on_server = _find_server(state) if arguments.yes else False
    rows = []
    for orphan in found:
        done = _end(orphan, on_server) if arguments.yes else ""
        rows.append({"kind": orphan.kind, "what": orphan.what, "where": orphan.where, "done": done})
    if arguments.json:
        print(json.dumps(rows, indent=2))
    else:
        _show(rows, runs, ended=arguments.yes)
    left = find_orphans(runs.resolve(), state) if arguments.yes else found
    return 1 if left else 0


def _end(orphan: Orphan, on_server: bool) -> str:
    if orphan.kind == "flow run" and not on_server:
        return "left: no Prefect server runs; the next start of this run tells it"
    try:
        return orphan.end()
    except PipelineError as error:
        return f"left: {error}"


def _find_server(state: Path) -> bool:
    """Point this process at the Prefect server there is; whether there is one."""
    given = os.environ.get("PREFECT_API_URL")
    url = given if given and daemons.answers(f"{given.rstrip('/')}/health") else None
    url = url or services.prefect_api()
    if url is not None:
        os.environ.update(prefect_settings(state, url))
    return url is not None


def _show(rows: list[dict[str, str]], runs: Path, *, ended: bool) -> None:
    console = Console(highlight=False, soft_wrap=True)
    if not rows:
        console.print(f"nothing was left behind in {runs}", markup=False)
        return
    for row in rows:
        console.print(f"{row['kind']}: {row['what']}", markup=False)
        console.print(f"    {row['where']}", markup=False, style="dim")
        if row["done"]:
            console.print(f"    {row['done']}", markup=False)
    if not ended:
        console.print("\nend all of it with: sam2-pipeline reap", runs, "--yes", markup=False)


@contextmanager
def looked_after(run: Run, flow_run_id: str, note: Callable[[str], None]) -> Iterator[None]:
    """Around a flow: say what an earlier one of this run left behind, let Prefect know of flows
    that were killed, and be on record so that the next one can do the same for this.

    Ends nothing: jobs that still run are joined when their stage's turn comes.
    """
    for orphan in find_orphans(run.recipe.folder):
        if orphan.kind == "job":
            note(f"{Path(orphan.where).name}: {orphan.what}, though nobody waits for it")
        elif orphan.kind in ("submission", "unknown"):
            note(f"{Path(orphan.where).name}: {orphan.what}")
    settle_dead(run.recipe.folder, note)
    with on_record(run.recipe.folder, flow_run_id, run.recipe.folder.name):
        yield

"""What killed processes left behind in a runs folder: jobs nobody waits for, submissions without an
answer, claims, half-made files, Prefect servers, flow runs that Prefect believes to be running.

Looking changes nothing. What belongs to a process that lives, or to one of another machine that
still speaks, is nobody's orphan.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psutil

from flows import daemons
from flows.flow_runs import FOLDER, dead_records, settle_record
from pipeline.claim import claim, claim_path, holder_of
from pipeline.errors import PipelineError
from pipeline.intent import HANDLE_FILE, INTENT_FILE, unanswered, withdraw_intent
from pipeline.launch import running_job, stop_stage
from pipeline.owner import Owner
from pipeline.settings import LaunchConfig
from pipeline.storage import read_json

CONFIG = LaunchConfig()
DEPTH = 5
BESIDE = frozenset({"logs", "checkpoints", "worlds", "artifacts", "cache", "frames", "mlruns"})
"""Folders in which no stage lies."""
QUIET_SECONDS = 600.0
"""A half-made file that was not written to for so long has no writer."""


@dataclass(frozen=True)
class Orphan:
    """One thing that was left behind."""

    kind: Literal["job", "submission", "claim", "file", "server", "flow run", "unknown"]
    what: str
    """For a person."""
    where: str
    end: Callable[[], str] = field(compare=False, repr=False)
    """Does away with it, and says what was done."""


def find_orphans(runs: Path, state: Path | None = None) -> list[Orphan]:
    """What was left behind in `runs`, a runs folder or a single run, and, where `state` is given,
    among the servers of that state folder."""
    found: list[Orphan] = []
    for folder in _job_folders(runs):
        found += _of_stage(folder)
    for place in _folders(runs):
        found += [_flow_run(path) for path in dead_records(place)]
    found += [_server(state, name) for name in dead_servers(state)] if state else []
    return found


def dead_servers(state: Path) -> list[str]:
    """Temporary Prefect servers of flows that were killed before they could end them."""
    found: list[str] = []
    for path in sorted(state.glob("server-*.json")):
        daemon, owner = daemons.remembered(state, path.stem), path.stem.removeprefix("server-")
        if daemon is None or not owner.isdigit():
            continue
        try:
            flow = Owner.of(int(owner))
        except psutil.Error:
            found.append(path.stem)
            continue
        if flow.state == "gone" or flow.start > daemon.started:  # the number means another now
            found.append(path.stem)
    return found


def _folders(runs: Path) -> Iterator[Path]:
    """The folders in which a run may keep its records, `runs` itself first."""
    base = len(runs.parts)
    for place, names, _ in os.walk(runs):
        yield Path(place)
        deep = len(Path(place).parts) - base >= DEPTH
        names[:] = [] if deep else sorted(set(names) - BESIDE - {FOLDER})
        if (Path(place) / "spec.json").is_file():
            names[:] = []  # a stage: what it makes may be millions of files


def _job_folders(runs: Path) -> Iterator[Path]:
    for place in _folders(runs):
        if any((place / name).is_file() for name in (HANDLE_FILE, INTENT_FILE)) or (
            claim_path(place).is_file()
        ):
            yield place


def _of_stage(folder: Path) -> Iterator[Orphan]:
    holder = holder_of(folder)
    if holder is not None:
        return  # a flow looks after it
    try:
        handle = running_job(folder, CONFIG, only_look=True)
        intent = unanswered(folder)
    except PipelineError as error:
        words = str(error)
        yield Orphan("unknown", words, str(folder), lambda: f"left as it is: {words}")
        return
    if handle is not None:
        what = f"{handle.launcher} job {handle.job_id} ({handle.name or folder.name}) still runs"
        yield Orphan("job", what, str(folder), lambda: _end_job(folder, handle.key))
        return
    if intent is not None:
        what = f"submission {intent.name} came to nothing"
        yield Orphan("submission", what, str(folder), lambda: _end_intent(folder))
    record = read_json(claim_path(folder))
    if record:
        what = f"claim of {Owner.from_record(record) or 'an unknown process'}, which has ended"
        yield Orphan("claim", what, str(claim_path(folder)), lambda: _end_claim(folder))
    for path in half_made(folder):
        what = f"half-made file, {path.stat().st_size} bytes"
        yield Orphan("file", what, str(path), lambda path=path: _end_file(path))  # type: ignore[misc]


def half_made(folder: Path) -> list[Path]:
    """Files of a stage without a job that were being written when their writer was killed."""
    places = [folder, folder / "checkpoints", *folder.glob("logs/*")]
    paths = [path for place in places for path in place.glob(".*.part") if path.is_file()]
    return [path for path in paths if time.time() - path.stat().st_mtime > QUIET_SECONDS]


def _end_job(folder: Path, key: str) -> str:
    with claim(folder, key=key):
        return "ended" if stop_stage(folder, CONFIG) else "had ended by itself"


def _end_intent(folder: Path) -> str:
    with claim(folder):
        intent = unanswered(folder)
        if intent is not None and running_job(folder, CONFIG) is None:
            withdraw_intent(folder, intent)
            return "forgotten"
    return "found after all; run this again"


def _end_claim(folder: Path) -> str:
    with claim(folder):
        return "given up"


def _end_file(path: Path) -> str:
    path.unlink(missing_ok=True)
    return "removed"


def _flow_run(path: Path) -> Orphan:
    values = read_json(path) or {}
    owner = Owner.from_record(values)
    what = f"flow run {values.get('name') or path.stem} of {owner}, which has ended"
    return Orphan("flow run", what, str(path), lambda: settle_record(path))


def _server(state: Path, name: str) -> Orphan:
    def end() -> str:
        return "stopped" if daemons.stop(state, name) else "had ended by itself"

    what = f"temporary Prefect server of process {name.removeprefix('server-')}, which has ended"
    return Orphan("server", what, str(state / f"{name}.json"), end)

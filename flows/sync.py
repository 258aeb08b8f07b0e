"""`sync`: send what runs recorded while MLflow did not answer, and copy what mirrors lack."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from flows.mirrors import complete_mirrors
from flows.tracking import catch_up, journals
from pipeline.errors import ConfigError
from pipeline.journal import RECORD, SENT
from pipeline.mlflow_store import answers
from pipeline.remote import shown
from pipeline.storage import read_json

SECONDS = 24 * 3600.0


def sync(arguments: argparse.Namespace) -> int:
    """Send the journals of the named runs, or of all below the runs folder, and complete the
    mirrors of their checkpoints; 1 when something still waits."""
    console = Console(highlight=False)
    folders = [folder.expanduser().absolute() for folder in arguments.folders]
    folders = folders or _runs(arguments.runs.expanduser().absolute())
    left = 0
    for folder in folders:
        if not journals(folder):
            raise ConfigError(
                f"{folder} holds no {RECORD}, what a run or stage recorded; give a run folder"
            )
        uri = arguments.tracking or store_of(folder)
        if not uri:
            raise ConfigError(f"{folder} does not say where its store is; give it with --tracking")
        silent = "" if answers(uri) else f"; MLflow at {shown(uri)} does not answer"
        sent, late = catch_up(folder, uri, SECONDS)
        copied, lacking = complete_mirrors(folder)
        left += late + lacking
        said = [f"{sent} sent, {late} still wait{silent}"] if sent or late else []
        said += [f"{copied} mirrors completed"] if copied else []
        said += [f"{lacking} mirrors lack checkpoints"] if lacking else []
        what = "; ".join(said) or "nothing waits"
        console.print(f"{escape(folder.name):<28} {what}", soft_wrap=True)
    return 1 if left else 0


def store_of(folder: Path) -> str:
    """The MLflow store a run or stage folder was told of; empty when it does not say."""
    for spec in (folder / "spec.json", *sorted(folder.glob("*/spec.json"))):
        uri = (read_json(spec) or {}).get("tracking", {}).get("uri")
        if uri:
            return str(uri)
    return str((read_json(folder / SENT) or {}).get("uri", ""))


def _runs(runs: Path) -> list[Path]:
    """Every run below the runs folder. Raises ConfigError when there is none."""
    found = sorted({path.parents[1] for path in runs.glob(f"*/*/{RECORD}")})
    if not found:
        raise ConfigError(f"there is no run in {runs}; give a run folder, or --runs")
    return found

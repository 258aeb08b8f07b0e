"""Where runs are recorded: MLflow, without torch and without ever holding training up (law 6).

What a stage records goes to the journal in its folder; a thread sends it on. What could not be sent, the run itself
included, stays in the journal and is sent by the next one who opens the same folder, by the flow, or by
`sam2-pipeline sync`. Only rank 0 opens a `Run`; only the orchestrator calls `prepare_store`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.journal import Journal, last_opening, set_apart
from pipeline.mlflow_store import find_run, first_line, identity, prepare_store
from pipeline.publishing import fetch_checkpoint, place
from pipeline.redaction import redact
from pipeline.replay import Sender
from pipeline.storage import sha256

__all__ = ["Run", "fetch_checkpoint", "find_run", "open_run", "prepare_store", "publish_checkpoint"]

LONGEST_PARAM, LONGEST_TAG = 6000, 8000
"""Characters MLflow has room for."""
ID_SECONDS = 30.0
"""How long the end of a stage waits to learn the id of its run."""
logger = logging.getLogger(__name__)


def open_run(
    uri: str,
    experiment: str,
    name: str,
    key: str,
    folder: str | Path,
    *,
    parent: str = "",
    parent_folder: str | Path | None = None,
    artifacts: str | None = None,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    began: int = 0,
) -> Run:
    """The run that records the work `key` in `folder`: the one there is, or a new one. Asks no server and returns at
    once.

    parent: id of the run this one belongs under; when it is not known yet, parent_folder says where that run's
    journal lies. artifacts: where the files of the experiment go, should nobody have made it yet. began: milliseconds
    since 1970 for work that was done before it is recorded; 0 is now. Secrets in params and tags are blotted out.
    """
    opening = {
        "experiment": experiment,
        "name": name,
        "key": key,
        "stage_id": identity(key, folder),
        "parent": parent,
        "parent_folder": str(parent_folder or ""),
        "artifacts": artifacts,
        "params": {
            name: redact(str(value), name)[:LONGEST_PARAM] for name, value in (params or {}).items()
        },
        "tags": _tags(tags or {}),
    }
    return Run(uri, Path(folder), opening, began)


class Run:
    """One MLflow run, for writing. Nothing here waits for MLflow or raises because of it, except where it says so."""

    def __init__(self, uri: str, folder: Path, opening: Mapping[str, Any], began: int) -> None:
        self.uri, self.folder = uri, folder
        with suppress(OSError):
            set_apart(folder, opening["stage_id"])
        self._journal = Journal(folder)
        if _is_open(folder, opening):
            self._journal.entry("again")
        else:
            self._journal.entry("open", **opening, **({"time": began} if began else {}))
        self._sender = Sender(folder, uri, opening["stage_id"]) if uri else None

    @property
    def run_id(self) -> str:
        """The run's id in MLflow; empty while it is not known."""
        return self._sender.run_id if self._sender else ""

    def wait_id(self, seconds: float) -> str:
        """The run's id, as soon as it is known; empty when the store fails or `seconds` are over."""
        return self._sender.wait_id(seconds) if self._sender else ""

    def log_metrics(self, step: int, metrics: Mapping[str, float], *, keep: bool = False) -> None:
        """Record scalars at `step`. keep: few and precious, never thinned out."""
        values = {name: float(value) for name, value in metrics.items()}
        self._journal.row(step, values, keep=keep)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Attach words to the run."""
        self._journal.entry("tags", values=_tags(tags))

    def log_dataset(self, name: str, digest: str, root: str, facts: Mapping[str, Any]) -> None:
        """Record what a run reads: among its data sets, and its whole sha256 as the tag `data.<name>.sha256`."""
        root = redact(root)
        self.set_tags({f"data.{name}.sha256": digest, f"data.{name}.root": root})
        self._journal.entry("data", name=name, digest=digest, root=root, facts=dict(facts))

    def log_artifact(self, file: str | Path, folder: str | None = None) -> None:
        """Attach a file to the run, below `folder` of its artifacts; it is read when it is sent."""
        self._journal.entry("artifact", file=str(Path(file).absolute()), folder=folder)

    def log_checkpoint(self, file: Path, digest: str, store: str) -> None:
        """Attach a checkpoint later, when the store takes it."""
        self._journal.entry("checkpoint", file=str(file), sha256=digest, store=store)

    def close(self, status: str = "FINISHED", wait_seconds: float = 20.0, ended: int = 0) -> None:
        """End the run as FINISHED, FAILED or KILLED and send what is left, for at most `wait_seconds`. ended: see
        `open_run`."""
        self._journal.entry("end", status=status, **({"time": ended} if ended else {}))
        began = time.monotonic()
        if not self._journal.close(wait_seconds):
            logger.warning("%s does not take the last records of this stage", self.folder)
        if self._sender is not None:
            self._sender.close(max(0.0, wait_seconds - (time.monotonic() - began)))


def publish_checkpoint(run: Run, file: str | Path, store: str | None = None) -> tuple[str, str]:
    """Hand a checkpoint to the run's artifacts, below `checkpoints/`; returns (uri, sha256).

    store: see `publishing.place`. Tried three times; when the store still does not take it, the uri is the absolute
    path of `file` itself, which works on every machine that sees the same folder, and the upload is tried again with
    the journal.
    """
    source, digest = Path(file).absolute(), sha256(file)
    for pause in (0.5, 2.0, 0.0) if run.wait_id(ID_SECONDS) else ():
        try:
            uri, tags = place(run.uri, run.run_id, source, digest, store or "")
        except Exception as error:  # HTTP, SQLAlchemy, MLflow and storage errors share no base
            logger.warning("checkpoint %s was not taken (%s)", source, first_line(error))
            time.sleep(pause)
            continue
        run.set_tags(tags)
        return uri, digest
    run.log_checkpoint(source, digest, store or "")
    return str(source), digest


def _tags(tags: Mapping[str, str]) -> dict[str, str]:
    return {name: redact(str(value), name)[:LONGEST_TAG] for name, value in tags.items()}


def _is_open(folder: Path, opening: Mapping[str, Any]) -> bool:
    """Whether the journal's latest opening says the same."""
    with suppress(OSError):
        before = last_opening(folder) or {}
        return all(before.get(name) == value for name, value in opening.items())
    return False

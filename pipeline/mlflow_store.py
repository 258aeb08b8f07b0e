"""The MLflow store: one client a process, the experiment, and which run is whose."""

from __future__ import annotations

import hashlib
import logging
import socket
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipeline.environment import quiet
from pipeline.errors import StorageError
from pipeline.redaction import redact
from pipeline.remote import is_remote, shown

KEY_TAG, ID_TAG = "stage_key", "stage_id"
PARENT_TAG = "mlflow.parentRunId"
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",  # its pages are about training, not chats
    "mlflow.note.content": "SAM 2 training: a run for each recipe run, below it one for each stage",
}
logger = logging.getLogger(__name__)


def prepare_store(uri: str, experiment: str, artifacts: str | Path | None = None) -> str:
    """Make the tracking store and the experiment where they do not exist; returns the experiment's id.

    Only the orchestrator calls this, before jobs start: two processes that make the schema of a database at once
    break it. uri: `sqlite:////absolute/file.db` or `http://host:port`. artifacts: folder or URL of the files of a new
    experiment; by default a server's own, or `artifacts` beside a database file. Raises StorageError when the store
    cannot be used.
    """
    from mlflow.exceptions import MlflowException

    try:
        if uri.startswith("sqlite:///"):
            beside = Path(uri.removeprefix("sqlite:///")).absolute().parent
            beside.mkdir(parents=True, exist_ok=True)
            artifacts = artifacts or beside / "artifacts"
        found = client(uri).get_experiment_by_name(experiment)
        if found is not None:
            return str(found.experiment_id)
        location = None
        if artifacts is not None:
            location = (
                str(artifacts) if is_remote(artifacts) else Path(artifacts).resolve().as_uri()
            )
        return str(
            client(uri).create_experiment(
                experiment, artifact_location=location, tags=EXPERIMENT_TAGS
            )
        )
    except Exception as error:  # SQLAlchemy, HTTP and MLflow errors share no base
        if isinstance(error, MlflowException) and "RESOURCE_ALREADY_EXISTS" in str(error):
            return str(client(uri).get_experiment_by_name(experiment).experiment_id)
        raise StorageError(
            f"the MLflow store {shown(uri)} cannot be used ({first_line(error)}); check tracking.uri"
        ) from None  # the cause may show a password


def identity(key: str, folder: str | Path) -> str:
    """What tells the runs of a store apart: equal work in two folders is two runs."""
    return hashlib.sha256(f"{key}\n{folder}".encode()).hexdigest()


def find_run(uri: str, experiment: str, key: str, folder: str | Path) -> str | None:
    """The id of the run of `experiment` that records the work `key` of `folder`, or None."""
    return run_of(uri, experiment, identity(key, folder))


def run_of(uri: str, experiment: str, stage_id: str) -> str | None:
    """The id of the run with this identity: the first, should two processes have made one at once."""
    found = client(uri).get_experiment_by_name(experiment)
    if found is None:
        return None
    runs = client(uri).search_runs(
        [found.experiment_id], f"tags.{ID_TAG} = '{stage_id}'", order_by=["attributes.start_time"]
    )
    first = min(runs, key=lambda run: (run.info.start_time, run.info.run_id), default=None)
    return str(first.info.run_id) if first is not None else None


def answers(uri: str, seconds: float = 3.0) -> bool:
    """Whether somebody listens at `uri`; a database file always does. Takes at most `seconds`."""
    if not uri.startswith(("http://", "https://")):
        return True
    parts = urlsplit(uri)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with socket.create_connection((parts.hostname or "", port), timeout=seconds) as line:
            if parts.scheme == "https":
                return True
            line.settimeout(seconds)
            line.sendall(f"GET /health HTTP/1.0\r\nHost: {parts.hostname}\r\n\r\n".encode())
            return bool(line.recv(1))
    except OSError:
        return False


def is_missing(uri: str) -> bool:
    """Whether `uri` is a database file that is not there; MLflow makes it when it is asked anything."""
    return uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists()


def first_line(error: BaseException) -> str:
    """The first line of a message, without secrets: database and HTTP errors go on for pages."""
    line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    line = redact(line)
    return line if len(line) <= 200 else f"{line[:199]}…"


@cache
def client(uri: str) -> Any:
    """The MLflow client of a store; made without asking it anything."""
    quiet()
    from mlflow import MlflowClient

    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # it tells of every table

    return MlflowClient(tracking_uri=uri)

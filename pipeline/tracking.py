"""Where runs are recorded: MLflow, without torch and without ever holding training up (law 6).

Metrics go to a spool file in the stage's folder first; a thread sends it on. What could not be sent
stays in the file and is sent by the next writer of the same folder. Checkpoints travel by
reference: `publish_checkpoint` hands a file to the store and names its digest, `fetch_checkpoint`
finds it again and verifies it.

Only rank 0 opens a `Run`; only the orchestrator calls `prepare_store`, because two processes that
make the schema of a database at once break it.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from pipeline.environment import quiet
from pipeline.errors import CheckpointError, StorageError
from pipeline.spool import Spool, first_line
from pipeline.storage import atomic_file, is_remote, open_file, put, sha256

KEY_TAG = "stage_key"
PARENT_TAG = "mlflow.parentRunId"
logger = logging.getLogger(__name__)


def prepare_store(uri: str, experiment: str, artifacts: str | Path | None = None) -> str:
    """Make the tracking store and the experiment where they do not exist; returns the experiment's
    id.

    uri: `sqlite:////absolute/file.db` or `http://host:port`. artifacts: folder or URL of the files
    of new experiments. Raises StorageError when the store cannot be used.
    """
    from mlflow.exceptions import MlflowException

    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # it tells of every table
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    try:
        client = _client(uri)
        found = client.get_experiment_by_name(experiment)
        if found is not None:
            return str(found.experiment_id)
        location = None
        if artifacts is not None:
            location = (
                str(artifacts) if is_remote(artifacts) else Path(artifacts).resolve().as_uri()
            )
        return str(client.create_experiment(experiment, artifact_location=location))
    except Exception as error:  # SQLAlchemy, HTTP and MLflow errors share no base
        if isinstance(error, MlflowException) and "RESOURCE_ALREADY_EXISTS" in str(error):
            return str(_client(uri).get_experiment_by_name(experiment).experiment_id)
        raise StorageError(
            f"the MLflow store {uri} cannot be used ({first_line(error)}); check tracking.uri"
        ) from error


def find_run(uri: str, experiment: str, key: str) -> str | None:
    """The id of the newest run of `experiment` whose stage key is `key`, or None."""
    client = _client(uri)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return None
    runs = client.search_runs([found.experiment_id], f"tags.{KEY_TAG} = '{key}'", max_results=1)
    return str(runs[0].info.run_id) if runs else None


def open_run(
    uri: str,
    experiment: str,
    name: str,
    key: str,
    *,
    folder: str | Path | None = None,
    parent: str | None = None,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
) -> Run:
    """The run of the stage with this key: the one that exists, or a new one.

    folder: where the metric spool lies; without one metrics are sent at once. parent: run id this
    one belongs under. A store that does not answer gives a run without an id, whose metrics stay in
    the spool.
    """
    try:
        client, run_id = _client(uri), find_run(uri, experiment, key)
        if run_id is None:
            found = client.get_experiment_by_name(experiment)
            experiment_id = found.experiment_id if found else prepare_store(uri, experiment)
            all_tags = {KEY_TAG: key, **(tags or {}), **({PARENT_TAG: parent} if parent else {})}
            run_id = str(client.create_run(experiment_id, tags=all_tags, run_name=name).info.run_id)
            for param, value in (params or {}).items():
                client.log_param(run_id, param, str(value)[:6000])
        else:
            client.update_run(run_id, status="RUNNING")
    except Exception as error:
        logger.warning(
            "MLflow at %s does not answer (%s); going on without", uri, first_line(error)
        )
        run_id = ""
    return Run(uri, run_id, folder)


class Run:
    """One MLflow run, for writing. Nothing here raises because of MLflow, except where it says
    so."""

    def __init__(self, uri: str, run_id: str, folder: str | Path | None = None) -> None:
        self.uri, self.run_id = uri, run_id
        self._spool: Spool | None = None
        if folder is not None:
            self._spool = Spool(folder, self._send if run_id else None)

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record scalars at `step`; returns at once."""
        row = {
            "step": step,
            "time": int(time.time() * 1000),
            "values": {name: float(value) for name, value in metrics.items()},
        }
        if self._spool is not None:
            self._spool.add(row)
        elif self.run_id:
            _attempt(lambda: self._send([row]), "metrics")

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Attach words to the run."""
        for name, value in tags.items() if self.run_id else ():
            _attempt(lambda n=name, v=value: _client(self.uri).set_tag(self.run_id, n, v), "a tag")

    def log_dataset(self, name: str, digest: str, root: str, facts: Mapping[str, Any]) -> None:
        """Record what a run reads: among its data sets, and its whole sha256 as the tag
        `data.<name>.sha256`."""
        from mlflow.entities import Dataset, DatasetInput

        self.set_tags({f"data.{name}.sha256": digest, f"data.{name}.root": root})
        if self.run_id:  # MLflow's digests have room for 36 characters
            source = {"uri": root, "sha256": digest}
            dataset = Dataset(
                name, digest[:36], "uri", json.dumps(source), profile=json.dumps(dict(facts))
            )
            inputs = [DatasetInput(dataset)]
            _attempt(lambda: _client(self.uri).log_inputs(self.run_id, inputs), f"data set {name}")

    def log_artifact(self, file: str | Path, folder: str | None = None) -> None:
        """Attach a file to the run, below `folder` of its artifacts."""
        if self.run_id:
            _attempt(
                lambda: _client(self.uri).log_artifact(self.run_id, str(file), folder), f"{file}"
            )

    def close(self, status: str = "FINISHED", wait_seconds: float = 20.0) -> None:
        """Send what is left, for at most `wait_seconds`, and end the run as FINISHED, FAILED or
        KILLED."""
        if self._spool is not None:
            self._spool.close(wait_seconds)
        if self.run_id:
            client = _client(self.uri)
            _attempt(lambda: client.set_terminated(self.run_id, status), "the end of the run")

    def _send(self, rows: list[dict[str, Any]]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(name, value, row["time"], row["step"])
            for row in rows
            for name, value in row["values"].items()
        ]
        for start in range(0, len(metrics), 1000):  # MLflow takes at most 1000 at once
            batch = metrics[start : start + 1000]
            _client(self.uri).log_batch(self.run_id, metrics=batch, synchronous=True)


def publish_checkpoint(run: Run, file: str | Path, name: str) -> tuple[str, str]:
    """Hand a checkpoint to the run's artifacts as `checkpoints/<name>`; returns (uri, sha256).

    Tried three times; when the store still does not take it, the uri is the absolute path of `file`
    itself, which works on every machine that sees the same folder.
    """
    source, digest = Path(file).resolve(), sha256(file)
    for pause in (0.5, 2.0, 0.0) if run.run_id else ():
        try:
            _put_artifact(run, source, name)
        except Exception as error:
            logger.warning("checkpoint %s was not taken by MLflow (%s)", source, first_line(error))
            time.sleep(pause)
            continue
        run.set_tags({f"checkpoint.{name}.sha256": digest})
        return f"runs:/{run.run_id}/checkpoints/{name}", digest
    return str(source), digest


def fetch_checkpoint(uri: str, digest: str, cache: str | Path, tracking_uri: str = "") -> Path:
    """A local file with the checkpoint's content, verified.

    uri: `runs:/<run id>/<path>`, a URL, or a path. digest: its SHA-256; empty takes it on trust
    (weights from outside). cache: folder for what has to be downloaded. Raises CheckpointError when
    it is not there or its digest differs, naming both.
    """
    path = _local_copy(uri, digest, Path(cache), tracking_uri)
    if digest and (found := sha256(path)) != digest:
        raise CheckpointError(
            f"checkpoint {uri} has sha256 {found}, expected {digest}; "
            "it was changed after it was published, run the stage that wrote it again"
        )
    return path


def _local_copy(uri: str, digest: str, cache: Path, tracking_uri: str) -> Path:
    source = _artifact_source(uri, tracking_uri) if uri.startswith("runs:/") else uri
    if source.startswith("file://"):
        source = unquote(urlparse(source).path)
    if not is_remote(source) and not source.startswith("mlflow-artifacts:"):
        path = Path(source).expanduser()
        if not path.is_file():
            raise CheckpointError(f"checkpoint {uri}: there is no file {path}")
        return path
    target = cache / (digest[:16] or "unverified") / Path(urlparse(source).path).name
    if digest and target.is_file() and sha256(target) == digest:
        return target
    if source.startswith("mlflow-artifacts:"):
        return _download(uri, target, tracking_uri)
    with open_file(source) as reader, atomic_file(target) as writer:
        shutil.copyfileobj(reader, writer, length=1 << 22)
    return target


def _artifact_source(uri: str, tracking_uri: str) -> str:
    """Where MLflow keeps `runs:/<id>/<path>`: a file, bucket, or its own proxy."""
    run_id, _, inner = uri.removeprefix("runs:/").partition("/")
    try:
        root = str(_client(tracking_uri).get_run(run_id).info.artifact_uri)
    except Exception as error:
        raise CheckpointError(
            f"checkpoint {uri}: MLflow at {tracking_uri or 'no address'} does not know it "
            f"({first_line(error)})"
        ) from error
    return f"{root.rstrip('/')}/{inner}"


def _download(uri: str, target: Path, tracking_uri: str) -> Path:
    import mlflow.artifacts

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        found = mlflow.artifacts.download_artifacts(
            artifact_uri=uri, dst_path=str(target.parent), tracking_uri=tracking_uri
        )
    except Exception as error:
        raise CheckpointError(
            f"checkpoint {uri} cannot be downloaded ({first_line(error)})"
        ) from error
    return Path(found)


def _put_artifact(run: Run, source: Path, name: str) -> None:
    """Through storage where the artifacts are a folder or bucket (whole files, no proxy), else
    through MLflow."""
    root = str(_client(run.uri).get_run(run.run_id).info.artifact_uri)
    if root.startswith("mlflow-artifacts:"):
        if source.name != name:
            raise StorageError(
                f"a tracking server stores files under their own name: {source.name}, not {name}"
            )
        _client(run.uri).log_artifact(run.run_id, str(source), "checkpoints")
        return
    root = unquote(urlparse(root).path) if root.startswith("file://") else root
    put(source, f"{root.rstrip('/')}/checkpoints/{name}")


def _attempt(call: Any, what: str) -> None:
    try:
        call()
    except Exception as error:
        logger.warning("MLflow did not take %s (%s)", what, first_line(error))


@cache
def _client(uri: str) -> Any:
    quiet()
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)

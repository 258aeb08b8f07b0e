"""Checkpoints by reference and digest: handed to the artifact store whole, found again, verified.

A file goes straight to where the run's artifacts lie (a folder, or a bucket in several parts), not through the
tracking server. Where the server keeps artifacts itself (`mlflow-artifacts:`), `tracking.artifacts` names a store of
our own; without one the server's proxy takes files up to PROXY_BYTES, and a larger one stays where it is. What was
stored is read back, and only then do the run's tags refer to it.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from pipeline.errors import CheckpointError, StorageError
from pipeline.mlflow_store import client, first_line, is_missing
from pipeline.remote import ask, filesystem, shown
from pipeline.storage import (
    atomic_file,
    is_remote,
    local_path,
    open_file,
    put,
    sha256,
    size_text,
)

PROXY_BYTES = 500_000_000
"""Above this, uploads through a tracking server run into its time-outs (reports speak of 800 MB)."""
DIGEST_TAG = "checkpoint.sha256"
"""Of the run that wrote a checkpoint: finds the run of a file."""
logger = logging.getLogger(__name__)


def place(
    uri: str, run_id: str, file: Path, digest: str, store: str = ""
) -> tuple[str, dict[str, str]]:
    """Put `file` among the artifacts of a run, below `checkpoints/`; returns its reference and the tags that
    make the reference known. A file too large for a server's proxy stays where it is, and its path is the reference.

    store: folder or URL that takes checkpoints in place of the run's own artifacts. Raises StorageError when the store
    does not take it or it does not read back as it was; then nothing refers to it.
    """
    name, root = file.name, str(client(uri).get_run(run_id).info.artifact_uri)
    reference, place_tag = f"runs:/{run_id}/checkpoints/{name}", f"checkpoint.{name}.uri"
    tags = {
        f"checkpoint.{name}.sha256": digest,
        f"checkpoint.{name}.bytes": str(file.stat().st_size),
        DIGEST_TAG: digest,
    }
    if store:
        target = f"{store.rstrip('/')}/{run_id}/checkpoints/{name}"
        _put(file, target, digest)
        tags[place_tag] = target
    elif not root.startswith("mlflow-artifacts:"):
        _put(file, f"{root.rstrip('/')}/checkpoints/{name}", digest)
    elif file.stat().st_size > PROXY_BYTES:
        logger.warning(
            "%s has %s, more than the %s that are sent through a tracking server, and stays where it is; "
            "give a store of your own with tracking.artifacts=s3://…",
            file, size_text(file.stat().st_size), size_text(PROXY_BYTES),
        )  # fmt: skip
        reference = tags[place_tag] = str(file)
    else:
        _put_through_proxy(uri, run_id, file, digest)
    return reference, tags


def _put(file: Path, target: str, digest: str) -> None:
    """Copy and read back; an object store shows an object only when all its parts are there."""
    target = target if is_remote(target) else str(local_path(target))
    put(file, target)
    try:
        _verify(target, file.stat().st_size, digest)
    except StorageError:
        store, inner = filesystem(target)
        store.rm_file(inner)
        raise


def _verify(target: str, size: int, digest: str) -> None:
    store, inner = filesystem(target)
    store.invalidate_cache()
    found = ask(target, lambda: int(store.info(inner)["size"]))
    if found != size:
        raise StorageError(f"{shown(target)} has {found} bytes, {size} were sent; try again")
    if (read := sha256(target)) != digest:
        raise StorageError(f"{shown(target)} reads back with sha256 {read}, sent {digest}")


def _put_through_proxy(uri: str, run_id: str, file: Path, digest: str) -> None:
    client(uri).log_artifact(run_id, str(file), "checkpoints")
    folder = file.parent / f".{file.name}.back"
    try:
        back = _download(f"runs:/{run_id}/checkpoints/{file.name}", folder / file.name, uri)
        if (read := sha256(back)) != digest:
            raise StorageError(f"{file.name} reads back from {shown(uri)} with sha256 {read}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def fetch_checkpoint(uri: str, digest: str, cache: str | Path, tracking_uri: str = "") -> Path:
    """A local file with the checkpoint's content, verified.

    uri: `runs:/<run id>/<path>`, a URL, or a path. digest: its SHA-256; empty takes it on trust
    (weights from outside). cache: folder for what has to be downloaded. Raises CheckpointError when
    it is not there or its digest differs, naming both.
    """
    path = _local_copy(uri, digest, Path(cache), tracking_uri)
    if digest and (found := sha256(path)) != digest:
        raise CheckpointError(
            f"checkpoint {shown(uri)} has sha256 {found}, expected {digest}; "
            "it was changed after it was published, run the stage that wrote it again"
        )
    return path


def _local_copy(uri: str, digest: str, cache: Path, tracking_uri: str) -> Path:
    source = artifact_source(uri, tracking_uri) if uri.startswith("runs:/") else uri
    if not is_remote(source) and not source.startswith("mlflow-artifacts:"):
        path = local_path(source)
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


def artifact_source(uri: str, tracking_uri: str) -> str:
    """Where `runs:/<id>/<path>` really lies: a file, a bucket, our own store, or the server's proxy.

    Raises CheckpointError when the store does not know it.
    """
    run_id, _, inner = uri.removeprefix("runs:/").partition("/")
    run = known_run(run_id, tracking_uri, f"checkpoint {uri}")
    named = run.data.tags.get(f"checkpoint.{inner.removeprefix('checkpoints/')}.uri")
    return str(named or f"{str(run.info.artifact_uri).rstrip('/')}/{inner}")


def known_run(run_id: str, tracking_uri: str, what: str) -> Any:
    """The run as MLflow knows it. Raises CheckpointError, about `what`, when it does not."""
    if is_missing(tracking_uri):
        raise CheckpointError(f"{what}: there is no MLflow store {shown(tracking_uri)}")
    try:
        return client(tracking_uri).get_run(run_id)
    except Exception as error:
        raise CheckpointError(
            f"{what}: MLflow at {shown(tracking_uri) or 'no address'} does not know it "
            f"({first_line(error)})"
        ) from None


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
        ) from None
    return Path(found)

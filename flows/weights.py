"""Weights by any name a person gives them, as a file on this machine."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.errors import CheckpointError, ConfigError


def local_weights(words: str, runs: Path) -> Path:
    """A file, or a folder of shards, with the weights of `words`: a path, a URL (`s3://…`), `runs:/…`, or
    `models:/NAME@ALIAS` and `models:/NAME/VERSION` of the registry.

    runs: the folder whose MLflow store is asked, and whose cache is used. Raises CheckpointError where there are none,
    ConfigError for a name of the registry that is not written so, StorageError when the store does not answer.
    """
    from pipeline.tracking import fetch_checkpoint

    if Path(words).expanduser().is_dir():
        return Path(words).expanduser().resolve()
    runs, digest = runs.expanduser().absolute(), ""
    uri = f"sqlite:///{runs / 'mlflow.db'}"
    if words.startswith("models:/"):
        words, digest = _registered(words, uri)
    return fetch_checkpoint(words, digest, runs / "cache", uri).resolve()


def _registered(words: str, uri: str) -> tuple[str, str]:
    """Reference and digest of a version of the registry."""
    from pipeline.registry import version_at, version_numbered

    found = re.fullmatch(r"models:/([^/@]+)(?:@(.+)|/(\d+))", words)
    if not found:
        raise ConfigError(f"{words}: expected models:/NAME@ALIAS or models:/NAME/VERSION")
    model, alias, number = found.groups()
    version = version_at(uri, model, alias) if alias else version_numbered(uri, model, int(number))
    if version is None:
        raise CheckpointError(
            f"{words}: the MLflow store of the runs folder has no such version; --runs names another"
        )
    return version.source, version.sha256

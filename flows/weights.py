"""Weights by any name a person gives them, as a file on this machine."""

from __future__ import annotations

from pathlib import Path

from flows.home import tracking_store


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
    uri = tracking_store(runs)
    if words.startswith("models:/"):
        from pipeline.registry import version_named

        version = version_named(uri, words)
        words, digest = version.source, version.sha256
    return fetch_checkpoint(words, digest, runs / "cache", uri).resolve()

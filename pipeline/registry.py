"""Checkpoints as versions of a registered model in MLflow, and the aliases that point at some of them.

A version is one content of one run: registering it again returns the version there is. What MLflow cannot say about
a version stands in its tags: `sha256` and `uri`, the reference that `fetch_checkpoint` opens. Loads no torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import CheckpointError, ConfigError, StorageError
from pipeline.mlflow_store import client, first_line, is_missing
from pipeline.redaction import redact
from pipeline.remote import is_remote, shown

NOT_THERE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""How stores answer a question about a model, version or alias they do not have."""


@dataclass(frozen=True)
class Version:
    """One registered checkpoint."""

    model: str
    version: int
    source: str
    """Its reference: `runs:/…`, a URL or a path."""
    sha256: str
    run_id: str
    """The MLflow run that wrote it; empty when that is not known."""
    tags: Mapping[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """As it is written: `models:/sam2-tiny/3`."""
        return f"models:/{self.model}/{self.version}"


def register(
    uri: str,
    model: str,
    source: str,
    *,
    sha256: str,
    run_id: str,
    tags: Mapping[str, str],
    description: str = "",
) -> int:
    """Make the checkpoint a version of `model`, or find the version it is; its number.

    source: the checkpoint's reference. tags: put on the version, also on one that was there. description: of a new
    one, for a person. Raises StorageError.
    """
    words = {name: redact(value, name) for name, value in tags.items()}
    words |= {"sha256": sha256, "uri": redact(source)}
    try:
        there = _registered(uri, model, sha256, run_id)
        if there is not None:
            for name, value in words.items():
                if there.tags.get(name) != value:
                    client(uri).set_model_version_tag(model, str(there.version), name, value)
            return there.version
        made = client(uri).create_model_version(
            model,
            _place(source, run_id),
            run_id=run_id or None,
            tags=words,
            description=description or None,
            await_creation_for=None,
        )
        return int(made.version)
    except Exception as error:  # SQLAlchemy, HTTP and MLflow errors share no base
        raise StorageError(
            f"{model} at {shown(uri)}: the checkpoint {shown(source)} could not be registered "
            f"({first_line(error)}); run again to try again"
        ) from None


def move_alias(uri: str, model: str, alias: str, version: int) -> None:
    """Let `alias` point at `version`, and nowhere else. Raises StorageError."""
    try:
        client(uri).set_registered_model_alias(model, alias, str(version))
    except Exception as error:
        raise StorageError(
            f"{model} at {shown(uri)}: the alias {alias} could not be moved to version {version} "
            f"({first_line(error)})"
        ) from None


def version_at(uri: str, model: str, alias: str) -> Version | None:
    """The version an alias points at, or None. Raises StorageError when the store does not answer."""
    return _asked(uri, model, lambda: client(uri).get_model_version_by_alias(model, alias))


def version_numbered(uri: str, model: str, version: int) -> Version | None:
    """A version by its number, or None. Raises StorageError when the store does not answer."""
    return _asked(uri, model, lambda: client(uri).get_model_version(model, str(version)))


def version_named(uri: str, words: str) -> Version:
    """The version that `models:/NAME@ALIAS` or `models:/NAME/VERSION` names. Raises ConfigError for words that are
    neither, CheckpointError when there is none, StorageError when the store does not answer."""
    found = re.fullmatch(r"models:/([^/@]+)(?:@(.+)|/(\d+))", words)
    if not found:
        raise ConfigError(f"{words}: expected models:/NAME@ALIAS or models:/NAME/VERSION")
    if is_missing(uri):
        raise StorageError(
            f"{words}: there is no MLflow store {shown(uri)}; name another with --runs"
        )
    model, alias, number = found.groups()
    version = version_at(uri, model, alias) if alias else version_numbered(uri, model, int(number))
    if version is None:
        what = "alias" if alias else "version"
        raise CheckpointError(
            f"{words}: the MLflow store {shown(uri)} has no such {what} of {model}; "
            "give the runs folder it belongs to with --runs"
        )
    return version


def version_of(uri: str, model: str, sha256: str, run_id: str = "") -> Version | None:
    """The version with this content, of this run where one is given, or None. Raises StorageError."""
    try:
        return _registered(uri, model, sha256, run_id, make=False)
    except Exception as error:
        raise StorageError(
            f"{model} at {shown(uri)} cannot be read ({first_line(error)})"
        ) from None


def tag_version(uri: str, version: Version, tags: Mapping[str, str]) -> None:
    """Put words on a version. Raises StorageError."""
    try:
        for name, value in tags.items():
            client(uri).set_model_version_tag(
                version.model, str(version.version), name, redact(value, name)
            )
    except Exception as error:
        raise StorageError(f"{version.name} could not be tagged ({first_line(error)})") from None


def _registered(
    uri: str, model: str, sha256: str, run_id: str, make: bool = True
) -> Version | None:
    """The version with this content. make: also make the model, where there is none."""
    if make:
        _make_model(uri, model)
    found = client(uri).search_model_versions(f"name = '{model}' and tags.sha256 = '{sha256}'")
    same = [item for item in found if not (run_id and item.run_id) or item.run_id == run_id]
    return _version(min(same, key=lambda item: int(item.version))) if same else None


def _make_model(uri: str, model: str) -> None:
    try:
        client(uri).create_registered_model(
            model, description="SAM 2 checkpoints; `uri` and `sha256` say where and what they are."
        )
    except Exception as error:
        if getattr(error, "error_code", "") != "RESOURCE_ALREADY_EXISTS":
            raise


def _place(source: str, run_id: str) -> str:
    """The reference as MLflow wants a source to be written. A server takes no path of a client's disk; a checkpoint
    that still lies there is sent to this place of its run with the journal."""
    if source.startswith("runs:/") or is_remote(source):
        return source
    path = Path(source).absolute()
    return f"runs:/{run_id}/checkpoints/{path.name}" if run_id else path.as_uri()


def _asked(uri: str, model: str, ask: Any) -> Version | None:
    try:
        return _version(ask())
    except Exception as error:
        if getattr(error, "error_code", "") in NOT_THERE:
            return None
        raise StorageError(
            f"{model} at {shown(uri)} cannot be read ({first_line(error)})"
        ) from None


def _version(found: Any) -> Version:
    tags = dict(found.tags)
    return Version(
        model=found.name,
        version=int(found.version),
        source=tags.get("uri", found.source),
        sha256=tags.get("sha256", ""),
        run_id=found.run_id or "",
        tags=tags,
        aliases=tuple(found.aliases or ()),
    )

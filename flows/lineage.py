"""`lineage`: from a checkpoint back to the stages, weights and data it came from.

A checkpoint is known by its content, so any copy of it will do; a stage is known by what it recorded.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

from flows.home import tracking_store
from flows.records import FolderRecords, MlflowRecords, Records, StageRecord, folder_record
from flows.registry import METRICS
from flows.sync import store_of
from pipeline.errors import CheckpointError, ConfigError
from pipeline.mlflow_store import KEY_TAG, answers, is_missing
from pipeline.registry import Version, version_named
from pipeline.remote import is_remote, shown
from pipeline.replay import allowed_name
from pipeline.storage import sha256
from stages.contract import TRAINING_KINDS, done_stages, read_result, read_spec

KNOWN = "expected models:/NAME@ALIAS, models:/NAME/VERSION, runs:/ID[/checkpoints/FILE], a file, or a run folder"
SHOWN_FIGURES = ("loss", "steps")
PLAIN_WIDTH = 240
LINES = (
    ("aliases", "stage", "reload"),
    ("sha256", *METRICS, "origin"),
    ("uri", "root"),
    ("key", "run", *SHOWN_FIGURES),
    ("code", "torch", "machine"),
)
"""Which facts stand together in a terminal."""


@dataclass(frozen=True)
class Origin:
    """One thing in the tree, and what it was made from."""

    kind: Literal["version", "checkpoint", "stage", "data"]
    name: str
    facts: Mapping[str, str] = field(default_factory=dict)
    made_from: Sequence[Origin] = ()


def lineage(arguments: argparse.Namespace) -> int:
    """`lineage`: print the tree, or JSON."""
    runs = arguments.runs.expanduser().absolute()
    uri = arguments.tracking or tracking_store(runs)
    origin = trace(arguments.reference, uri)
    if arguments.json:
        print(json.dumps(asdict(origin), indent=2))
    else:
        console = Console(highlight=False)
        if not console.is_terminal:
            console.width = PLAIN_WIDTH
        console.print(drawn(origin), soft_wrap=True)
    return 0


def trace(reference: str, uri: str) -> Origin:
    """The tree of `reference`, in the store at `uri` or, for a folder, the one it was recorded in.

    Raises ConfigError for words that name nothing, CheckpointError for something nothing is known of, StorageError
    when the store does not answer.
    """
    if reference.startswith("models:/"):
        version = version_named(uri, reference)
        made_from = _Tracer([MlflowRecords(uri)]).checkpoint(
            version.sha256, version.source, version.run_id
        )
        return Origin("version", version.name, _version_facts(version), [made_from])
    if reference.startswith("runs:/"):
        return _of_run(reference, MlflowRecords(uri))
    path = Path(reference).expanduser()
    if path.is_dir():
        return _of_folder(path.resolve(), uri)
    if not path.is_file() and not is_remote(reference):
        raise ConfigError(f"{reference}: there is no such file or folder; {KNOWN}")
    digest = sha256(reference if is_remote(reference) else path)
    places = _places(path.resolve().parent.parent, uri)
    origin = _Tracer(places).checkpoint(digest, shown(reference), "")
    if not origin.made_from:
        silent = "" if len(places) > 1 else ", which is not there or does not answer,"
        raise CheckpointError(
            f"{reference} (sha256 {digest}): no run on record at {shown(uri)}{silent} wrote this file; "
            "give another store with --tracking"
        )
    return origin


def _version_facts(version: Version) -> dict[str, str]:
    facts = {"aliases": ", ".join(version.aliases)}
    facts |= {name: version.tags.get(name, "") for name in ("stage", "run", "reload")}
    return {name: value for name, value in facts.items() if value}


def _of_run(reference: str, records: MlflowRecords) -> Origin:
    run_id, _, inner = reference.removeprefix("runs:/").partition("/")
    record = records.run(run_id)
    if record is None:
        raise CheckpointError(
            f"{reference}: {shown(records.uri)} has no run {run_id}; "
            "give another store with --tracking"
        )
    name = inner.removeprefix("checkpoints/")
    if not name:
        return _Tracer([records]).stage(record)
    digest = record.tags.get(f"checkpoint.{name}.sha256")
    if digest is None:
        known = [tag[11:-7] for tag in record.tags if re.fullmatch(r"checkpoint\..+\.sha256", tag)]
        raise CheckpointError(
            f"{reference}: run {run_id} published no such checkpoint; "
            f"it published {', '.join(known) or 'none'}"
        )
    return _Tracer([records]).checkpoint(digest, reference, run_id)


def _of_folder(folder: Path, uri: str) -> Origin:
    """Of a stage's folder, or of the last training stage of a run's."""
    if not (folder / "spec.json").is_file():
        done = [path for path in done_stages(folder) if _trained(path)]
        if not done:
            raise CheckpointError(f"{folder}: no training stage is done in it; {KNOWN}")
        folder = done[-1]
    result = read_result(folder)
    places = _places(folder.parent, store_of(folder.parent) or uri)
    if result is None or result.checkpoint is None:
        return _Tracer(places).stage(folder_record(folder))
    given = result.checkpoint
    return _Tracer(places).checkpoint(given.sha256, given.uri, given.run_id)


def _places(run: Path, uri: str) -> list[Records]:
    """Where to look: the folder of the run, and the store where there is one that answers."""
    folders: list[Records] = [FolderRecords(run)]
    return folders if is_missing(uri) or not answers(uri) else [*folders, MlflowRecords(uri)]


def _trained(folder: Path) -> bool:
    return read_spec(folder / "spec.json").kind in TRAINING_KINDS


class _Tracer:
    """Follows digests from record to record, asking several places in turn."""

    def __init__(self, places: Sequence[Records]) -> None:
        self.places, self.seen = places, set[str]()

    def checkpoint(self, digest: str, place: str, run_id: str) -> Origin:
        """Weights and the stage that wrote them; nothing behind weights from outside."""
        record = self._writer(digest, run_id)
        name = place.rsplit("/", 1)[-1] or "weights"
        facts = {"sha256": digest, "uri": place, **self._worth(digest)}
        if record is None:
            return Origin("checkpoint", name, {**facts, "origin": "from outside"})
        if digest in self.seen:  # a stage that changed nothing wrote what it read
            return Origin("checkpoint", name, facts)
        self.seen.add(digest)
        return Origin("checkpoint", name, facts, [self.stage(record)])

    def stage(self, record: StageRecord) -> Origin:
        """A stage, the weights it began with and the data it read."""
        tags = record.tags
        made_from = [
            Origin("data", name, {"sha256": digest, "root": root})
            for name, (digest, root) in record.data.items()
        ]
        if "input.sha256" in tags:
            made_from.append(self.checkpoint(tags["input.sha256"], tags.get("input.uri", ""), ""))
        return Origin(
            "stage", record.name or tags.get("mlflow.runName", ""), _facts(record), made_from
        )

    def _writer(self, digest: str, run_id: str) -> StageRecord | None:
        answers_ = (place.writer(digest, run_id) for place in self.places)
        return next((record for record in answers_ if record is not None), None)

    def _worth(self, digest: str) -> dict[str, str]:
        """The headline figures of its evaluation, with their protocols."""
        for place in self.places:
            for record in place.evaluations(digest):
                found = {
                    name: value
                    for name in METRICS
                    if (value := _worth_of(record, name)) is not None
                }
                if found:
                    return found
        return {}


def _worth_of(record: StageRecord, name: str) -> str | None:
    value = record.metrics.get(name, record.metrics.get(allowed_name(name)))
    if value is None:
        return None
    protocol = record.tags.get(f"{name.split('/')[0]}.protocol", "")
    return f"{value:.4g}" + (f" ({protocol})" if protocol else "")


def _facts(record: StageRecord) -> dict[str, str]:
    tags = record.tags
    dirty = " with changes" if tags.get("code.dirty") == "true" else ""
    facts = {
        "kind": tags.get("kind", ""),
        "key": tags.get(KEY_TAG, ""),
        "run": record.run_id,
        "code": " ".join(filter(None, (tags.get("code.version"), tags.get("code.commit", "")[:12])))
        + dirty,
        "machine": tags.get("env.machine", ""),
        "torch": tags.get("env.torch", ""),
        "folder": tags.get("folder", ""),
    }
    facts |= {
        name: f"{record.metrics[name]:.4g}" for name in SHOWN_FIGURES if name in record.metrics
    }
    return {name: value for name, value in facts.items() if value}


def drawn(origin: Origin, tree: Tree | None = None) -> Tree:
    """The tree for a terminal: what it is and how it is called, and below that what else is known, digests short."""
    colour = {"version": "magenta", "checkpoint": "green", "stage": "cyan", "data": "yellow"}
    head = f"[{colour[origin.kind]}]{origin.kind}[/] [bold]{escape(origin.name)}[/]"
    lines = [
        "  ".join(f"[dim]{name}[/] {escape(_short(name, origin.facts[name]))}" for name in names)
        for group in LINES
        if (names := [name for name in group if name in origin.facts])
    ]
    label = "\n".join([head, *(f"  {line}" for line in lines)])
    branch = Tree(label) if tree is None else tree.add(label)
    for source in origin.made_from:
        drawn(source, branch)
    return branch


def _short(name: str, value: str) -> str:
    """Digests as git shows them; figures without their protocol, which JSON has."""
    if name in METRICS:
        return value.partition(" ")[0]
    return value[:12] if name in ("sha256", "key") else value

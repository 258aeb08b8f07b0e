"""The list of a run's checkpoints: what there is, whether it is intact, and what is kept.

`manifest.json` lists every file of every checkpoint with its SHA-256, and carries a digest of its
own; `manifest.copy.json` stands in where it is damaged. What is not listed, or does not match its
digest, does not count.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from pipeline.errors import CheckpointError
from pipeline.storage import FileRecord, sha256, write_json

FORMAT = 2
MANIFEST, COPY = "manifest.json", "manifest.copy.json"
BEGUN = (".step-*.part", ".manifest*.part", ".fetched-*.part")
"""What a process that was killed may leave."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """One checkpoint."""

    name: str
    """Of its file, `step-00001000.pt`, or of its folder, `step-00001000`."""
    step: int
    files: dict[str, FileRecord]
    """By path relative to the folder of all checkpoints."""
    finite: bool | None = True
    """Nothing else is written; None by a version that did not look."""
    score: float | None = None
    """What validation found for just these weights, larger being better; None where none did."""
    world: int = 1
    """Ranks that trained."""
    time: float = field(default_factory=time.time)
    """When it was complete, seconds since 1970."""

    @property
    def bytes(self) -> int:
        """Of all its files."""
        return sum(record.bytes for record in self.files.values())


@dataclass(frozen=True)
class Keep:
    """Which checkpoints stay; the newest always does."""

    last: int = 2
    every: int = 0
    """Those of each multiple of so many steps, for good; 0 none."""
    best: bool = False
    """The one of the best score."""
    needed: tuple[int, ...] = ()
    """The newest at or before each of these steps, which training may have to go back to."""

    def chosen(self, entries: Sequence[Entry]) -> list[Entry]:
        """Those of `entries` that stay, oldest first."""
        entries = sorted(entries, key=lambda entry: entry.step)
        scored = [entry for entry in entries if entry.score is not None]
        best = max(scored, key=lambda entry: entry.score or 0.0, default=None)
        needed = {
            max((e.step for e in entries if e.step <= step), default=-1) for step in self.needed
        }
        return [
            entry
            for index, entry in enumerate(entries)
            if index >= len(entries) - max(self.last, 1)
            or (self.every and entry.step % self.every == 0)
            or (self.best and entry is best)
            or entry.step in needed
        ]


def listed(folder: str | Path) -> list[Entry]:
    """The checkpoints of `folder`, oldest first; none where nothing was ever saved.

    A damaged manifest is replaced by its copy, with a warning. Raises CheckpointError when both are
    damaged, or gone although there are checkpoints.
    """
    folder, problems = Path(folder), []
    for name in (MANIFEST, COPY):
        try:
            found = parse(folder.joinpath(name).read_bytes())
        except FileNotFoundError:
            problems.append(f"{folder / name} is missing")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            problems.append(f"{folder / name} is damaged ({error})")
        else:
            if problems:
                logger.warning("%s; %s is used in its place", problems[0], name)
            return found
    if all(problem.endswith("missing") for problem in problems) and not any(_saved(folder)):
        return []
    raise CheckpointError(
        f"{'; '.join(problems)}: which checkpoints are intact cannot be told. "
        "Delete the folder to start this stage over"
    )


def parse(content: bytes) -> list[Entry]:
    """The checkpoints in a manifest, oldest first. Raises ValueError where it is not as written."""
    values = json.loads(content)
    rows = values["checkpoints"]
    if values["format"] == 1:
        return [
            Entry(
                name=row["file"],
                step=row["step"],
                files={row["file"]: FileRecord(row["sha256"], row["bytes"])},
                finite=None,
                time=0.0,
            )
            for row in rows
        ]
    if values["format"] != FORMAT:
        raise ValueError(f"format {values['format']!r}, expected {FORMAT}")
    if (found := _digest(rows)) != values["sha256"]:
        raise ValueError(f"found sha256 {found} of its list, expected {values['sha256']}")
    return [
        Entry(**{**row, "files": {name: FileRecord(**file) for name, file in row["files"].items()}})
        for row in rows
    ]


def as_manifest(entries: Sequence[Entry]) -> dict[str, Any]:
    """What `parse` reads."""
    rows = [asdict(entry) for entry in entries]
    return {"format": FORMAT, "checkpoints": rows, "sha256": _digest(rows)}


def damage(folder: str | Path, entry: Entry) -> str:
    """What is wrong with a checkpoint: `FILE: found …, expected …`; empty where it is intact."""
    for name, record in entry.files.items():
        path = Path(folder) / name
        found = f"sha256 {sha256(path)}" if path.is_file() else "no file"
        if found != f"sha256 {record.sha256}":
            return f"{path}: found {found}, expected sha256 {record.sha256}"
    return ""


def begin(folder: Path) -> None:
    """Let there be a list before there is a checkpoint, so that a missing one is noticed."""
    folder.mkdir(parents=True, exist_ok=True)
    if (
        not (folder / MANIFEST).exists()
        and not (folder / COPY).exists()
        and not any(_saved(folder))
    ):
        _write(folder, [])


def free_name(folder: Path, step: int, suffix: str = "") -> str:
    """What a checkpoint of `step` can be called without touching another one, such as that of the
    same step from before a restart."""
    names = (f"step-{step:08d}{f'-{number}' if number else ''}{suffix}" for number in count())
    return next(name for name in names if not (folder / name).exists())


def add(folder: Path, entry: Entry, keep: Keep) -> None:
    """List a checkpoint that is in place; then delete what is no longer kept, and what was begun
    and never listed.

    Later steps than its own belong to a past that was given up: it goes on from an earlier one.
    """
    earlier = [old for old in listed(folder) if old.step < entry.step]
    entries = keep.chosen([*earlier, entry])
    _write(folder, entries)
    names = {item.name for item in entries}
    for path in [*_saved(folder), *(path for glob in BEGUN for path in folder.glob(glob))]:
        if path.name not in names:
            _delete(path)


def _write(folder: Path, entries: Sequence[Entry]) -> None:
    for name in (MANIFEST, COPY):
        write_json(folder / name, as_manifest(entries))


def _saved(folder: Path) -> Iterator[Path]:
    yield from folder.glob("step-*")


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _digest(rows: Sequence[dict[str, Any]]) -> str:
    text = json.dumps(rows, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()

"""Answers of items that are finished, so that an evaluation that was interrupted goes on where it was.

They lie below the stage's folder under the key of its work, a file an item, and are removed when the stage is
through. Loads no torch.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.private import make_private, read_pickle, write_pickle
from pipeline.progress import ProgressWriter
from pipeline.storage import read_json, write_json

KEPT, COUNT = ".kept", "count.json"


@dataclass(frozen=True)
class Kept:
    """The answers of one measurement."""

    stage: Path
    """The folder of the stage."""
    key: str
    """Of the stage's work; answers of another do not count."""
    name: str
    """Of the measurement, unique within the stage."""

    @property
    def folder(self) -> Path:
        """Where the answers lie."""
        return self.stage / KEPT / self.key[:32] / self.name

    def answers(self, indices: Iterable[int]) -> dict[int, Any]:
        """What is there of these items. Raises StorageError where others may have written it."""
        found = {index: read_pickle(self._file(index)) for index in indices}
        return {index: answer for index, answer in found.items() if answer is not None}

    def begin(self, count: int, unit: str) -> ProgressWriter:
        """Note how many items there are; what tells the progress of all measurements so far."""
        write_json(make_private(self.folder) / COUNT, {"count": count, "unit": unit})
        done = sum(1 for _ in self.folder.parent.glob("*/*.pkl"))
        others = done - sum(1 for _ in self.folder.glob("*.pkl"))
        return ProgressWriter(self.stage, others + count, unit="item", start=done)

    def keep(self, index: int, answer: object) -> None:
        """Keep the answer of an item; None is none."""
        make_private(self.folder)
        write_pickle(self._file(index), answer, sync=False)

    def _file(self, index: int) -> Path:
        return self.folder / f"{index}.pkl"


def done_before(stage: Path, key: str) -> Iterator[str]:
    """A line for every measurement that was begun: `videos: 12 of 30 videos done before`."""
    for note in sorted((stage / KEPT / key[:32]).glob(f"*/{COUNT}")):
        done, of = len(list(note.parent.glob("*.pkl"))), read_json(note)
        if done and of:
            name = note.parent.name.removeprefix("more.")
            yield f"{name}: {done} of {of['count']} {of['unit']}s done before"


def forget(stage: Path) -> None:
    """Remove all answers: the stage is through."""
    shutil.rmtree(stage / KEPT, ignore_errors=True)

"""Samples that could not be read in training: named, counted and, when there are too many, the end
of the run.

Nothing is decided by what was broken before: an item is tried again whenever its turn comes, so
that a sample stays a function of its place alone.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import DataError

log = logging.getLogger(__name__)


class Broken(NamedTuple):
    """One item of a data set, and what is wrong with it."""

    dataset: str
    name: str
    reason: str


class Quarantine:
    """What is broken so far, on all ranks.

    With a folder every rank keeps a file of JSON lines there, `rank-N.jsonl`, and counts what is in
    all of them; a restart continues them.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        max_broken: float,
        folder: Path | None = None,
        rank: int = 0,
    ) -> None:
        """sizes: items of each data set, of which the share `max_broken` may be broken."""
        self.sizes = dict(sizes)
        self.max_broken = max_broken
        self.folder = folder
        self._rank = rank
        self._seen: dict[tuple[str, str], str] = {}

    def note(self, step: int, broken: Iterable[Broken]) -> None:
        """Record what was found broken while the batch of `step` was made.

        Raises DataError when that makes more than `max_broken` of a data set.
        """
        for item in broken:
            key = (item.dataset, item.name)
            if key in self._seen:
                continue
            self._seen[key] = item.reason
            log.warning("%s: %s is left out: %s", *item)
            if self.folder is not None:
                self.folder.mkdir(parents=True, exist_ok=True)
                line = json.dumps({"step": step, **item._asdict()}, ensure_ascii=False)
                with (self.folder / f"rank-{self._rank}.jsonl").open("a", encoding="utf-8") as file:
                    file.write(line + "\n")
            self._check(item)

    def count(self) -> int:
        """How many items are broken on all ranks."""
        return len(self.found())

    def found(self) -> dict[tuple[str, str], str]:
        """(data set, item) -> what is wrong with it, on all ranks."""
        if self.folder is not None:
            for path in sorted(self.folder.glob("rank-*.jsonl")):
                for line in path.read_text(encoding="utf-8").splitlines():
                    try:
                        item = json.loads(line)
                    except json.JSONDecodeError:
                        continue  # another rank is writing it
                    self._seen.setdefault((item["dataset"], item["name"]), item["reason"])
        return self._seen

    def _check(self, last: Broken) -> None:
        total = self.sizes[last.dataset]
        count = sum(dataset == last.dataset for dataset, _ in self.found())
        if count > self.max_broken * total:
            advice = (
                f"; all are named in {self.folder}: mend them and delete it" if self.folder else ""
            )
            raise DataError(
                f"{last.dataset}: {count} of {total} samples are broken, more than "
                f"mixture.max_broken={self.max_broken:g} allows; the last: {last.reason}{advice}"
            )

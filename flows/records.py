"""What is on record about stages, asked of MLflow or of run folders: who wrote these weights, and how good are they?

Both answer from the same words: the tags of a stage's MLflow run are those in its folder's journal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeline.errors import StorageError
from pipeline.journal import RECORD, read_lines
from pipeline.mlflow_store import KEY_TAG, client, first_line, is_missing
from pipeline.publishing import DIGEST_TAG
from pipeline.remote import shown
from pipeline.storage import read_json

INPUT_TAG = "input.sha256"


@dataclass(frozen=True)
class StageRecord:
    """One stage, as it was recorded."""

    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    """The last value of each."""
    run_id: str = ""
    """In MLflow; empty when only its folder is known."""

    @property
    def name(self) -> str:
        """The stage's."""
        return self.tags.get("stage", "")

    @property
    def wrote(self) -> str:
        """SHA-256 of the checkpoint it published, or empty."""
        return self.tags.get(DIGEST_TAG, "")

    @property
    def data(self) -> dict[str, tuple[str, str]]:
        """(sha256, root) of each data set it read, by name."""
        names = [
            tag[5:-7] for tag in self.tags if tag.startswith("data.") and tag[-7:] == ".sha256"
        ]
        return {
            name: (self.tags[f"data.{name}.sha256"], self.tags.get(f"data.{name}.root", ""))
            for name in names
        }


class Records(Protocol):
    """Somewhere to look stages up."""

    def writer(self, sha256: str, run_id: str = "") -> StageRecord | None:
        """The stage that wrote these weights; that of `run_id` where several wrote the same."""

    def evaluations(self, sha256: str) -> list[StageRecord]:
        """The evaluations of these weights, the newest first."""


class MlflowRecords:
    """What an MLflow store knows, over all its experiments. Raises StorageError when it does not answer."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def writer(self, sha256: str, run_id: str = "") -> StageRecord | None:
        """The first that wrote them: what came later wrote the same again."""
        found = self._search(f"tags.`{DIGEST_TAG}` = '{sha256}'")
        same = [record for record in found if record.run_id == run_id] or found[-1:]
        return same[0] if same else None

    def evaluations(self, sha256: str) -> list[StageRecord]:
        """See `Records`."""
        return self._search(f"tags.`{INPUT_TAG}` = '{sha256}' and tags.kind = 'evaluate'")

    def run(self, run_id: str) -> StageRecord | None:
        """One run, or None."""
        self._require()
        try:
            return _record(client(self.uri).get_run(run_id))
        except Exception as error:
            if getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise self._silent(error) from None

    def _search(self, words: str) -> list[StageRecord]:
        """Newest first."""
        self._require()
        try:
            experiments = [found.experiment_id for found in client(self.uri).search_experiments()]
            return [_record(run) for run in client(self.uri).search_runs(experiments, words)]
        except Exception as error:  # SQLAlchemy, HTTP and MLflow errors share no base
            raise self._silent(error) from None

    def _require(self) -> None:
        if is_missing(self.uri):
            raise StorageError(
                f"there is no MLflow store {shown(self.uri)}; give another with --tracking"
            )

    def _silent(self, error: Exception) -> StorageError:
        return StorageError(
            f"the MLflow store {shown(self.uri)} cannot be read ({first_line(error)}); "
            "give another with --tracking"
        )


class FolderRecords:
    """What the stage folders of one run say; needs no store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def writer(self, sha256: str, run_id: str = "") -> StageRecord | None:
        """See `Records`."""
        return next((record for record in self._all() if record.wrote == sha256), None)

    def evaluations(self, sha256: str) -> list[StageRecord]:
        """See `Records`."""
        return [
            record
            for record in self._all()
            if record.tags.get(INPUT_TAG) == sha256 and record.tags.get("kind") == "evaluate"
        ]

    def _all(self) -> Iterator[StageRecord]:
        for journal in sorted(self.folder.glob(f"*/{RECORD}")):
            yield folder_record(journal.parent)


def folder_record(folder: Path) -> StageRecord:
    """What one stage folder says of itself."""
    tags: dict[str, str] = {}
    for entry in read_lines(folder / RECORD):
        if entry["kind"] == "open":
            tags = {**entry["tags"], KEY_TAG: entry["key"]}
        elif entry["kind"] == "tags":
            tags |= entry["values"]
        elif entry["kind"] == "checkpoint":
            file = entry["file"]
            tags |= {DIGEST_TAG: entry["sha256"], f"checkpoint.{Path(file).name}.uri": file}
    done = read_json(folder / "done.json") or {}
    return StageRecord(tags, done.get("metrics", {}), done.get("run_id", ""))


def _record(run: Any) -> StageRecord:
    return StageRecord(dict(run.data.tags), dict(run.data.metrics), str(run.info.run_id))

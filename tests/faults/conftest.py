"""Jobs that are forked from a warm process, run until they are done, and looked at afterwards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import checkpoint
from pipeline import launch as launching
from pipeline.errors import PipelineError
from pipeline.launch import launch
from pipeline.plain_files import read_plain
from pipeline.settings import LaunchConfig
from pipeline.staging import all_finite
from pipeline.stop import StopRequested
from tests.faults import work
from tests.zygote import Zygote, forked_jobs

LIVES = 4
"""Launches a run may need, at most."""


@dataclass
class Run:
    """One toy stage: its folder, what it is asked for, and what became of it."""

    folder: Path
    given: dict[str, Any]
    tasks: int = 2
    ends: list[Exception] = field(default_factory=list)
    """How the launches ended that did not end well."""
    result: dict[str, Any] = field(default_factory=dict)

    def launch(self, on_poll: Any = None) -> bool:
        """Start or continue it; whether it came to its end."""
        config = LaunchConfig(threads=1, poll_seconds=0.02, tasks_per_node=self.tasks)
        try:
            self.result = launch(
                work.train, self.given, self.folder, config, name="toy", on_poll=on_poll
            )
        except (PipelineError, StopRequested) as error:
            self.ends.append(error)
            return False
        return True

    def to_its_end(self) -> None:
        """Launch it again and again, looking at the checkpoints in between."""
        while not self.launch():
            self.check_checkpoints()
            assert len(self.ends) < LIVES, self.ends
        self.check_checkpoints()

    def check_checkpoints(self) -> None:
        """The newest one that counts is whole and finite."""
        found = checkpoint.latest_valid(self.folder / "checkpoints")
        assert found is None or all_finite(read_plain(found)["model"])

    def check_leftovers(self) -> None:
        """Nothing temporary lies about."""
        assert [str(path) for path in self.folder.rglob("*.part")] == []

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """What it has handed over."""
        found = torch.load(self.given["store"], weights_only=True)
        assert all_finite(found)
        return found  # type: ignore[no-any-return]

    @property
    def records(self) -> list[dict[str, Any]]:
        """The steps that were left out."""
        path = self.folder / "checkpoints" / "skipped.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]


def same(left: Run, right: Run) -> bool:
    """Whether both have handed over the same weights, to the bit."""
    pairs = zip(left.weights.values(), right.weights.values(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


@pytest.fixture(autouse=True)
def forked(zygote: Zygote, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Jobs start at once, and nobody waits long for ranks that have lost another."""
    monkeypatch.setattr(launching, "LOST_RANK_SECONDS", 3.0)
    with forked_jobs(zygote):
        yield


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """start(*faults, name=…, **given): a run that meets the faults, not yet launched."""

    def make(*faults: dict[str, Any], name: str = "run", tasks: int = 2, **given: Any) -> Run:
        place = tmp_path / name
        place.mkdir()
        for number, fault in enumerate(faults):
            fault.setdefault("mark", str(place / f"fault-{number}"))
        (place / "plan.json").write_text(json.dumps(faults))
        monkeypatch.setenv("FAULT_PLAN", str(place / "plan.json"))
        folder = place / "stage"
        asked = {
            "folder": str(folder), "store": str(place / "store.pt"), "mark": str(place / "data"),
        }  # fmt: skip
        return Run(folder, {**asked, **given}, tasks)

    return make


@pytest.fixture(scope="session")
def _kept() -> dict[str, Run]:
    return {}


@pytest.fixture
def undisturbed(start: Any, _kept: dict[str, Run], monkeypatch: pytest.MonkeyPatch) -> Run:
    """The run that nothing happens to; made once."""
    if "run" not in _kept:
        run = start(name="undisturbed")
        run.to_its_end()
        assert not run.ends
        _kept["run"] = run
    monkeypatch.delenv("FAULT_PLAN", raising=False)
    return _kept["run"]

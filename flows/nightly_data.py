"""Before a night: is the data what it should be? The doctor's look, the lists, and what both
sides share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data.doctor.examine import Rules
from data.doctor.survey import counted, survey
from data.names import list_digests
from data.sources import open_listing
from data.spec import DatasetSpec
from flows.recipe_data import spec_as_it_is
from pipeline.environment import free_cores
from pipeline.errors import PipelineError
from pipeline.remote import is_remote, shown
from stages.recipe import Recipe
from stages.settings import TrainStage

FRAMES = 8
"""Frames of a video that are looked at."""
SHOWN = 20
"""Problems that are told one by one."""


@dataclass(frozen=True)
class CheckedSet:
    """A data set as it was found."""

    name: str
    root: str
    items: int
    examined: int
    digest: str
    """Of what is in it: names, frames, and the content of its annotations."""
    lists: tuple[str, ...]
    """sha256 of its list files."""
    problems: tuple[str, ...]


@dataclass(frozen=True)
class DataCheck:
    """Every data set of a recipe."""

    sets: tuple[CheckedSet, ...]
    shared: tuple[str, ...] = ()
    """Videos that are trained on and measured on, though the lists should keep them apart."""

    @property
    def problems(self) -> list[str]:
        """What has to be mended before training makes sense."""
        found = [line for checked in self.sets for line in checked.problems]
        if self.shared:
            some = ", ".join(self.shared[:5])
            found.append(
                f"{counted(len(self.shared), 'video')} in both the training and the evaluation "
                f"list ({some}); the result would be flattering, mend the lists"
            )
        return found

    @property
    def page(self) -> str:
        """The check in Markdown."""
        lines = ["## Data", "", "| set | videos | looked at | problems | list sha256 | digest |"]
        lines.append("|:--|--:|--:|--:|:--|:--|")
        for item in self.sets:
            lists = ", ".join(f"`{digest[:12]}`" for digest in item.lists) or "none"
            cells = (item.items, item.examined, len(item.problems), lists, f"`{item.digest[:12]}`")
            lines.append(f"| {item.name} | " + " | ".join(map(str, cells)) + " |")
        lines += ["", *(f"* {item.name}: `{item.root}`" for item in self.sets)]
        problems = self.problems
        if problems:
            lines += ["", "### To mend", ""]
            lines += [f"* {line}" for line in problems[:SHOWN]]
            if len(problems) > SHOWN:
                lines.append(
                    f"* … and {len(problems) - SHOWN} more; `sam2-pipeline doctor` has all"
                )
        return "\n".join(lines)


def check_data(recipe: Recipe, examine: int) -> DataCheck:
    """Look at every data set a recipe trains on or measures with. examine: videos of each that are
    opened, spread evenly; 0 opens all of them."""
    trained = {
        name
        for stage in recipe.stages.values()
        if isinstance(stage, TrainStage)
        for name in stage.datasets
    }
    measured = set(recipe.evaluation.datasets.values()) if recipe.evaluation else set[str]()
    names = [name for name in recipe.datasets if name in trained | measured]
    specs: dict[str, DatasetSpec] = {}
    sets = []
    for name in names:
        specs[name] = spec_as_it_is(recipe, name)
        sets.append(_checked(name, specs[name], examine))
    shared = {
        video
        for first in sorted(trained & specs.keys())
        for second in sorted(measured & specs.keys() - trained)
        for video in _in_both(specs[first], specs[second])
    }
    return DataCheck(tuple(sets), tuple(sorted(shared)))


def _checked(name: str, spec: DatasetSpec, examine: int) -> CheckedSet:
    root = shown(spec.root)
    if not is_remote(spec.root) and not Path(spec.root).is_dir():
        problem = f"{name}: there is no folder {root}; give the right one with `data`"
        return CheckedSet(name, root, 0, 0, "", (), (problem,))
    try:
        lists, listing = tuple(list_digests(spec)), open_listing(spec)
        found, _ = survey(
            spec, name, Rules(frames=FRAMES), sample=examine or None, workers=free_cores()
        )
    except PipelineError as error:
        return CheckedSet(name, root, 0, 0, "", (), (f"{name}: {error}",))
    problems = tuple(f"{name}: {one.line}" for one in found.findings if one.severity == "error")
    return CheckedSet(name, root, found.items, found.examined, listing.digest, lists, problems)


def _in_both(first: DatasetSpec, second: DatasetSpec) -> set[str]:
    """Videos of one folder that two different lists name. Sets that are the same on purpose, such
    as clips learnt by heart, share everything and are left alone."""
    if first.root != second.root or first == second:
        return set()
    try:
        return set(open_listing(first).names) & set(open_listing(second).names)
    except PipelineError:
        return set()  # told by the check of the set itself

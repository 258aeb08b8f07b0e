"""One run of a recipe, without Prefect: which stages are wanted, what each is given, what is done
already.

The flow walks over `Run.wanted` and calls, for each stage, `spec` (what the job is told),
`finished` (is it done, law 5) and, if not, `make_room` before it launches the job and reads the
result.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from flows.checkpoints import at_hand, external_checkpoint, in_place
from pipeline.config import did_you_mean
from pipeline.errors import ConfigError, PipelineError, StageError, StorageError
from pipeline.launch import stop_stage
from pipeline.private import make_private
from stages.contract import (
    TRAINING_KINDS,
    CheckpointRef,
    StageResult,
    StageSpec,
    read_result,
    read_spec,
    write_spec,
)
from stages.data_identity import data_digests
from stages.recipe import PlannedStage, Recipe, load_recipe, plan, select

DATA_KINDS = ("make_world", "extract_frames")


@dataclass(frozen=True)
class Request:
    """What a person asked for, in their words."""

    recipe: str = "smoke"
    overrides: tuple[str, ...] = ()
    """`key=value` settings of the recipe."""
    start_at: str | None = None
    """First stage to run; what it builds on must be done, or given as `checkpoint`."""
    stop_after: str | None = None
    """Last stage to run, with the evaluation that belongs to it."""
    checkpoint: str | None = None
    """Weights for the first stage that runs: a file, URL or `runs:/…`."""
    run_name: str | None = None
    """Folder below the runs folder; by default the recipe's name and its seed."""
    stage: str | None = None
    """Run this stage alone, without its evaluation; excludes `start_at` and `stop_after`."""

    def words(self) -> list[str]:
        """The request as the words of `sam2-pipeline run`."""
        named = {
            "start_at": self.start_at,
            "stop_after": self.stop_after,
            "checkpoint": self.checkpoint,
            "run_name": self.run_name,
        }
        given = [f"{key}={value}" for key, value in named.items() if value]
        return [f"recipe={self.recipe}", *self.overrides, *given]

    def command(self) -> str:
        """The command line that repeats this request."""
        start = f"stage {self.stage}" if self.stage else "run"
        return f"sam2-pipeline {start} {shlex.join(self.words())}"

    def load(self) -> Recipe:
        """The recipe this request describes. Raises ConfigError."""
        words = [f"recipe={self.recipe}", *self.overrides]
        words += [f"run_name={_quoted(self.run_name)}"] if self.run_name else []
        words += [f"checkpoint={_quoted(self.checkpoint)}"] if self.checkpoint else []
        return load_recipe(words)


@dataclass
class Run:
    """A request with its recipe, its plan and the results it has so far."""

    request: Request
    recipe: Recipe
    planned: list[PlannedStage]
    chosen: tuple[int, int]
    """Positions [first, last) of the stages that were asked for."""
    tracking: Mapping[str, Any] = field(default_factory=dict)
    """What jobs are told about MLflow; filled when the flow has prepared it."""
    experiment_id: str = ""
    """Of the MLflow experiment; empty while MLflow has not told."""
    results: dict[str, StageResult] = field(default_factory=dict)

    @classmethod
    def of(cls, request: Request) -> Run:
        """Load and plan `request`. Raises ConfigError, with the near names, for a wrong recipe, key
        or stage."""
        recipe = request.load()
        planned = plan(recipe)
        if request.stage is not None:
            names = [stage.name for stage in planned]
            if request.stage not in names:
                near = did_you_mean(request.stage, names)
                raise ConfigError(f"recipe {recipe.name} has no stage {request.stage!r}{near}")
            first = names.index(request.stage)
            return cls(request, recipe, planned, (first, first + 1))
        return cls(request, recipe, planned, select(planned, request.start_at, request.stop_after))

    @property
    def wanted(self) -> list[PlannedStage]:
        """The stages to go through, in order: those asked for, and before them the data stages they
        need.

        Data stages come along although they lie before `start_at`: they cost nothing when they are
        done.
        """
        first, last = self.chosen
        asked = self.planned[first:last]
        needed = {name for stage in asked for name in stage.after}
        data = [s for s in self.planned[:first] if s.name in needed and s.kind in DATA_KINDS]
        return data + asked

    def folder(self, name: str) -> Path:
        """Where the stage `name` of this run lives."""
        return self.recipe.folder / name

    def spec(self, stage: PlannedStage) -> StageSpec:
        """What the job of `stage` is told.

        Raises ConfigError when something it builds on was neither made nor given.
        """
        settings = dict(stage.settings)
        if stage.kind == "report":  # of a part of the recipe: on the evaluations there are
            settings["evaluations"] = [name for name in stage.after if self._known_result(name)]
        return StageSpec(
            name=stage.name,
            kind=stage.kind,
            settings=settings,
            folder=str(self.folder(stage.name)),
            tracking=self.tracking,
            input=self._input(stage),
            upstream=self._upstream(stage),
        )

    def finished(self, spec: StageSpec) -> StageResult | None:
        """The result of `spec` if that very work is done and what it produced is still in place."""
        result = read_result(spec.folder, spec.key)
        return result if result is not None and in_place(result, self.recipe) else None

    def settle(self, spec: StageSpec) -> None:
        """Make the stage's folder ready for `spec`: what is there continues only if it is the same
        work.

        Work of other settings is put aside whole, and comes back when its settings do. A result
        whose files are gone is withdrawn.
        """
        folder = Path(spec.folder)
        before = _key_of(folder)
        if before is not None and before != spec.key:
            stop_stage(folder, self.recipe.launch)
            shutil.rmtree(_aside(folder, before), ignore_errors=True)
            _move(folder, _aside(folder, before))
        if before != spec.key and _aside(folder, spec.key).is_dir():
            _move(_aside(folder, spec.key), folder)
        if read_result(folder, spec.key) is not None and self.finished(spec) is None:
            (folder / "done.json").unlink()
        make_private(folder)
        write_spec(spec)

    def states(self) -> list[tuple[str, str]]:
        """Every stage and how far it is, in order; changes nothing on disk.

        What follows a stage that is not done cannot be known yet and counts as to do.
        """
        found: list[tuple[str, str]] = []
        for stage in self.wanted:
            try:
                spec = self.spec(stage)
            except PipelineError:
                found.append((stage.name, "to do"))
                continue
            found.append((stage.name, self._progress_of(spec)))
            result = self.finished(spec)
            if result is not None:
                self.results[stage.name] = result
        return found

    def _progress_of(self, spec: StageSpec) -> Literal["done", "begun", "to do"]:
        """How far the work of `spec` is; changes nothing on disk."""
        if self.finished(spec) is not None:
            return "done"
        folder = Path(spec.folder)
        return (
            "begun" if spec.key in (_key_of(folder), _key_of(_aside(folder, spec.key))) else "to do"
        )

    def require_earlier(self) -> None:
        """Raise ConfigError when a wanted stage builds on one that is neither wanted nor done."""
        wanted = {stage.name for stage in self.wanted}
        for stage in self.wanted:
            names = set(stage.after) if stage.kind != "report" else set()
            if stage.checkpoint_from and not self.request.checkpoint:
                names.add(stage.checkpoint_from)
            for name in sorted(names - wanted):
                self._result_of(name, stage)

    def _input(self, stage: PlannedStage) -> CheckpointRef | None:
        """The weights `stage` starts from.

        Those of a stage of this request, else those given with it, else those of an earlier
        request.
        """
        source = stage.checkpoint_from
        if stage.kind not in (*TRAINING_KINDS, "evaluate"):
            return None
        if source is not None and source in {other.name for other in self.wanted}:
            return self._checkpoint_of(source, stage)
        if self.request.checkpoint or (source is None and self.recipe.checkpoint):
            return external_checkpoint(str(self.recipe.checkpoint), self.recipe)
        return self._checkpoint_of(source, stage) if source is not None else None

    def _checkpoint_of(self, source: str, needed_by: PlannedStage) -> CheckpointRef:
        reference = at_hand(self._result_of(source, needed_by), self.recipe)
        if reference is None:
            raise StageError(
                f"{source} is done but names no checkpoint in {self.folder(source) / 'done.json'}; "
                f"delete that folder and run {source} again"
            )
        return reference

    def _upstream(self, stage: PlannedStage) -> dict[str, str]:
        """Digests of what `stage` uses, data from outside included; the report uses whichever
        evaluations there are."""
        if stage.kind != "report":
            made = [self.recipe.folder]
            if self.recipe.world is not None:
                made.append(self.recipe.world_folder)
            earlier = {name: self._result_of(name, stage).digest for name in stage.after}
            return {**earlier, **data_digests(stage.settings, made)}
        known = {name: self._known_result(name) for name in stage.after}
        return {name: result.digest for name, result in known.items() if result is not None}

    def _result_of(self, name: str, needed_by: PlannedStage) -> StageResult:
        result = self._known_result(name)
        if result is not None:
            return result
        request = replace(self.request, start_at=None, stop_after=name, stage=None)
        raise ConfigError(
            f"{needed_by.name} builds on {name}, which is not done in {self.recipe.folder}; "
            f"make it with `{request.command()}`"
            + (", or give weights with checkpoint=…" if name == needed_by.checkpoint_from else "")
        )

    def _known_result(self, name: str) -> StageResult | None:
        """The result of this request, or the one an earlier request left behind."""
        if name in self.results:
            return self.results[name]
        wanted = {stage.name for stage in self.wanted}
        return None if name in wanted else read_result(self.folder(name))


def _key_of(folder: Path) -> str | None:
    """The key of the work a stage folder holds, or None when it holds none."""
    return read_spec(folder / "spec.json").key if (folder / "spec.json").is_file() else None


def _aside(folder: Path, key: str) -> Path:
    return folder.parent / ".earlier" / f"{folder.name}-{key[:12]}"


def _move(source: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
    except OSError as error:
        raise StorageError(f"{source} could not be moved to {target} ({error.strerror})") from error


def _quoted(value: str) -> str:
    """A value as Hydra's grammar takes any text."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"

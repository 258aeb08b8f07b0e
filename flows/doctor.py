"""`doctor`: what is in data sets, what is wrong with them, a sheet to look at, the heaviest batch.

0: healthy. 1: something was found. 2: the doctor could not run.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from flows.parts import progress_bar
from flows.recipe_data import spec_as_it_is
from flows.results import short
from pipeline.errors import ConfigError
from pipeline.storage import require_writable

if TYPE_CHECKING:
    from data.doctor.survey import Survey
    from data.doctor.worst import Draw, WorstBatch
    from data.settings import ClipSampling, Mixture
    from data.sources import Dataset
    from data.spec import DatasetSpec
    from stages.recipe import Recipe

QUICK_FRAMES = 8
"""Frames of a video that `--quick` looks at."""
SHOWN = 5
"""Findings of a kind that are printed; findings.jsonl has all."""
BAR = 28


@dataclass(frozen=True)
class Patient:
    """A data set, and the draws that training makes from it."""

    name: str
    spec: DatasetSpec
    draws: Sequence[Draw] = ()


def doctor(arguments: argparse.Namespace) -> int:
    """`doctor`: 0 healthy, 1 with errors (with `--strict` also notes), 2 when it could not run."""
    from data.doctor.report import write_reports
    from data.doctor.sheet import draw_sheet
    from data.doctor.survey import counted
    from pipeline.environment import free_cores

    patients = _patients(arguments.settings)
    if arguments.quick is not None and arguments.quick < 1:
        raise ConfigError(f"--quick {arguments.quick}: expected 1 or more items")
    folder = require_writable(arguments.out, "output folder")
    console = Console(highlight=False)
    surveys: list[Survey] = []
    opened: list[tuple[Dataset, Survey]] = []
    batches: list[WorstBatch] = []
    for patient in patients:
        survey, dataset = _look(patient, arguments.quick, arguments.workers or free_cores())
        heaviest = [batch for batch in _batches(survey, patient) if batch is not None]
        _describe(console, survey, heaviest)
        surveys.append(survey)
        batches += heaviest
        if dataset is not None:
            opened.append((dataset, survey))
    sheet = draw_sheet(opened) if opened else None
    paths = write_reports(folder, surveys, batches, sheet, page=arguments.html)
    errors = sum(survey.errors for survey in surveys)
    notes = sum(len(survey.findings) for survey in surveys) - errors
    verdict = "[green]healthy[/]" if not errors else "[red]needs mending[/]"
    console.print(f"{verdict}: {counted(errors, 'error')}, {counted(notes, 'note')}")
    for path in paths:
        console.print(f"  {short(path)}", markup=False, soft_wrap=True)
    return int(bool(errors or (arguments.strict and notes)))


def _look(patient: Patient, quick: int | None, workers: int) -> tuple[Survey, Dataset | None]:
    from data.doctor.examine import Rules
    from data.doctor.survey import survey

    window = max((draw.span for draw in patient.draws), default=0)
    rules = Rules(frames=QUICK_FRAMES if quick else None, window=window)
    with progress_bar(patient.name) as (bar, task):

        def tell(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        return survey(
            patient.spec, patient.name, rules, sample=quick, workers=workers, progress=tell
        )


def _batches(survey: Survey, patient: Patient) -> Iterator[WorstBatch | None]:
    from data.doctor.worst import worst_batch

    return (worst_batch(survey, draw) for draw in patient.draws)


def _patients(words: Sequence[str]) -> list[Patient]:
    """The data sets of a recipe, or the one that `data=FORMAT root=…` names."""
    if any(word.startswith("data=") for word in words):
        return [_own(words)]
    from stages.recipe import load_recipe

    recipe = load_recipe(_known(words))
    names = [name for name in recipe.datasets if _used(recipe, name)]
    return [_of_recipe(recipe, name) for name in names]


def _known(words: Sequence[str]) -> list[str]:
    for word in words:
        if "=" not in word and not word.startswith("~"):
            raise ConfigError(
                f"{word!r} is not a setting; expected recipe=NAME, or data=FORMAT root=FOLDER"
            )
    return list(words)


def _own(words: Sequence[str]) -> Patient:
    from omegaconf import OmegaConf

    from data.settings import ClipSampling, Mixture
    from data.spec import DatasetSpec
    from pipeline.config import parse

    values: dict[str, Any] = {}
    for word in _known(words):
        key, _, value = word.partition("=")
        values["format" if key == "data" else key] = OmegaConf.create({"value": value})["value"]
        if key == "names":
            values[key] = value.split(",")
    spec = parse(DatasetSpec, values, where="doctor")
    spec = replace(spec, root=_absolute(spec.root), frames=spec.frames and _absolute(spec.frames))
    draw = _draw("default settings", ClipSampling(), Mixture(), spec.format, spec.kind == "video")
    return Patient(spec.format, spec, (draw,))


def _absolute(place: str) -> str:
    return place if "://" in place else str(Path(place).expanduser().absolute())


def _of_recipe(recipe: Recipe, name: str) -> Patient:
    from stages.settings import TrainStage

    spec = spec_as_it_is(recipe, name)
    video = spec.kind == "video"
    draws = [
        _draw(stage_name, stage.sampling, stage.mixture, name, video)
        for stage_name, stage in recipe.stages.items()
        if isinstance(stage, TrainStage) and name in stage.datasets
    ]
    return Patient(name, spec, draws)


def _draw(stage: str, sampling: ClipSampling, mixture: Mixture, dataset: str, video: bool) -> Draw:
    """The most that any phase of a stage draws at a time."""
    from data.doctor.worst import Draw

    phases = [sampling.at(step) for step in (0, *(phase.from_step for phase in sampling.phases))]
    batch = mixture.video_batch if video else mixture.image_batch
    return Draw(
        stage=stage,
        frames=max(phase.frames for phase in phases) if video else 1,
        objects=max(p.max_objects if video else max(p.image_objects) for p in phases),
        batch=mixture.batches.get(dataset, batch),
        span=max((p.frames - 1) * p.stride + 1 for p in phases) if video else 1,
    )


def _used(recipe: Recipe, name: str) -> bool:
    from stages.settings import TrainStage

    trained = any(
        isinstance(stage, TrainStage) and name in stage.datasets for stage in recipe.stages.values()
    )
    evaluation = recipe.evaluation
    return trained or (evaluation is not None and name in (evaluation.images, evaluation.videos))


def _describe(console: Console, survey: Survey, batches: Sequence[WorstBatch]) -> None:
    """The data set on half a screen."""
    from data.doctor.report import bars, grouped
    from data.doctor.survey import counted

    what = "picture" if survey.spec.kind == "image" else "video"
    title = f"[bold]{escape(survey.name)}[/]  [dim]{escape(survey.spec.root)}[/]"
    console.print(title, soft_wrap=True)
    sizes = ", ".join(f"{w}x{h} ({n:,})" for (h, w), n in survey.sizes.most_common(3))
    more = f", {len(survey.sizes) - 3} more sizes" if len(survey.sizes) > 3 else ""
    console.print(
        f"  {counted(survey.items, what)}, {survey.examined:,} looked at: "
        f"{counted(survey.frames, 'frame')}, {counted(survey.masks, 'mask')}{sizes and '; '}{sizes}{more}",
        soft_wrap=True,
    )
    for title, counts in (
        ("objects on a frame", survey.objects),
        ("annotated frames of a video", survey.lengths if what == "video" else None),
    ):
        if counts and len(counts) > 1:
            console.print(f"  [dim]{title}[/]")
            for label, count, share in bars(counts):
                console.print(
                    f"  {label:>9} [blue]{'█' * max(round(BAR * share), count > 0)}[/] {count:,}"
                )
    for batch in batches:
        height, width = batch.picture
        console.print(
            f"  heaviest batch of {batch.stage}: {batch.batch} x {counted(batch.frames, 'frame')}, "
            f"{counted(batch.total_objects, 'object')}; {batch.item} has {batch.objects} at "
            f"{width}x{height}",
            soft_wrap=True,
            markup=False,
        )
    for severity, check, findings in grouped(survey.findings):
        colour = "red" if severity == "error" else "yellow"
        console.print(f"  [{colour}]{severity}[/] {check} ({len(findings):,})")
        for finding in findings[:SHOWN]:
            console.print(f"    {finding.line}", markup=False, soft_wrap=True)
        if len(findings) > SHOWN:
            console.print(f"    and {len(findings) - SHOWN:,} more", style="dim")
    console.print()

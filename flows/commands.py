"""What each command of `sam2-pipeline` does, once its words are understood."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows import preflight
from flows.clips import clips
from flows.compare import compare_results as compare
from flows.convert import convert
from flows.doctor import doctor
from flows.evaluate import evaluate
from flows.export import export
from flows.extract import extract_frames
from flows.jobs import trainer_settings
from flows.lineage import lineage
from flows.parts import synth
from flows.predict import predict
from flows.reap import reap
from flows.results import short
from flows.run import Request, Run
from flows.speed import speed
from flows.sync import sync
from pipeline.errors import ConfigError, StageError
from stages.recipe import Recipe, load_recipe, recipe_names
from stages.settings import TrainStage

if TYPE_CHECKING:
    from flows.services import Status

__all__ = [
    "clips", "compare", "convert", "doctor", "down", "evaluate", "export", "extract_frames",
    "lineage", "plan", "predict", "reap", "recipes", "run", "speed", "stage", "status", "sync",
    "synth", "up",
]  # fmt: skip

NAMED = ("recipe", "start_at", "stop_after", "checkpoint", "run_name")
"""Words that are parameters of the flow rather than settings of the recipe."""


def run(arguments: argparse.Namespace) -> int:
    """`run`: the flow in this process."""
    return _conduct(_request_of(arguments))


def stage(arguments: argparse.Namespace) -> int:
    """`stage`: one stage in this process."""
    return _conduct(_request_of(arguments))


def _conduct(request: Request) -> int:
    from flows.local import conduct

    preflight.check(Run.of(request))  # whatever is wrong shows before Prefect is even imported
    try:
        return conduct(request)
    except StageError as error:
        message, _, evidence = str(error).partition("\n")
        print(evidence, file=sys.stderr)  # above the line that says what happened, as Python does
        raise StageError(message) from error


def plan(arguments: argparse.Namespace) -> int:
    """`plan`: the stages of a recipe and how far each is."""
    request = _request_of(arguments)
    wanted_run = Run.of(request)
    console = Console(highlight=False)
    title = f"{wanted_run.recipe.name} in {short(wanted_run.recipe.folder)}"
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for column in ("stage", "kind", "starts from", "state"):
        table.add_column(column)
    for name, state in wanted_run.states():
        planned = next(item for item in wanted_run.planned if item.name == name)
        table.add_row(name, planned.kind, planned.checkpoint_from or "", state)
    console.print(table)
    if arguments.memory is not None:
        _print_memory(wanted_run.recipe, arguments.memory, console)
    console.print(f"run it with: {request.command()}", markup=False, soft_wrap=True)
    return 0


def _print_memory(recipe: Recipe, gib: float, console: Console) -> None:
    """How each training stage fits into a card. Raises ConfigError for the first that does not."""
    from stages.memory_plan import fit_to_memory

    ranks = recipe.launch.nodes * recipe.launch.tasks_per_node
    for name, stage in recipe.stages.items():
        if isinstance(stage, TrainStage):
            kinds = {recipe.datasets[dataset].kind for dataset in stage.datasets}
            with console.status(f"{name}: trying the worst step"):
                try:
                    found = fit_to_memory(recipe.model, stage, set(kinds), ranks, gib)
                except ConfigError as error:
                    raise ConfigError(f"stages.{name}.{error}") from error
            console.print(f"{name}: {found}", markup=False, soft_wrap=True)
    console.print(f"train so with: stages.NAME.memory_gb={gib:g}\n", markup=False)


def recipes(arguments: argparse.Namespace) -> int:
    """`recipes`: their names and what they are."""
    console = Console(highlight=False)
    for name in recipe_names():
        recipe = load_recipe([f"recipe={name}"])
        console.print(f"[bold]{name:<14}[/] {escape(recipe.description)}", soft_wrap=True)
    return 0


def up(arguments: argparse.Namespace) -> int:
    """`up`: the services, and what to do with them."""
    from flows import services

    ports = services.Ports.chosen(
        arguments.prefect_port, arguments.mlflow_port, arguments.tensorboard_port
    )
    console = Console(highlight=False)
    console.print("starting Prefect, MLflow, TensorBoard and a worker …")
    _print_status(services.up(ports, arguments.runs, print), console)
    prefect = Path(sys.executable).parent / "prefect"
    api = services.prefect_api()
    for line in (
        "",
        "start a run with (in this folder it finds the server by itself):",
        f"  {short(prefect)} deployment run sam2/full-recipe",
        f"  {short(prefect)} deployment run sam2/full-recipe --param recipe=small --watch",
        "from another folder or program, first:",
        f"  export PREFECT_API_URL={api}",
        "stop everything with: make down  (sam2-pipeline down)",
    ):
        console.print(line, markup=False, soft_wrap=True)
    return 0


def down(arguments: argparse.Namespace) -> int:
    """`down`: stop the services."""
    from flows import services

    stopped = services.down()
    print(f"stopped {', '.join(stopped)}" if stopped else "nothing was running")
    return 0


def status(arguments: argparse.Namespace) -> int:
    """`status`: the services; 0 when all of them are well, 1 otherwise."""
    from flows import services

    found = services.status()
    _print_status(found, Console(highlight=False))
    return 0 if all(item.healthy for item in found) else 1


def _print_status(found: Sequence[Status], console: Console) -> None:
    for item in found:
        word = "[green]well[/]" if item.healthy else "[yellow]no answer[/]"
        if item.elsewhere:
            console.print(f"  {item.name:<12} {word:<22} {item.elsewhere} (yours)", soft_wrap=True)
            continue
        if item.daemon is None:
            console.print(f"  {item.name:<12} [dim]not running[/]")
            continue
        where = item.daemon.url or f"pid {item.daemon.pid}"
        console.print(f"  {item.name:<12} {word:<22} {where}", soft_wrap=True)


def _request_of(arguments: argparse.Namespace) -> Request:
    """The words of `run`, `stage` and `plan` as a request. Raises ConfigError for a stray word."""
    named: dict[str, str] = {}
    overrides: list[str] = []
    for word in arguments.settings:
        key, equals, value = word.partition("=")
        if not equals and not word.startswith("~"):
            near = f"; did you mean recipe={word}?" if word in recipe_names() else ""
            raise ConfigError(f"{word!r} is not a setting, expected key=value{near}")
        if key in NAMED and value:
            named[key] = value
        elif key not in NAMED:
            overrides.append(word)
    overrides += trainer_settings(arguments, overrides)
    if arguments.seed is not None:
        overrides.append(f"seed={arguments.seed}")
    stage = getattr(arguments, "name", None)
    if stage is not None and {"start_at", "stop_after"} & named.keys():
        raise ConfigError("`stage` runs one stage; start_at and stop_after belong to `run`")
    return Request(overrides=tuple(overrides), stage=stage, **named)

"""`compare`: results side by side, how sure the difference is, and an exit code for gates."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from rich.console import Console

from flows.compare_tables import print_comparison, print_published, print_three_stages
from flows.home import tracking_store
from flows.measure import measure
from flows.results import short
from flows.weights import local_weights
from pipeline.errors import ConfigError
from pipeline.storage import sha256, write_json
from stages.evaluation.compare import Comparison, compare, comparison_json
from stages.evaluation.details import DETAILS
from stages.evaluation.published import beside_published
from stages.evaluation.results import measured_stages, open_scored
from stages.evaluation.scored import TITLES, Scored, distinct

PLAIN_WIDTH = 120
"""Of tables that go into a file or a log."""
WEIGHTS = (".pt", ".pth", ".safetensors")


def compare_results(arguments: argparse.Namespace) -> int:
    """Compare, print, write what was asked for; 1 when the gate that was asked for fails."""
    results = _results(arguments)
    comparisons = [
        compare(
            before,
            after,
            tolerance=arguments.tolerance,
            metrics=arguments.metric,
            confidence=arguments.confidence / 100,
        )
        for before, after in _pairs(results, arguments)
    ]
    # refuses another split before anything is printed
    rivals = beside_published(arguments.published, results) if arguments.published else []
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    written = _write(comparisons, arguments)  # before a reader of what is printed has enough
    for comparison in comparisons:
        print_comparison(comparison, arguments.tolerance, console)
    print_three_stages(results, console)
    if rivals:
        print_published(arguments.published, rivals, console)
    for file in written:
        console.print(f"written: {short(file)}", markup=False, soft_wrap=True)
    return _gate(comparisons, arguments.fail_if, console)


def _write(comparisons: Sequence[Comparison], arguments: argparse.Namespace) -> list[Path]:
    """The files that were asked for."""
    files = []
    if arguments.json is not None:
        write_json(arguments.json, comparison_json(comparisons, arguments.tolerance))
        files.append(arguments.json)
    if arguments.html is not None:
        from stages.evaluation.report.comparison import write_comparison

        files.append(write_comparison(comparisons, arguments.html, arguments.tolerance))
    return files


def _pairs(results: Sequence[Scored], arguments: argparse.Namespace) -> list[tuple[Scored, Scored]]:
    """Who is held against whom: the stages of a run each against the one before, others against
    the first."""
    against = arguments.against or ("previous" if _is_run(arguments.results) else "first")
    if against == "previous":
        return list(pairwise(results))
    return [(results[0], other) for other in results[1:]]


def _gate(comparisons: Sequence[Comparison], fail_if: str | None, console: Console) -> int:
    if fail_if is None:
        return 0
    bad = ("worse",) if fail_if == "worse" else ("worse", "same")
    failed = [pair for pair in comparisons if pair.verdict in bad]
    for pair in failed:
        worse = [TITLES[change.name] for change in pair.changes if change.verdict == "worse"]
        said = (
            f"{pair.after.name} is worse than {pair.before.name} in {', '.join(worse)}"
            if worse
            else f"{pair.after.name} is not shown to be better than {pair.before.name}"
        )
        console.print(f"gate failed: {said}", markup=False, soft_wrap=True)
    if not failed:
        console.print("gate passed")
    return int(bool(failed))


def _results(arguments: argparse.Namespace) -> list[Scored]:
    """What the words name, at least two of them, under names that differ."""
    words: list[str] = arguments.results
    if _is_run(words):
        run = Path(words[0]).expanduser()
        opened = [open_scored(f"{run}:{stage}") for stage in measured_stages(run)]
        results = [replace(one, name=one.name.rpartition(":")[2]) for one in opened]
    elif arguments.videos or arguments.images:
        results = distinct([_measured(word, arguments) for word in words])
    else:
        results = distinct([_opened(word, arguments.runs) for word in words])
    if len(results) < 2:
        raise ConfigError(
            f"{words[0]} is a single result; compare needs two, or a run folder with several "
            f"evaluated stages"
        )
    return results


def _is_run(words: Sequence[str]) -> bool:
    """Is it one run folder, whose stages are to be compared?"""
    return len(words) == 1 and len(measured_stages(Path(words[0]).expanduser())) > 1


def _opened(word: str, runs: Path) -> Scored:
    """A result from disk, or from MLflow: `runs:/ID`."""
    if word.lower().endswith(WEIGHTS):
        raise ConfigError(
            f"{word} holds weights, not scores; add --videos DIR or --images DIR and every "
            f"checkpoint is measured there first"
        )
    if not word.startswith("runs:/"):
        return open_scored(word)
    from pipeline.tracking import fetch_checkpoint

    uri = word if word.endswith(".json") else f"{word.rstrip('/')}/{DETAILS}"
    folder = runs.expanduser().absolute()
    run_id = uri.removeprefix("runs:/").split("/")[0]
    cache = folder / "cache" / "scores" / run_id
    file = fetch_checkpoint(uri, "", cache, tracking_store(folder))
    return replace(open_scored(str(file)), name=word, source=word)


def _measured(word: str, arguments: argparse.Namespace) -> Scored:
    """The scores of a checkpoint on the given folders, measured now unless they lie there."""
    weights = local_weights(word, arguments.runs)
    if weights.is_dir():
        raise ConfigError(
            f"{word} is a folder; give a file of weights, a URL, runs:/… or models:/…"
        )
    folder = arguments.out / f"{weights.stem}-{sha256(weights)[:8]}"
    print(f"measuring {word} in {short(folder)}", flush=True)
    measure(
        str(weights),
        folder,
        images=arguments.images,
        videos=arguments.videos,
        preset=arguments.preset,
        image_size=arguments.image_size,
        device=arguments.device,
    )
    return replace(open_scored(str(folder)), name=word)

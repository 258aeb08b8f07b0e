"""The result that a person names: a run, one of its stages, an evaluation, a file of scores."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.config import did_you_mean
from pipeline.errors import DataError
from pipeline.storage import read_json
from stages.contract import EVALUATION, done_stages, read_result, read_spec
from stages.evaluation.details import DETAILS, read_details
from stages.evaluation.scored import (
    TITLES,
    Figure,
    Scored,
    figure_of,
    protocol_text,
    scored_details,
)

CSV_COLUMNS = ("sequence", "obj", "J&F", "J", "F")
SCORES = "scores.json"
"""What scoring a folder of masks leaves: the figures of every object."""


def open_scored(words: str) -> Scored:
    """The result that `words` name. Raises DataError saying what was found and what is expected.

    words: a run folder (its last stage counts), `RUN:STAGE`, the folder of a stage or evaluation, a
    details.json or scores.json, or the results.csv of the reference evaluator.
    """
    run, colon, stage = words.rpartition(":")
    if colon and Path(run).is_dir():
        return _evaluation(_stage_folder(Path(run), stage), f"{Path(run).resolve().name}:{stage}")
    path = Path(words).expanduser()
    if path.is_file():
        return _file(path)
    if not path.is_dir():
        raise DataError(
            f"{words}: there is no such file or folder; expected a run folder, RUN:STAGE, the "
            f"folder of an evaluation, a details.json, scores.json or results.csv"
        )
    if (path / DETAILS).is_file() or path.name.endswith(EVALUATION):
        return _evaluation(path, path.resolve().name.removesuffix(EVALUATION))
    if (path / SCORES).is_file():
        return _file(path / SCORES)
    beside = path.with_name(path.resolve().name + EVALUATION)
    if beside.is_dir():
        return _evaluation(beside, path.resolve().name)
    stages = measured_stages(path)
    if not stages:
        raise DataError(
            f"{words}: neither an evaluation ({DETAILS}) nor a run with evaluated stages; "
            f"measure it with sam2-pipeline evaluate"
        )
    return _evaluation(path / f"{stages[-1]}{EVALUATION}", path.resolve().name)


def measured_stages(run: Path) -> list[str]:
    """The stages of a run folder whose evaluation is done, in their order; `start` is the network
    before training."""
    names = [folder.name for folder in done_stages(run)]
    return [name.removesuffix(EVALUATION) for name in names if name.endswith(EVALUATION)]


def _stage_folder(run: Path, stage: str) -> Path:
    stages = measured_stages(run)
    if stage not in stages:
        known = ", ".join(stages) or "none"
        raise DataError(
            f"{run}: no evaluated stage {stage!r}{did_you_mean(stage, stages)}; there are: {known}"
        )
    return run / f"{stage}{EVALUATION}"


def _evaluation(folder: Path, name: str) -> Scored:
    if not (folder / DETAILS).is_file():
        raise DataError(
            f"{folder}: no {DETAILS}, the scores of every video; it was evaluated by an older "
            f"version or is not done: remove its done.json and run or evaluate again"
        )
    spec = read_spec(folder / "spec.json") if (folder / "spec.json").is_file() else None
    if spec is not None and read_result(folder, spec.key) is None:  # scores of something else
        raise DataError(f"{folder}: the latest evaluation was interrupted; evaluate again")
    given = spec.input if spec is not None else None
    details = read_details(folder / DETAILS)
    return scored_details(details, name, str(folder), given.sha256 if given else "")


def _file(path: Path) -> Scored:
    if path.suffix.lower() == ".csv":
        return Scored(path.resolve().parent.name, str(path), _read_csv(path))
    if path.name == "results.json":
        raise DataError(
            f"{path} holds means only; a comparison needs every video: give the run folder instead"
        )
    parent = path.resolve().parent
    values = read_json(path) or {}
    if "by_video" in values:
        return Scored(parent.name, str(path), _read_scores(path, values))
    if path.name == DETAILS and (parent / "spec.json").is_file():
        return _evaluation(parent, parent.name.removesuffix(EVALUATION))
    return scored_details(read_details(path), path.stem, str(path))


def _read_scores(path: Path, values: Mapping[str, Any]) -> dict[str, Figure]:
    """The metrics of a scores.json, which has the figures of every object."""
    try:
        protocol = protocol_text(values["protocol"]["given"], values["protocol"]["text"])
        columns = {
            name: {
                video: [
                    float(one[name.removeprefix("video/")])
                    for one in found["objects"].values()
                    if one[name.removeprefix("video/")] is not None
                ]
                for video, found in values["by_video"].items()
            }
            for name in TITLES
            if name.startswith("video/")
        }
        found = {
            name: figure_of(name, scores, values["split"], protocol)
            for name, scores in columns.items()
            if any(scores.values())
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{path} is not a file of scores ({error!r}); score the masks again"
        ) from error
    if not found:
        raise DataError(f"{path}: no object in it; score the masks again")
    return found


def _read_csv(path: Path) -> dict[str, Figure]:
    """The columns of the reference evaluator; it records neither split nor protocol."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [[cell.strip() for cell in row] for row in csv.reader(file) if row]
    if not rows or tuple(rows[0]) != CSV_COLUMNS:
        raise DataError(
            f"{path}: the first line is {','.join(rows[0]) if rows else 'missing'}; expected the "
            f"columns {','.join(CSV_COLUMNS)}"
        )
    names = {"video/jf": 2, "video/j": 3, "video/f": 4}
    columns: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    for number, row in enumerate(rows[1:], 2):
        try:
            if row[1] and row[1] != "-":
                for name, column in names.items():
                    columns[name].setdefault(row[0], []).append(float(row[column]))
        except (IndexError, ValueError) as error:
            raise DataError(
                f"{path}, line {number}: {','.join(row)!r} is not an object's scores"
            ) from error
    if not columns["video/jf"]:
        raise DataError(f"{path}: no object in it, only {len(rows) - 1} other lines")
    return {name: figure_of(name, scores) for name, scores in columns.items()}

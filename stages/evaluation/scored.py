"""A result as columns that can be held against another one: each metric item by item, with what it
was measured on.

A result is given as a run folder, one of its stages, the folder of an evaluation, a `details.json`,
or the results.csv of the reference evaluator.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.config import did_you_mean
from pipeline.errors import DataError
from stages.contract import read_spec
from stages.evaluation.details import DETAILS, Details, read_details
from stages.evaluation.jf import ObjectScore

TITLES: Mapping[str, str] = {
    "video/jf": "video J&F",
    "video/j": "video J",
    "video/f": "video F",
    "video/jf_returned": "J&F after disappearances",
    "video/presence": "presence accuracy",
    "image/miou@1": "image mIoU@1",
    "image/miou@3": "image mIoU@3",
    "image/miou@5": "image mIoU@5",
}
"""The metrics that are compared, in the order they are shown."""
CSV_COLUMNS = ("sequence", "obj", "J&F", "J", "F")
SUFFIX = ".evaluate"


@dataclass(frozen=True)
class Figure:
    """One metric of one result, item by item; an item is a video or a picture."""

    name: str
    values: Mapping[str, float]
    """Mean over the objects of each item."""
    weights: Mapping[str, int]
    """Objects of each item; the weighted mean is the mean over all objects, as it is quoted."""
    split: str = ""
    """Digest of the data set; empty when not recorded."""
    protocol: str = ""
    """Empty when not recorded."""

    @property
    def full(self) -> float:
        """What a perfect score is: 100 for percentages, 1 for IoU."""
        return 1.0 if self.name.startswith("image/") else 100.0

    @property
    def digits(self) -> int:
        """Decimals worth showing."""
        return 3 if self.full == 1.0 else 1

    @property
    def items(self) -> str:
        """What an item is called."""
        return "pictures" if self.name.startswith("image/") else "videos"

    @property
    def mean(self) -> float:
        """Mean over all objects."""
        weights = [self.weights[item] for item in self.values]
        return float(np.average(list(self.values.values()), weights=weights))


@dataclass(frozen=True)
class Scored:
    """One result: what to call it, where it lies, its metrics by name."""

    name: str
    source: str
    figures: Mapping[str, Figure]
    sha256: str = ""
    """Digest of the checkpoint; empty when there is none on record."""


def open_scored(words: str) -> Scored:
    """The result that `words` name. Raises DataError saying what was found and what is expected.

    words: a run folder (its last stage counts), `RUN:STAGE`, the folder of a stage or evaluation, a
    details.json, or a results.csv.
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
            f"folder of an evaluation, a details.json or a results.csv"
        )
    if (path / DETAILS).is_file() or path.name.endswith(SUFFIX):
        return _evaluation(path, path.resolve().name.removesuffix(SUFFIX))
    beside = path.with_name(path.resolve().name + SUFFIX)
    if beside.is_dir():
        return _evaluation(beside, path.resolve().name)
    stages = measured_stages(path)
    if not stages:
        raise DataError(
            f"{words}: neither an evaluation ({DETAILS}) nor a run with evaluated stages; "
            f"measure it with sam2-pipeline evaluate"
        )
    return _evaluation(path / f"{stages[-1]}{SUFFIX}", path.resolve().name)


def measured_stages(run: Path) -> list[str]:
    """The stages of a run folder whose evaluation is done, in the order they ran; `start` is the
    network before training."""
    done = [folder / "done.json" for folder in run.glob(f"*{SUFFIX}")]
    found = sorted((file.stat().st_mtime_ns, file.parent.name) for file in done if file.is_file())
    return [name.removesuffix(SUFFIX) for _, name in found]


def scored_details(details: Details, name: str, source: str, sha256: str = "") -> Scored:
    """The metrics of a file of scores."""
    return Scored(name, source, {f.name: f for f in _figures(details)}, sha256)


def _stage_folder(run: Path, stage: str) -> Path:
    stages = measured_stages(run)
    if stage not in stages:
        known = ", ".join(stages) or "none"
        raise DataError(
            f"{run}: no evaluated stage {stage!r}{did_you_mean(stage, stages)}; there are: {known}"
        )
    return run / f"{stage}{SUFFIX}"


def _evaluation(folder: Path, name: str) -> Scored:
    if not (folder / DETAILS).is_file():
        raise DataError(
            f"{folder}: no {DETAILS}, the scores of every video; it was evaluated by an older "
            f"version or is not done: remove its done.json and run or evaluate again"
        )
    spec = folder / "spec.json"
    given = read_spec(spec).input if spec.is_file() else None
    details = read_details(folder / DETAILS)
    return scored_details(details, name, str(folder), given.sha256 if given else "")


def _file(path: Path) -> Scored:
    if path.suffix.lower() == ".csv":
        return Scored(path.parent.resolve().name, str(path), _read_csv(path))
    if path.name == "results.json":
        raise DataError(
            f"{path} holds means only; a comparison needs every video: give the run folder instead"
        )
    parent = path.resolve().parent
    if path.name == DETAILS and (parent / "spec.json").is_file():
        return _evaluation(parent, parent.name.removesuffix(SUFFIX))
    return scored_details(read_details(path), path.stem, str(path))


def _figures(details: Details) -> Iterable[Figure]:
    """One column for each of TITLES that was measured."""
    if (videos := details.videos) is not None:
        protocol = "; ".join(filter(None, (videos.given, str(videos.protocol))))
        by_video = {video.name: video.objects for video in videos.videos if video.objects}
        for name in (name for name in TITLES if name.startswith("video/")):
            value = _READ[name]
            scores = {
                video: [number for score in objects if (number := value(score)) is not None]
                for video, objects in by_video.items()
            }
            if any(scores.values()):
                yield _figure(name, scores, videos.split, protocol)
    if (pictures := details.pictures) is not None:
        for click in (1, 3, 5):
            if click <= pictures.ious.shape[1]:
                found: dict[str, list[float]] = {}
                for picture, iou in zip(
                    pictures.pictures, pictures.ious[:, click - 1], strict=True
                ):
                    found.setdefault(picture, []).append(float(iou))
                yield _figure(f"image/miou@{click}", found, pictures.split, pictures.protocol)


_READ: Mapping[str, Callable[[ObjectScore], float | None]] = {
    "video/jf": lambda score: score.jf,
    "video/j": lambda score: score.j,
    "video/f": lambda score: score.f,
    "video/jf_returned": lambda score: score.jf_returned,
    "video/presence": lambda score: score.presence,
}


def _figure(name: str, scores: Mapping[str, Sequence[float]], split: str, protocol: str) -> Figure:
    scores = {item: values for item, values in scores.items() if values}
    return Figure(
        name,
        {item: float(np.mean(values)) for item, values in scores.items()},
        {item: len(values) for item, values in scores.items()},
        split,
        protocol,
    )


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
    return {name: _figure(name, scores, "", "") for name, scores in columns.items()}


def distinct(results: Sequence[Scored]) -> list[Scored]:
    """The same results under names that tell them apart."""
    names = [result.name for result in results]
    return [
        replace(result, name=result.source) if names.count(result.name) > 1 else result
        for result in results
    ]

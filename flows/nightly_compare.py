"""Tonight's model against earlier ones, on the same videos: which night, how much, how sure.

Nights are run folders `<name>-YYYY-MM-DD`. What a night was worth is read from its evaluation's
files, so a night that failed or was never started is simply not there to compare with.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.run import Run
from pipeline.errors import ConfigError, PipelineError, StageError
from stages.contract import CheckpointRef, StageSpec, read_result, read_spec
from stages.evaluation.compare import Change, compare
from stages.evaluation.results import open_scored
from stages.evaluation.scored import Figure, Scored
from stages.recipe import PlannedStage

METRIC = "video/jf"
DATE = r"\d{4}-\d{2}-\d{2}"


@dataclass(frozen=True)
class Night:
    """A trained and measured night."""

    name: str
    """The folder's: `mose-nightly-2026-11-21`."""
    scores: Scored
    checkpoint: CheckpointRef
    settings: Mapping[str, Any]
    """Of the last training and its evaluation, by dotted name, without the seed."""
    data: Mapping[str, str]
    """Digests of the data sets, by name."""

    @property
    def date(self) -> str:
        """`2026-11-21`."""
        return self.name[-10:]

    @property
    def jf(self) -> Figure:
        """J&F of every video, with split and protocol."""
        return self.scores.figures[METRIC]


@dataclass(frozen=True)
class Against:
    """Tonight, held against one earlier night."""

    before: Night
    why: str
    """What makes it worth comparing with: `night before`, `holds the alias`, `best`."""
    change: Change
    """Of J&F; resampled are videos."""
    differing: tuple[str, ...]
    """What was not the same besides the seed: data, settings, the weights at the start."""

    @property
    def text(self) -> str:
        """`-0.42 [-0.90, +0.06] against 2026-11-20: same`."""
        found = self.change.difference
        interval = f"[{found.low:+.2f}, {found.high:+.2f}]"
        return f"{found.mean:+.2f} {interval} against {self.before.date}: {self.change.verdict}"


@dataclass(frozen=True)
class Outcome:
    """What came of a night."""

    night: Night
    against: tuple[Against, ...]
    """The last comparable night; where they are others, also the one whose model would be
    replaced, and the best one, lest many small losses add up. Empty for the first."""
    skipped: tuple[Night, ...]
    """Earlier nights that were measured on other videos, or in another way."""
    series: tuple[Night, ...] = ()
    """All comparable nights, tonight last."""
    holder: str | None = None
    """The night whose model the alias stood at before."""

    @property
    def worse(self) -> bool:
        """Is tonight worse than any of those?"""
        return any(found.change.verdict == "worse" for found in self.against)

    @property
    def late(self) -> bool:
        """Was it made up for when a later night had the alias already?"""
        name = self.night.name
        return bool(self.holder and self.holder[:-10] == name[:-10] and self.holder > name)

    def decision(self, alias: str, version: int | None) -> str:
        """What became of its model."""
        if self.worse:
            return f"not registered; `{alias}` stays where it is"
        if self.late:
            return f"registered as version {version}, `{alias}` stays at the later {self.holder}"
        return f"registered as version {version}, `{alias}` stands at it"

    @property
    def text(self) -> str:
        """One line for the state of the flow run."""
        against = "; ".join(found.text for found in self.against)
        return f"J&F {self.night.jf.mean:.1f}, {against or 'nothing to compare with'}"


def last_measured(run: Run) -> tuple[PlannedStage, PlannedStage]:
    """The last training stage of a recipe and its evaluation.

    Raises ConfigError for a recipe that measures no videos: its nights could not be compared.
    """
    measured = [s for s in run.planned if s.kind == "evaluate" and s.checkpoint_from]
    if not measured or measured[-1].settings["videos"] is None:
        raise ConfigError(
            f"recipe {run.recipe.name} measures no videos after training, so nights cannot be "
            "compared; give evaluation.videos=…"
        )
    evaluation = measured[-1]
    return next(s for s in run.planned if s.name == evaluation.checkpoint_from), evaluation


def outcome_of(run: Run, tolerance: float, holder: str | None) -> Outcome:
    """What the finished `run` is worth. holder: the night whose model the alias stands at, by its
    folder. tolerance: points of J&F nobody minds.

    Raises StageError when tonight's own evaluation cannot be read.
    """
    training, evaluation = (stage.name for stage in last_measured(run))
    tonight = _read(run.recipe.folder, training, evaluation)
    if tonight is None:
        raise StageError(
            f"{run.recipe.folder / evaluation} holds no scores of videos, expected what the "
            "evaluation wrote; delete that folder and run the night again"
        )
    folders = earlier_nights(run.recipe.folder)
    read = [_read(folder, training, evaluation) for folder in folders]
    nights = [night for night in read if night is not None]
    like = [night for night in nights if _measured_alike(night, tonight)]
    reasons: dict[str, list[str]] = {night.name: [] for night in like}
    if like:
        reasons[like[-1].name].append("night before")
        if holder in reasons:
            reasons[holder].append("holds the alias")
        reasons[max(like, key=lambda night: night.jf.mean).name].append("best")
    return Outcome(
        night=tonight,
        against=tuple(
            _against(night, tonight, tolerance, ", ".join(reasons[night.name]))
            for night in reversed(like)
            if reasons[night.name]
        ),
        skipped=tuple(night for night in nights if night not in like),
        series=(*like, tonight),
        holder=holder,
    )


def _against(before: Night, tonight: Night, tolerance: float, why: str) -> Against:
    found = compare(before.scores, tonight.scores, tolerance=tolerance, metrics=(METRIC,))
    differing = [
        *_differing("data ", before.data, tonight.data),
        *_differing("", before.settings, tonight.settings),
    ]
    return Against(before, why, found.changes[0], tuple(differing))


def earlier_nights(tonight: Path) -> list[Path]:
    """The run folders of the same name before `tonight`, the oldest first."""
    pattern = re.escape(tonight.name[:-10]) + DATE
    found = [path for path in tonight.parent.iterdir() if path.name < tonight.name]
    return sorted(path for path in found if re.fullmatch(pattern, path.name))


def _read(folder: Path, training: str, evaluation: str) -> Night | None:
    """The night in a run folder; None where it was not trained and measured to the end."""
    try:
        trained, measured = (read_result(folder / stage) for stage in (training, evaluation))
        if trained is None or measured is None or trained.checkpoint is None:
            return None
        scores = open_scored(str(folder / evaluation))
        specs = [read_spec(folder / stage / "spec.json") for stage in (training, evaluation)]
    except (PipelineError, OSError):  # a night that cannot be read is no measure
        return None
    if METRIC not in scores.figures:
        return None
    settings = {name: value for spec in specs for name, value in _settings(spec)}
    upstream = {k: v for spec in specs for k, v in spec.upstream.items() if k.startswith("data:")}
    return Night(folder.name, scores, trained.checkpoint, settings, upstream)


def _measured_alike(one: Night, other: Night) -> bool:
    return (one.jf.split, one.jf.protocol) == (other.jf.split, other.jf.protocol)


def _settings(spec: StageSpec) -> Iterator[tuple[str, Any]]:
    """What a person may have changed about a stage, by dotted name."""

    def walk(where: str, value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                yield from walk(f"{where}.{key}", inner)
        elif where != f"{spec.name}.seed":
            yield where, value

    yield from walk(spec.name, spec.settings)
    if spec.input is not None and not spec.input.stage:  # weights from outside
        yield f"{spec.name}.checkpoint", spec.input.sha256[:12]


def _differing(what: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    names = [*before, *(name for name in after if name not in before)]
    for name in names:
        if before.get(name) != after.get(name):
            yield f"{what}{name}: {_short(before.get(name))} → {_short(after.get(name))}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"

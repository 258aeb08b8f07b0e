"""Fit a training stage to a card: find the largest batch, or the least recomputation, that fits.

Splitting a batch costs no arithmetic, so it is tried first; then parts of the network are computed
again on the way back, then frames and objects go through a few at a time. What is chosen trains on
the same samples with the same gradients, up to rounding; a split batch draws other prompts.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from data.spec import DatasetSpec
from model.config import SAM2Config
from model.policy import MemorySavings
from pipeline.config import parse
from pipeline.errors import ConfigError, PipelineError
from pipeline.storage import read_json, write_json
from stages.footprint import BatchShape, BudgetExceededError, footprint
from stages.settings import ModelChoice, TrainStage

GIB = 2**30
ROOM, LEAST_ROOM = 0.08, 1 * GIB
"""What is left free of a card: a share of it, or this many bytes where that is more. It is for the
context, library workspaces and gaps between allocations."""
PLANS = ".plans"
"""The folder of a run's plans, beside those of its stages: what a stage makes is put aside when its
settings change, and its plan is made before there is a stage."""


@dataclass(frozen=True)
class MemoryPlan:
    """How a stage fits."""

    savings: MemorySavings
    split: int
    """Every batch is trained as so many smaller ones, accumulated."""
    peak: int
    """Predicted bytes of the worst step on one rank."""
    budget: int
    """Bytes it was to fit into, room left free included."""
    worst: str
    """The batch that takes the most, in words."""

    def applied(self, stage: TrainStage) -> TrainStage:
        """The stage as it will be trained."""
        mixture = replace(
            stage.mixture,
            image_batch=stage.mixture.image_batch // self.split,
            video_batch=stage.mixture.video_batch // self.split,
            batches={name: size // self.split for name, size in stage.mixture.batches.items()},
        )
        loop = replace(stage.loop, accumulate=stage.loop.accumulate * self.split)
        return replace(stage, mixture=mixture, loop=loop, memory=self.savings)

    def __str__(self) -> str:
        parts = f", each batch in {self.split} parts" if self.split > 1 else ""
        return (
            f"{self.peak / GIB:.2f} of {self.budget / GIB:.2f} GiB for {self.worst}: "
            f"{words(self.savings)}{parts}"
        )


def worst_shapes(stage: TrainStage, kinds: set[str], ranks: int = 1) -> list[BatchShape]:
    """The largest share of a batch on one rank, for pictures and for clips.

    kinds: those of the stage's data sets, `image` and `video`. Phases and data sets with batches of
    their own are looked through.
    """
    steps = [0, *(phase.from_step for phase in stage.sampling.phases)]
    settings = [stage.sampling.at(step) for step in steps]
    own = list(stage.mixture.batches.values())
    shapes = []
    if "image" in kinds:
        clips = max([stage.mixture.image_batch, *own]) // ranks
        shapes.append(BatchShape(clips, 1, max(s.image_objects[1] for s in settings)))
    if "video" in kinds:
        clips = max([stage.mixture.video_batch, *own]) // ranks
        found = {BatchShape(clips, s.frames, s.max_objects) for s in settings}
        shapes += sorted(found, key=lambda shape: (shape.frames, shape.objects))
    return shapes


def plan_memory(
    config: SAM2Config,
    stage: TrainStage,
    shapes: list[BatchShape],
    budget: int,
    tell: Callable[[str], None] = lambda line: None,
) -> MemoryPlan:
    """The cheapest way to train `shapes` within `budget` bytes of a card.

    tell: hears of every attempt. Raises ConfigError with numbers when nothing fits.
    """
    usable = budget - max(LEAST_ROOM, round(ROOM * budget))
    splits = _splits(shapes)
    for savings in _ladder(stage.memory, shapes):
        trial = replace(stage, memory=savings)
        smallest = _measure(config, trial, shapes, splits[-1], usable)
        if smallest is None:
            tell(f"{words(savings)}: too much")
            continue
        for split in splits:
            last = split == splits[-1]
            found = smallest if last else _measure(config, trial, shapes, split, usable)
            if found is not None:
                return MemoryPlan(savings, split, found[1], budget, str(found[0]))
            tell(f"{words(savings)}, batches in {split}: too much")
    worst, least = _measure(config, trial, shapes, splits[-1], None) or (shapes[0], 0)
    raise ConfigError(
        f"memory: {worst} take {least / GIB:.2f} GiB even with everything recomputed and one object "
        f"at a time; there are {budget / GIB:.2f} GiB, of which {usable / GIB:.2f} can be used. Use "
        "a smaller model or image_size, fewer sampling.frames, or freeze the image encoder"
    )


def fit_to_memory(
    model: ModelChoice,
    stage: TrainStage,
    kinds: set[str],
    ranks: int,
    gib: float,
    file: Path | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> MemoryPlan:
    """As `plan_memory`, for a stage of a recipe on cards of `gib` GiB.

    file: where the answer is kept for the same question.
    """
    config, budget = model.config(stage.drop_path, stage.dropout), round(gib * GIB)
    shapes = worst_shapes(stage, kinds, ranks)
    question = json.dumps([asdict(config), asdict(stage), list(map(asdict, shapes)), budget])
    key = hashlib.sha256(question.encode()).hexdigest()
    kept = read_json(file) if file is not None else None
    if kept is not None and kept.get("key") == key:
        return MemoryPlan(**(kept["plan"] | {"savings": MemorySavings(**kept["plan"]["savings"])}))
    found = plan_memory(config, stage, shapes, budget, tell)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"key": key, "plan": asdict(found)})
    return found


def fit_stage(
    name: str,
    settings: Mapping[str, Any],
    ranks: int,
    folder: str | Path,
) -> MemoryPlan:
    """As `fit_to_memory`, for the training stage `name` with `memory_gb`, by what its job is told.

    folder: of the stage; the answer is kept beside it. Raises ConfigError naming the stage.
    """
    stage = parse(TrainStage, settings["stage"], where=name)
    choice = parse(ModelChoice, settings["model"], where="model")
    data = settings["data"].items()
    kinds: set[str] = {parse(DatasetSpec, values, where=key).kind for key, values in data}
    assert stage.memory_gb is not None
    file = Path(folder).parent / PLANS / f"{name}.json"
    try:
        return fit_to_memory(choice, stage, kinds, ranks, stage.memory_gb, file)
    except ConfigError as error:
        raise ConfigError(f"stages.{name}.{error}") from error


def _ladder(given: MemorySavings, shapes: list[BatchShape]) -> Iterator[MemorySavings]:
    """Ways to save, from the cheapest in time to the last resort; each keeps what was given."""
    yield given
    videos = any(shape.frames > 1 for shape in shapes)
    steps = (("trunk",), ("trunk", "decoder"), ("trunk", "decoder", "memory"))
    for parts in steps if videos else (("decoder",), ("trunk", "decoder")):
        found = replace(given, recompute=tuple(dict.fromkeys((*given.recompute, *parts))))
        if found != given:
            yield found
    if videos and given.frames_at_once is None:
        found = replace(found, frames_at_once=1)
        yield found
    objects = max(shape.clips * shape.objects for shape in shapes)
    if given.objects_at_once is None:
        while objects > 1:
            objects = -(-objects // 2)
            yield replace(found, objects_at_once=objects)


def _splits(shapes: list[BatchShape]) -> list[int]:
    """The numbers of parts that every batch can be shared into."""
    most = min(shape.clips for shape in shapes)
    return [n for n in range(1, most + 1) if all(shape.clips % n == 0 for shape in shapes)]


def _measure(
    config: SAM2Config, stage: TrainStage, shapes: list[BatchShape], split: int, usable: int | None
) -> tuple[BatchShape, int] | None:
    """The shape that takes the most, in `split` parts, and its bytes; None where one takes more
    than `usable`."""
    found: list[tuple[BatchShape, int]] = []
    for shape in shapes:
        part = replace(shape, clips=shape.clips // split)
        try:
            found.append((part, footprint(config, stage, part, usable).peak))
        except BudgetExceededError:
            return None
    return max(found, key=lambda item: item[1])


def words(savings: MemorySavings) -> str:
    """What is saved how, for a person."""
    parts = [f"recompute {', '.join(savings.recompute)}"] if savings.recompute else []
    parts += [f"{n} frame(s) at once" for n in [savings.frames_at_once] if n]
    parts += [f"{n} object(s) at once" for n in [savings.objects_at_once] if n]
    return ", ".join(parts) or "as it is"


def main() -> None:
    """Answer the one question that stands on the standard input, as JSON: the arguments of
    `fit_stage`. The last line of the output is the plan in words, or the problem."""
    try:
        answer = {"plan": str(fit_stage(**json.load(sys.stdin)))}
    except PipelineError as error:
        answer = {"problem": str(error)}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()

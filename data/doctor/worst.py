"""The heaviest batch that a stage of training can meet, for whoever plans its memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from data.doctor.survey import Survey


@dataclass(frozen=True)
class Draw:
    """How a stage draws its samples from a data set.

    frames: of a clip. objects: of a clip, at most. batch: samples in a step, over all ranks. span:
    the annotated frames of a video from the first of a clip to its last.
    """

    stage: str
    frames: int
    objects: int
    batch: int
    span: int = 1


@dataclass(frozen=True)
class WorstBatch:
    """What the heaviest batch holds: the items with the most objects x frames x pixels.

    item, objects, picture: the heaviest of them, its objects after the stage's limit, its size
    (H, W). total_objects, total_frames: of the whole batch. source_bytes: its pictures and masks at
    their own size, as a loader holds them.
    """

    stage: str
    dataset: str
    batch: int
    frames: int
    item: str
    objects: int
    picture: tuple[int, int]
    total_objects: int
    total_frames: int
    source_bytes: int
    items: tuple[str, ...]

    @property
    def row(self) -> dict[str, Any]:
        """For a json file."""
        return asdict(self)


def worst_batch(survey: Survey, draw: Draw) -> WorstBatch | None:
    """The heaviest batch of `draw` from what the survey has seen; None where it saw no object."""
    frames = draw.frames if survey.spec.kind == "video" else 1
    groups = sorted(
        (
            (min(objects, draw.objects), height, width, names)
            for (objects, height, width), names in survey.heaviest.items()
            if objects
        ),
        key=lambda group: (-group[0] * group[1] * group[2], group[3]),
    )
    chosen = list(_first(groups, draw.batch))
    if not chosen:
        return None
    objects, height, width, item = chosen[0]
    return WorstBatch(
        stage=draw.stage,
        dataset=survey.name,
        batch=draw.batch,
        frames=frames,
        item=item,
        objects=objects,
        picture=(height, width),
        total_objects=sum(one[0] for one in chosen),
        total_frames=frames * len(chosen),
        source_bytes=sum(frames * h * w * (3 + o) for o, h, w, _ in chosen),
        items=tuple(one[3] for one in chosen),
    )


def _first(
    groups: Iterable[tuple[int, int, int, list[str]]], count: int
) -> Iterator[tuple[int, int, int, str]]:
    """The first `count` items of the groups."""
    each = ((objects, h, w, name) for objects, h, w, names in groups for name in names)
    return islice(each, count)

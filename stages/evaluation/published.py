"""Figures other people published, to stand beside ours and never among them.

Every table made of them says whose they are, and every one of their cells is marked. Nothing here
was measured by this project.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.errors import DataError
from stages.evaluation.scored import Figure, Scored

Split = Literal["sav_test", "mose_val"]


@dataclass(frozen=True)
class PublishedStage:
    """What the three-stage recipe is said to reach at full scale; percent."""

    kind: str
    image: float | None
    video: float | None


THREE_STAGES = (
    PublishedStage("image_pretrain", 91.1, None),
    PublishedStage("video_train", 89.3, 78.2),
    PublishedStage("joint_train", 91.5, 82.5),
)
THREE_STAGES_SOURCE = (
    "Published with the three-stage recipe for full training on SA-1B and SA-V; not measured here. "
    "Compare the shape (video training costs pictures, joint training wins them back), not the "
    "level: other data, another size, and the source does not say which image measure it used."
)


@dataclass(frozen=True)
class PublishedModel:
    """A released SAM 2.1 model: J&F in percent, frames a second on an A100."""

    name: str
    sav_test: float
    mose_val: float
    fps: float


SAM21 = (
    PublishedModel("SAM 2.1 tiny", 76.5, 71.8, 91.2),
    PublishedModel("SAM 2.1 small", 76.6, 73.5, 84.8),
    PublishedModel("SAM 2.1 base+", 78.2, 73.7, 64.1),
    PublishedModel("SAM 2.1 large", 79.5, 74.6, 39.5),
)
SAM21_SOURCE = "Published by Meta for the released SAM 2.1 models; not measured here."
SPLITS: Mapping[Split, tuple[str, int]] = {
    "sav_test": ("SA-V test", 150),
    "mose_val": ("MOSE val", 311),
}
"""What each split is called and how many videos it has."""


def beside_published(split: Split, results: Sequence[Scored]) -> Sequence[tuple[str, float, bool]]:
    """The J&F of the released models and of `results` on one split: (name, J&F, is it ours).

    Raises DataError when a result cannot be of that split.
    """
    title, videos = SPLITS[split]
    ours = []
    for result in results:
        figure = _video(result)
        if len(figure.values) != videos:
            raise DataError(
                f"{result.source} has {len(figure.values)} videos and {title} has {videos}: the "
                f"published figures are of another split; leave --published {split} out"
            )
        ours.append((result.name, figure.mean, True))
    theirs = [(model.name, float(getattr(model, split)), False) for model in SAM21]
    return [*ours, *theirs]


def _video(result: Scored) -> Figure:
    if "video/jf" not in result.figures:
        raise DataError(f"{result.source} has no video J&F to put beside published figures")
    return result.figures["video/jf"]

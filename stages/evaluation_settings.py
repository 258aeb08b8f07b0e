"""What else a checkpoint is measured by, as values of a recipe. Importing this file loads no torch.

Each protocol has its settings here, told apart by `kind`, and a module that
`stages.evaluation.protocols` finds by the same word.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.errors import ConfigError

ZipStyle = Literal["mose", "youtube-vos"]


@dataclass(frozen=True, kw_only=True)
class VosMeasurement:
    """Masks of all videos of a data set, from the first mask of each object, as files: scored where
    the data set holds more truth than it shows, and packed for the server that holds the rest."""

    kind: Literal["vos"]
    dataset: str
    """Name from `datasets` of the recipe, in the layout of DAVIS, MOSE, LVOS, YouTube-VOS or SA-V."""
    zip: ZipStyle | None = None
    """As a server wants the masks: `mose` (and DAVIS test-dev), `youtube-vos`; none packs
    nothing."""
    show_late: bool | None = None
    """Show objects where they first appear, however late; none: as is the custom of the data set."""
    late_objects: Literal["sav", "davis"] = "sav"
    """Whether objects count from their first sight on, or on every frame."""
    skip_first_and_last: bool = True
    """Do not score the first and the last annotated frame."""


@dataclass(frozen=True, kw_only=True)
class ClicksMeasurement:
    """Pictures, click by click: how good a mask is after n clicks, and how many clicks it takes."""

    kind: Literal["clicks"]
    dataset: str
    """Name of a data set of pictures (of a video, its first annotated frame is taken)."""
    start: Literal["click", "box"] = "click"
    """The first prompt of every object; clicks follow either."""
    clicks: int = 20
    """Most clicks an object is given; one that has not reached the goal by then counts as this
    many."""
    goals: tuple[float, ...] = (85.0, 90.0)
    """IoU in percent that a user would be content with."""
    max_images: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "goals", tuple(self.goals))
        _need("clicks", self.clicks, self.clicks >= 1, "1 or more")
        _need("goals", list(self.goals), all(0 < g <= 100 for g in self.goals), "0 to 100")


@dataclass(frozen=True, kw_only=True)
class InteractiveMeasurement:
    """Videos with a user who corrects frames: J&F against the number of frames interacted with."""

    kind: Literal["interactive"]
    dataset: str
    mode: Literal["offline", "online"] = "offline"
    """`offline`: the video is gone through again and again, and the frame with the lowest IoU is
    corrected; `online`: once, and a frame is corrected on the way when its IoU is below `pause`."""
    start: Literal["click", "box", "mask"] = "click"
    """How an object is shown on the first frame that has it: by `clicks` clicks, a tight box, or its
    mask."""
    clicks: int = 3
    """Clicks on every frame that is interacted with."""
    frames: int = 8
    """Most frames of an object that are interacted with, the first one included."""
    pause: float = 0.75
    """`online`: IoU below which the user stops the video."""
    max_videos: int | None = None

    def __post_init__(self) -> None:
        _need("clicks", self.clicks, self.clicks >= 1, "1 or more")
        _need("frames", self.frames, self.frames >= 1, "1 or more")
        _need("pause", self.pause, 0 < self.pause <= 1, "above 0, at most 1")


@dataclass(frozen=True, kw_only=True)
class CocoMeasurement:
    """Masks from the true boxes of a COCO file: mask AP, with the predicted IoU as score, and
    mIoU."""

    kind: Literal["coco"]
    dataset: str
    """Name of a data set of format coco."""
    max_images: int | None = None


@dataclass(frozen=True, kw_only=True)
class OcclusionMeasurement:
    """Videos from first masks: J&F on the frames after an object was out of sight, by how long it
    was, and whether the network knows when it is there."""

    kind: Literal["occlusion"]
    dataset: str
    every_frame: bool = True
    """Track every frame; false takes only the annotated ones."""
    max_videos: int | None = None


Measurement = (
    VosMeasurement
    | ClicksMeasurement
    | InteractiveMeasurement
    | CocoMeasurement
    | OcclusionMeasurement
)
"""Any of them; a new one joins with `|`."""


def _need(field: str, found: object, good: bool, expected: str) -> None:
    if not good:
        raise ConfigError(f"{field}: found {found}, expected {expected}")

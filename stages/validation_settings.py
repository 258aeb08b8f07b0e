"""What is measured while a stage trains, as values of a recipe. Importing this file loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What is measured while a stage trains, on a fixed few of each data set, and what follows."""

    every: int
    """Steps between two validations; there is one before the first step and after the last, too."""
    images: str | None = None
    """Data set for mIoU at 1 and 3 clicks."""
    videos: str | None = None
    """Data set for J&F from the first mask of each object."""
    occlusion: str | None = None
    """Data set of videos in which objects disappear, for a J&F of their own."""
    max_images: int = 64
    """The first so many pictures; the same at every validation."""
    max_videos: int = 8
    """The same for each data set of videos."""
    metric: str | None = None
    """What "better" means: `video/jf`, `image/miou@1`, `image/miou@3` or `occlusion/jf`; none takes
    the first of these that is measured. More is better."""
    patience: int = 0
    """Training ends after so many validations in a row without a better value; 0 never ends it."""
    hand_over: Literal["last", "best"] = "last"
    """The weights that leave the stage: those of its end, or of its best validation."""
    forgetting: Literal["allow", "warn", "stop", "roll_back"] = "allow"
    """When `image/miou@1` falls below that of the weights the stage began with: nothing, a warning,
    the end of the stage, or its end and the best weights that had not forgotten."""
    forgetting_drop: float = 0.02
    """How far it may fall, as a share of the value at the start."""

    def __post_init__(self) -> None:
        if self.every < 1 or self.max_images < 1 or self.max_videos < 1:
            raise ConfigError(
                f"validation: every is {self.every}, max_images {self.max_images}, max_videos "
                f"{self.max_videos}; expected 1 or more each"
            )
        if not self.measured:
            raise ConfigError(
                "validation: nothing to measure; name a data set as images, videos or occlusion"
            )
        if self.metric is not None and self.metric not in self.measured:
            raise ConfigError(
                f"validation.metric is {self.metric!r}; what is measured here is "
                f"{', '.join(self.measured)}"
            )
        if self.patience < 0 or not 0 <= self.forgetting_drop < 1:
            raise ConfigError(
                f"validation: patience is {self.patience}, forgetting_drop {self.forgetting_drop}; "
                "expected 0 or more, and a share from 0 to 1"
            )
        if self.forgetting != "allow" and self.images is None:
            raise ConfigError("validation.forgetting looks at pictures; name them as images")

    @property
    def measured(self) -> tuple[str, ...]:
        """The metrics that may be chosen from, the most telling first."""
        return (
            *(["video/jf"] if self.videos else []),
            *(["image/miou@1", "image/miou@3"] if self.images else []),
            *(["occlusion/jf"] if self.occlusion else []),
        )

    @property
    def decisive(self) -> str:
        """The metric that decides."""
        return self.metric or self.measured[0]

    @property
    def datasets(self) -> dict[str, str]:
        """The data sets by what is measured on them."""
        named = {"images": self.images, "videos": self.videos, "occlusion": self.occlusion}
        return {kind: name for kind, name in named.items() if name is not None}

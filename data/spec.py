"""What to train on, as values of a recipe. Importing this file loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.errors import ConfigError

Format = Literal["sa1b", "sav", "sav_val", "davis", "coco", "folder"]
Kind = Literal["image", "video"]

KINDS: dict[Format, Kind] = {
    "sa1b": "image",
    "sav": "video",
    "sav_val": "video",
    "davis": "video",
    "coco": "image",
    "folder": "image",
}
"""Whether a format holds pictures or videos."""


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """One data set on disk; `data.sources.open_dataset` reads it in place."""

    format: Format
    root: str
    frames: str | None = None
    """sav: folder of extracted frames, `<frames>/<video>/00000.jpg`; none reads the mp4 files."""
    annotations: Literal["manual", "auto", "both"] = "manual"
    """sav: which masklets."""
    annotated_every: int = 4
    """sav: the video frames from one annotated frame to the next."""
    split: str | None = None
    """coco: name of the split (`val2017`). Others: a text file with one name per line, absolute or
    below the root; none takes everything that is there (sav_val: `sav_val.txt` where it exists)."""
    names: tuple[str, ...] = ()
    """Only these pictures or videos; none means all."""
    fraction: float = 1.0
    """Keep this share of the pictures or videos, chosen by a hash of their names, always the
    same."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        if not 0 < self.fraction <= 1:
            raise ConfigError(f"fraction is {self.fraction}; expected more than 0 and at most 1")
        if self.annotated_every < 1:
            raise ConfigError(f"annotated_every is {self.annotated_every}; expected 1 or more")

    @property
    def kind(self) -> Kind:
        """Whether this data set holds pictures or videos."""
        return KINDS[self.format]

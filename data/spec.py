"""What to train on, as values of a recipe. Importing this file loads no torch."""

from __future__ import annotations

import re
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

SCORED: dict[str, tuple[Format, ...]] = {
    "min_predicted_iou": ("sa1b",),
    "min_stability_score": ("sa1b", "sav"),
}
"""Which formats rate their masks."""
SECRET = re.compile(r"://[^/]*@|[?&](X-Amz-|AWSAccessKeyId|sig=)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """One data set in a folder or object store; `data.sources.open_dataset` reads it in place."""

    format: Format
    root: str
    """Folder, or URL such as `s3://bucket/sa1b`."""
    frames: str | None = None
    """sav: folder of extracted frames, `<frames>/<video>/00000.jpg`; none reads the mp4 files."""
    annotations: Literal["manual", "auto", "both"] = "manual"
    """sav: which masklets."""
    annotated_every: int | None = None
    """sav: the video frames from one annotated frame to the next; none takes it from the json
    (`fps`, else the counts of frames)."""
    split: str | None = None
    """coco: name of the split (`val2017`). Others: a text file with one name per line, absolute or
    below the root; none takes everything that is there (sav_val: `sav_val.txt` where it exists)."""
    names: tuple[str, ...] = ()
    """Only these pictures or videos; none means all."""
    exclude: tuple[str, ...] = ()
    """Without these pictures or videos; names that are not there do no harm."""
    exclude_list: str | None = None
    """A text file of names to leave out, one per line, absolute or below the root."""
    fraction: float = 1.0
    """Keep this share of the pictures or videos, chosen by a hash of their names, always the
    same."""
    min_area: float = 0.0
    """Objects smaller than this share of their picture are never chosen; in videos, on frames
    where they are."""
    max_area: float = 1.0
    """The same for larger ones."""
    min_predicted_iou: float = 0.0
    """sa1b: objects that the annotator's model rated lower are left out."""
    min_stability_score: float = 0.0
    """sa1b, sav with automatic masklets: the same for the stability score. Manual masklets have
    none and are kept."""

    def __post_init__(self) -> None:
        for name in ("names", "exclude"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("root", "frames", "split", "exclude_list"):
            if SECRET.search(getattr(self, name) or ""):
                raise ConfigError(
                    f"{name} holds a password or a signature, which would be recorded with the run; "
                    "give credentials as AWS_* variables or in ~/.aws"
                )
        if not 0 < self.fraction <= 1:
            raise ConfigError(f"fraction is {self.fraction}; expected more than 0 and at most 1")
        if self.annotated_every is not None and self.annotated_every < 1:
            raise ConfigError(f"annotated_every is {self.annotated_every}; expected 1 or more")
        if not 0 <= self.min_area < self.max_area <= 1:
            raise ConfigError(
                f"min_area is {self.min_area}, max_area {self.max_area}; "
                "expected 0 <= min_area < max_area <= 1, as shares of the picture"
            )
        for name, formats in SCORED.items():
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected a number from 0 to 1")
            if getattr(self, name) and self.format not in formats:
                raise ConfigError(
                    f"{name} is set, but {self.format} has no such score; "
                    f"only {' and '.join(formats)} has"
                )

    @property
    def kind(self) -> Kind:
        """Whether this data set holds pictures or videos."""
        return KINDS[self.format]

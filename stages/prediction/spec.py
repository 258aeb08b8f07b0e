"""What `predict` is asked to do, as plain values. Importing this file loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from pipeline.errors import ConfigError

Layout = Literal["palette", "objects", "rle"]
LAYOUTS: tuple[Layout, ...] = ("palette", "objects", "rle")
MOST_COLOURS = 255
"""Numbers a palette picture has for objects; 0 is the background."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What is said about one object on one frame: clicks and a box, or a mask.

    Pixels are those of the picture as it is shown, x to the right, y down, from the upper left
    corner.
    """

    object: int | None = None
    """Its number, 1 or more. Left out: 1, and of a mask file those of its pixels."""
    frame: int = 0
    """Of a video: the frame, counted from 0."""
    points: tuple[tuple[float, float], ...] = ()
    """Clicks, x and y."""
    labels: tuple[int, ...] = ()
    """One for each click: 1 on the object, 0 beside it; all on it when left out."""
    box: tuple[float, float, float, float] | None = None
    """x0, y0, x1, y1."""
    mask: str | Mapping[str, Any] | None = None
    """A PNG file, or a run-length mask {size, counts}."""
    picture: str | None = None
    """Of a folder of pictures: the file it is about; without it, every one."""

    def __post_init__(self) -> None:
        if self.object is not None and self.object < 1:
            raise ConfigError(f"object: found {self.object}, expected 1 or more (0 is background)")
        if self.frame < 0:
            raise ConfigError(f"frame: found {self.frame}; frames are counted from 0")
        labels = self.labels or (1,) * len(self.points)
        if len(labels) != len(self.points) or not set(labels) <= {0, 1}:
            raise ConfigError(
                f"labels: found {list(labels)} for {len(self.points)} points; expected one for "
                "each, 1 on the object or 0 beside it"
            )
        object.__setattr__(self, "labels", labels)
        if not (self.points or self.box or self.mask):
            raise ConfigError("points: none, and neither a box nor a mask; expected one of them")
        if self.mask and (self.points or self.box):
            raise ConfigError("mask: stands beside points or a box; give the mask alone")
        if self.box and not (self.box[0] < self.box[2] and self.box[1] < self.box[3]):
            raise ConfigError(
                f"box: found {list(self.box)}; expected x0, y0, x1, y1 with x0 < x1 and y0 < y1"
            )


@dataclass(frozen=True, kw_only=True)
class Everything:
    """How all objects of a picture are looked for; see `model.mask_generator.MaskGenerator`."""

    points_per_side: int = 32
    predicted_iou: float = 0.8
    stability: float = 0.95
    crop_layers: int = 0


@dataclass(frozen=True, kw_only=True)
class PredictSpec:
    """One call of `predict`; see the options of the command for the meaning of each."""

    source: str
    out: str
    checkpoint: str
    """A file or folder of shards on this machine."""
    preset: str | None = None
    image_size: int | None = None
    prompts: tuple[Prompt, ...] = ()
    everything: Everything | None = None
    images: bool = False
    backwards: bool = False
    layouts: tuple[Layout, ...] = ()
    """Empty: what suits the source."""
    masks: bool = True
    overlay: bool | None = None
    """None: for everything but data sets."""
    late_objects: bool | None = None
    """None: as is the custom of the data set."""
    score_threshold: float = 0.0
    split: str | None = None
    names: tuple[str, ...] = ()
    shard: tuple[int, int] = (1, 1)
    """Which part of how many, from 1."""
    workers: int = 1
    device: str | None = None
    again: bool = False

    def __post_init__(self) -> None:
        part, parts = self.shard
        if not 1 <= part <= parts:
            raise ConfigError(f"--shard {part}/{parts}: expected I/N with I from 1 to N")
        if self.workers < 1:
            raise ConfigError(f"--workers {self.workers}: expected 1 or more")
        if not self.masks and self.overlay is False:
            raise ConfigError("--no-masks with --no-overlay leaves nothing to write")
        if self.everything and (self.prompts or self.backwards):
            raise ConfigError("--everything finds the objects by itself; leave the prompts out")


class Event(NamedTuple):
    """Something that happened on the way."""

    kind: Literal["planned", "begun", "frame", "finished", "skipped", "failed"]
    name: str
    """Of the picture or video."""
    frames: int | None = None
    """With `planned`: how many pictures and videos there are. With `begun`: how many frames this one
    has, where that is known. With `finished`: how many were done in all."""


Tell = Callable[[Event], None]


@dataclass(frozen=True)
class Summary:
    """What a call of `predict` did."""

    finished: int
    skipped: int
    """Finished by an earlier call with the same settings."""
    frames: int
    seconds: float
    empty: tuple[str, ...]
    """Names of those that were predicted now and have no mask at all."""
    failures: tuple[str, ...]
    """What is wrong with those that could not be done, a line each."""
    places: tuple[str, ...]
    """Folders that hold results."""

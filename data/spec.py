"""What to train on and how to draw from it, as values of a recipe. Importing this file loads no
torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

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


@dataclass(frozen=True, kw_only=True)
class ClipSampling:
    """Which frames and which objects of a video make a training clip. Counts are annotated
    frames."""

    frames: int = 8
    """Frames of a clip; pictures always have one."""
    stride: int = 1
    """Every Nth annotated frame."""
    max_objects: int = 3
    """Objects of a clip, drawn from those visible on its first frame."""
    image_objects: int = 3
    """The same for a picture."""
    reverse: float = 0.5
    """Probability that a clip plays backwards."""
    drop_run_probability: float = 0.0
    """Occlusion training: probability that a run of frames is cut out of the middle of a clip, so
    that its objects have to be found again. The clip keeps its number of frames."""
    drop_run: tuple[int, int] = (1, 5)
    """Shortest and longest such run."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "drop_run", tuple(self.drop_run))
        for name in ("frames", "stride", "max_objects", "image_objects"):
            if getattr(self, name) < 1:
                raise ConfigError(f"sampling.{name} is {getattr(self, name)}; expected 1 or more")
        _probabilities(self, "sampling", "reverse", "drop_run_probability")
        _range(self, "sampling", "drop_run", least=1)


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Random changes of a clip, the same on all its frames; probabilities and strengths of 0 are
    off."""

    flip: float = 0.5
    """Probability of mirroring left and right."""
    rotate: float = 0.0
    """Largest turn to either side, degrees."""
    shear: float = 0.0
    """Largest shear to either side along x and y, degrees."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Zoom: above 1 crops, below 1 pads with grey; the place is random."""
    brightness: float = 0.0
    """Largest relative change, as for contrast and saturation."""
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    """Largest turn of the colours to either side; 0.5 is half the circle."""
    frame_jitter: float = 0.0
    """Largest further change of brightness, contrast and saturation, different on each frame."""
    gray: float = 0.0
    """Probability of removing the colours."""
    blur: float = 0.0
    """Probability of a slight Gaussian blur."""
    mosaic: float = 0.0
    """Probability that the clip is shown four times in a 2x2 grid with its objects in one of
    them."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", tuple(self.scale))
        _probabilities(self, "augment", "flip", "gray", "blur", "mosaic")
        _probabilities(self, "augment", "brightness", "contrast", "saturation", "frame_jitter")
        _range(self, "augment", "scale", least=0.05)
        for name, most in (("rotate", 180.0), ("shear", 60.0), ("hue", 0.5)):
            if not 0 <= getattr(self, name) <= most:
                raise ConfigError(
                    f"augment.{name} is {getattr(self, name)}; expected a number from 0 to {most:g}"
                )


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """How the data sets of a stage share its steps. A step trains on pictures or on clips, not
    both."""

    mode: Literal["single", "alternate", "probability"] = "single"
    """`single`: one kind only. `alternate`: pictures on even steps, clips on odd ones.
    `probability`: the kind of each step is drawn, in proportion to the weights of the data sets."""
    image_batch: int = 16
    """Pictures in a step, over all ranks."""
    video_batch: int = 4
    """Clips in a step, over all ranks."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Weight of each data set by its name; none weighs them by their length, as if concatenated."""
    max_broken: float = 0.01
    """Largest share of a data set's samples that may turn out broken; they are named and
    replaced."""

    def __post_init__(self) -> None:
        for name in ("image_batch", "video_batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"mixture.{name} is {getattr(self, name)}; expected 1 or more")
        for name, weight in self.weights.items():
            if not weight > 0:
                raise ConfigError(
                    f"mixture.weights.{name} is {weight}; expected more than 0 "
                    "(leave a data set out of `datasets` to skip it)"
                )
        _probabilities(self, "mixture", "max_broken")

    def batch_size(self, kind: Kind) -> int:
        """Samples in a step of this kind, over all ranks."""
        return self.image_batch if kind == "image" else self.video_batch


def _probabilities(spec: Any, where: str, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(spec, name) <= 1:
            raise ConfigError(
                f"{where}.{name} is {getattr(spec, name)}; expected a number from 0 to 1"
            )


def _range(spec: Any, where: str, name: str, least: float) -> None:
    bounds = getattr(spec, name)
    if len(bounds) != 2 or not least <= bounds[0] <= bounds[1]:
        raise ConfigError(
            f"{where}.{name} is {list(bounds)}; "
            f"expected [least, most] with {least:g} <= least <= most"
        )


PLAIN = Augment(flip=0.0)
"""No augmentation: pictures are only resized to the square."""

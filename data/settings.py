"""How training clips are drawn, changed and mixed, as values of a recipe. Importing this file loads
no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from pipeline.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Settings of `ClipSampling` that change during a stage; what is left out stays as it was."""

    from_step: int
    """The first batch they hold for, counted like the steps of the stage (with `loop.accumulate`:
    that many batches a step)."""
    frames: int | None = None
    stride: int | None = None
    max_objects: int | None = None
    image_objects: tuple[int, int] | None = None
    reverse: float | None = None
    drop_run_probability: float | None = None


@dataclass(frozen=True, kw_only=True)
class ClipSampling:
    """Which frames and which objects of a video make a training clip. Counts are annotated
    frames."""

    frames: int = 8
    """Frames of a clip; pictures always have one."""
    stride: int = 1
    """Every Nth annotated frame."""
    max_objects: int = 3
    """Objects of a clip, at most."""
    image_objects: tuple[int, int] = (3, 3)
    """Objects of a picture: for each one a number is drawn between these two; a picture with fewer
    gives all it has."""
    visible: Literal["first", "anywhere"] = "first"
    """Where the objects of a clip have to be seen: on its first frame, as at inference, or on any
    of its frames."""
    reverse: float = 0.5
    """Probability that a clip plays backwards."""
    drop_run_probability: float = 0.0
    """Occlusion training: probability that a run of frames is cut out of the middle of a clip, so
    that its objects have to be found again. The clip keeps its number of frames."""
    drop_run: tuple[int, int] = (1, 5)
    """Shortest and longest such run."""
    phases: tuple[Phase, ...] = ()
    """Changes on the way, by ascending `from_step`."""

    def __post_init__(self) -> None:
        for name in ("drop_run", "image_objects", "phases"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("frames", "stride", "max_objects"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 1 or more")
        _probabilities(self, "reverse", "drop_run_probability")
        _range(self, "drop_run", least=1)
        _range(self, "image_objects", least=1)
        starts = [phase.from_step for phase in self.phases]
        if starts != sorted(set(starts)) or any(start < 1 for start in starts):
            raise ConfigError(f"phases begin at {starts}; expected ascending numbers from 1 on")
        for start in starts:
            self.at(start)  # its values are checked now, not when it begins

    def at(self, step: int) -> ClipSampling:
        """The settings that hold on `step`, without phases."""
        changes: dict[str, Any] = {"phases": ()}
        for phase in self.phases:
            if phase.from_step <= step:
                changes |= {
                    item.name: value
                    for item in fields(phase)
                    if item.name != "from_step" and (value := getattr(phase, item.name)) is not None
                }
        return replace(self, **changes)


@dataclass(frozen=True, kw_only=True)
class Jitter:
    """Largest random changes of colour to either side."""

    brightness: float = 0.0
    """Relative: 0.1 multiplies by 0.9 to 1.1; as for contrast and saturation."""
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    """0.5 is half the circle of colours."""

    def __post_init__(self) -> None:
        _probabilities(self, "brightness", "contrast", "saturation")
        _most(self, hue=0.5)


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Random changes of a clip, the same on all its frames unless said otherwise; probabilities
    and strengths of 0 are off."""

    flip: float = 0.5
    """Probability of mirroring left and right."""
    rotate: float = 0.0
    """Largest turn to either side, degrees."""
    shear: float = 0.0
    """Largest shear to either side along x, degrees."""
    translate: float = 0.0
    """Largest shift to either side, as a share of width and height."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Zoom: above 1 crops, below 1 pads with grey; the place is random."""
    jitter: Jitter = field(default_factory=Jitter)
    """Colours of the whole clip."""
    gray: float = 0.0
    """Probability of removing the colours."""
    frame_jitter: Jitter = field(default_factory=Jitter)
    """A further change of colours, different on each frame."""
    blur: float = 0.0
    """Probability of a slight Gaussian blur."""
    mosaic: float = 0.0
    """Probability that the clip is shown four times in a 2x2 grid with its objects in one of
    them."""
    each_frame: tuple[Literal["flip", "affine", "gray", "blur"], ...] = ()
    """What is drawn anew for each frame; `affine` is turn, shear, shift and zoom."""
    exact: bool = False
    """Make each change as an operation of its own, to the reference's pixels; about five times
    slower (see docs/clips.md)."""

    def __post_init__(self) -> None:
        for name in ("scale", "each_frame"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        _probabilities(self, "flip", "gray", "blur", "mosaic")
        _range(self, "scale", least=0.05)
        _most(self, rotate=180.0, shear=60.0, translate=1.0)


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """How the data sets of a stage share its steps. A step trains on pictures or on clips, not
    both."""

    mode: Literal["single", "alternate", "probability", "size"] = "single"
    """`single`: every step is alike. `alternate`: pictures on even steps, clips on odd ones.
    `probability`: drawn for each step, in proportion to the weights of the data sets. `size`: drawn
    so that every picture and every video is seen equally often, as if concatenated."""
    image_batch: int = 16
    """Pictures in a step, over all ranks."""
    video_batch: int = 4
    """Clips in a step, over all ranks."""
    batches: Mapping[str, int] = field(default_factory=dict)
    """Data sets that have steps of their own, by name, and their samples in such a step."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Weight of each data set by its name; none weighs them by their length."""
    repeat: Mapping[str, float] = field(default_factory=dict)
    """How often a data set counts where data sets are weighed by length; 1 where not named."""
    max_broken: float = 0.01
    """Largest share of a data set's samples that may turn out broken; they are named and
    replaced."""

    def __post_init__(self) -> None:
        for name in ("image_batch", "video_batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 1 or more")
        for name, size in self.batches.items():
            if size < 1:
                raise ConfigError(f"batches.{name} is {size}; expected 1 or more")
        for where, values in (("weights", self.weights), ("repeat", self.repeat)):
            for name, value in values.items():
                if not value > 0:
                    raise ConfigError(
                        f"{where}.{name} is {value}; expected more than 0 "
                        "(leave a data set out of `datasets` to skip it)"
                    )
        if self.mode == "probability" and not self.weights:
            raise ConfigError(
                "mode is probability without weights; "
                "give weights, or use mode size to go by length"
            )
        if self.weights and (self.repeat or self.mode == "size"):
            raise ConfigError(
                "weights are given where data sets are weighed by length "
                f"({'repeat' if self.repeat else 'mode size'}); use one or the other"
            )
        _probabilities(self, "max_broken")


def _probabilities(spec: Any, *names: str) -> None:
    _most(spec, **dict.fromkeys(names, 1.0))


def _most(spec: Any, **limits: float) -> None:
    for name, most in limits.items():
        if not 0 <= getattr(spec, name) <= most:
            raise ConfigError(
                f"{name} is {getattr(spec, name)}; expected a number from 0 to {most:g}"
            )


def _range(spec: Any, name: str, least: float) -> None:
    bounds = getattr(spec, name)
    if len(bounds) != 2 or not least <= bounds[0] <= bounds[1]:
        raise ConfigError(
            f"{name} is {list(bounds)}; expected [least, most] with {least:g} <= least <= most"
        )


PLAIN = Augment(flip=0.0)
"""No augmentation: pictures are only resized to the square."""

"""What a synthetic world is: its size and seed, where its parts lie, the report of its making."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import ConfigError

Split = Literal["train", "val"]

# Raised when the same spec comes to be drawn differently: worlds of other versions are not reused.
WORLD_VERSION = 1

# An object of which fewer pixels can be seen counts as absent, as annotators mark no slivers.
MIN_VISIBLE_PIXELS = 24

# SA-V: 24 frames a second, masks at every fourth.
FRAME_RATE = 24
ANNOTATED_EVERY = 4

# Where each data set of a world lies, below its folder.
LAYOUT = {
    "sa1b": "sa1b/train",
    "sa1b_tar": "sa1b_tar/train",
    "sav": "sav/train",
    "sav_val": "sav_val",
    "davis": "davis",
    "coco": "coco",
}


@dataclass(frozen=True, kw_only=True)
class WorldSpec:
    """Everything a world depends on; the same spec gives the same bytes.

    frames: of each clip; with a mask at every fourth, 40 frames hold ten annotated ones.
    width, height: of pictures and clips in pixels, even.
    picture_objects, clip_objects: fewest and most annotated objects of a scene.
    motion: 1 is lively but trackable; speeds are proportional to it.
    davis_train_videos: further training clips, in the DAVIS form. The DAVIS validation clips are
        those of SA-V validation, annotated on every frame.
    """

    seed: int = 0
    train_images: int = 600
    val_images: int = 100
    train_videos: int = 120
    val_videos: int = 16
    davis_train_videos: int = 6
    frames: int = 40
    width: int = 192
    height: int = 128
    picture_objects: tuple[int, int] = (2, 4)
    clip_objects: tuple[int, int] = (1, 3)
    motion: float = 1.0

    def __post_init__(self) -> None:
        for name in ("picture_objects", "clip_objects"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        _check(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain json values."""
        return json.loads(json.dumps(asdict(self)))

    @property
    def digest(self) -> str:
        """sha256 of the spec and of the generator's version."""
        text = json.dumps({"version": WORLD_VERSION, **self.to_dict()}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class WorldReport:
    """A finished world: where it is, what it holds, and whether it was there already.

    digest: of the spec. content: sha256 over the names and bytes of all its files.
    counts: files and scenes by kind. seconds: what making it took, 0 when it was reused.
    """

    root: Path
    spec: WorldSpec
    digest: str
    content: str
    counts: dict[str, int]
    seconds: float
    reused: bool

    def path(self, name: str) -> Path:
        """The folder of one data set, by its name in LAYOUT."""
        return self.root / LAYOUT[name]


def _check(spec: WorldSpec) -> None:
    """Raise ConfigError for a value no world can have."""
    for name in ("train_images", "val_images", "train_videos", "val_videos", "davis_train_videos"):
        if getattr(spec, name) < 0:
            raise ConfigError(f"world.{name} is {getattr(spec, name)}; expected 0 or more")
    if spec.seed < 0:
        raise ConfigError(f"world.seed is {spec.seed}; expected 0 or more")
    if spec.frames < 1:
        raise ConfigError(f"world.frames is {spec.frames}; expected 1 or more")
    for name in ("width", "height"):
        side = getattr(spec, name)
        if side < 32 or side % 2 or side > 4096:
            raise ConfigError(
                f"world.{name} is {side}; expected an even number of pixels from 32 to 4096"
            )
    for name in ("picture_objects", "clip_objects"):
        bounds = getattr(spec, name)
        if len(bounds) != 2 or not 1 <= bounds[0] <= bounds[1] <= 8:
            raise ConfigError(
                f"world.{name} is {list(bounds)}; expected [fewest, most], both from 1 to 8"
            )
    if not 0 <= spec.motion <= 4:
        raise ConfigError(f"world.motion is {spec.motion}; expected a number from 0 to 4")

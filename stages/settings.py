"""The stages of a recipe as values: what is extracted, trained, measured. Importing this loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from typing import Literal

from data.settings import PLAIN, Augment, ClipSampling, Mixture
from model.config import SAM2Config, preset
from model.policy import LoRAConfig, LossConfig, MemorySavings, PromptPolicy
from pipeline.errors import ConfigError
from pipeline.settings import LoopConfig, OptimConfig
from stages.evaluation_settings import Measurement
from stages.validation_settings import Validation

ENCODER = ("image_encoder.*", "sam_mask_decoder.conv_s0.*", "sam_mask_decoder.conv_s1.*")
"""The parameters that a frame passes through before anything is asked about it."""


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """Which network."""

    preset: Literal["micro", "tiny", "small", "base_plus", "large"] = "base_plus"
    image_size: int = 1024
    version: Literal["2.0", "2.1"] = "2.1"

    def config(self, drop_path: float = 0.0, dropout: float | None = None) -> SAM2Config:
        """The network, with what a stage changes of it; dropout None leaves the preset's."""
        config = preset(self.preset, self.image_size, version=self.version, drop_path=drop_path)
        return config if dropout is None else replace(config, dropout=dropout)


@dataclass(frozen=True, kw_only=True)
class ExtractStage:
    """Frames out of the videos of one data set, once, before training."""

    kind: Literal["extract_frames"]
    dataset: str
    """The data set (format sav) whose mp4 files are read; its `frames` folder is where they go."""
    every: int = 4
    """Keep every Nth frame; SA-V is annotated at every 4th."""
    quality: int = 95
    """JPEG quality."""
    workers: int = 2
    """Videos decoded side by side."""


@dataclass(frozen=True, kw_only=True)
class TrainStage:
    """One training job."""

    kind: Literal["image_pretrain", "video_train", "joint_train", "finetune"]
    datasets: tuple[str, ...]
    """Names from `datasets` of the recipe."""
    steps: int
    optim: OptimConfig
    sampling: ClipSampling = field(default_factory=ClipSampling)
    augment: Augment = field(default_factory=Augment)
    mixture: Mixture = field(default_factory=Mixture)
    prompts: PromptPolicy = field(default_factory=PromptPolicy)
    loss: LossConfig = field(default_factory=LossConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    freeze: tuple[str, ...] = ()
    """Glob patterns of parameter names that stay as they are."""
    cache_features: bool = False
    """Keep what the frozen image encoder says about each frame on disk, and run it once a frame. For
    frozen ENCODER and pictures that do not change."""
    lora: LoRAConfig | None = None
    """Train low-rank changes of attention projections; with `freeze: ["*"]`, nothing else."""
    drop_path: float = 0.0
    """Stochastic depth of the trunk while training."""
    dropout: float | None = None
    """Dropout of the memory attention while training; none takes the preset's (micro 0, others 0.1)."""
    workers: int = 0
    """Loader processes per rank; the batches do not depend on it."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: Literal["blocks", "graphs"] | None = None
    """Train with compiled blocks (torch.compile), on CUDA also replayed as CUDA graphs. The first
    steps are slow; a restart equals an uninterrupted run up to rounding, not to the bit."""
    memory: MemorySavings = field(default_factory=MemorySavings)
    """What is computed again, or bit by bit, to fit a smaller card."""
    shard: bool = False
    """Share the image encoder's trunk out over the ranks (FSDP2): each holds its part of the
    weights, gradients and optimiser state. Nothing changes on one rank."""
    memory_gb: float | None = None
    """GiB of a card: the stage splits its batches and saves memory as it needs to fit in;
    `sam2-pipeline plan --memory GIB` shows how. None takes the settings as they are."""
    validation: Validation | None = None
    """Measure while training; none leaves it to the evaluation after the stage."""

    def __post_init__(self) -> None:
        for other, reason in (
            ("lora", "low-rank training has little to share out"),
            ("cache_features", "the trunk has to run for every batch, on all ranks alike"),
            ("compile", "shared out blocks are gathered outside of compiled code"),
        ):
            if self.shard and getattr(self, other):
                raise ConfigError(f"shard: found with {other}, use one of them: {reason}")
        if not self.cache_features:
            return
        trained = [n for n in ENCODER if not any(fnmatchcase(n, glob) for glob in self.freeze)]
        if trained:
            raise ConfigError(
                f"cache_features: freeze is {list(self.freeze)}; features that are kept must not "
                f"change, add {', '.join(trained)}"
            )
        for item in fields(Augment):
            value, plain = getattr(self.augment, item.name), getattr(PLAIN, item.name)
            if value != plain and item.name not in ("each_frame", "exact"):  # change nothing alone
                raise ConfigError(
                    f"cache_features: augment.{item.name} is {value}; a picture that changes is "
                    f"another one every time, expected {plain}"
                )


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What is measured after every stage, and before the first."""

    images: str | None = None
    """Data set for mIoU at 1 and 3 clicks; none leaves the image column empty."""
    videos: str | None = None
    """Data set for J&F from the first mask of each object."""
    max_images: int | None = None
    max_videos: int | None = None
    every_frame: bool = True
    """Track every frame of a video, as is done on SA-V; false takes only the annotated ones."""
    overlay_videos: int = 4
    """How many videos are drawn in the report and the overlay film."""
    more: Mapping[str, Measurement] = field(default_factory=dict)
    """What else a checkpoint is measured by, under names of its own: `NAME/jf` is a metric then."""
    device: str | None = None
    """Where to compute: cpu, cuda, cuda:1; none takes a GPU where there is one."""

    @property
    def datasets(self) -> dict[str, str]:
        """The data sets that are read, by what they are for."""
        named = {"images": self.images, "videos": self.videos}
        named |= {f"more.{name}": one.dataset for name, one in self.more.items()}
        return {kind: name for kind, name in named.items() if name is not None}

"""How the network is built: the four published sizes, and a small one that learns on a laptop.

A field exists only where two presets, or a recipe and a preset, differ. What all published SAM 2
models share is a constant beside the code that uses it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from pipeline.errors import ConfigError

Version = Literal["2.0", "2.1"]

MEMORY_SLOTS = 7
"""Rows of the temporal encoding of memories: six frames back, then one for prompted frames."""


@dataclass(frozen=True, kw_only=True)
class TrunkConfig:
    """The Hiera backbone: four stages, each of half the resolution and twice the width."""

    width: int
    """Channels of the first stage; a multiple of `heads`."""
    heads: int
    """Attention heads of the first stage; doubled with the width."""
    depths: tuple[int, int, int, int]
    """Blocks of each stage."""
    global_blocks: tuple[int, ...]
    """Indices of the blocks that see the whole image; never the first block of a stage."""
    windows: tuple[int, int, int, int] = (8, 4, 14, 7)
    """Side of the attention windows of each stage, in tokens."""
    background: int = 7
    """Side of the learned position map that is stretched over the image."""
    drop_path: float = 0.0
    """Probability of skipping the last block for an image in training; grows linearly from 0."""

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ConfigError(
                f"trunk.width {self.width} is not a multiple of trunk.heads {self.heads}"
            )
        if not 0 <= self.drop_path < 1:
            raise ConfigError(f"trunk.drop_path is {self.drop_path}; expected 0 <= drop_path < 1")
        if any(side % 2 for side in self.windows[:3]):
            raise ConfigError(
                f"trunk.windows {self.windows}: the first three are halved where a stage begins, "
                f"so they must be even"
            )
        if 8 % self.windows[0]:
            raise ConfigError(
                f"trunk.windows {self.windows}: the first tiles the finest map, whose side is a "
                f"multiple of 8, so it must be 2, 4 or 8"
            )
        pooled = {sum(self.depths[:stage]) for stage in (1, 2, 3)}
        wrong = sorted(
            b for b in self.global_blocks if b in pooled or not 0 <= b < sum(self.depths)
        )
        if wrong:
            raise ConfigError(
                f"trunk.global_blocks contains {wrong}: expected indices below "
                f"{sum(self.depths)} that do not begin a stage ({sorted(pooled)} do)"
            )

    @property
    def stage_widths(self) -> tuple[int, int, int, int]:
        """Channels of the four stages, finest first."""
        return self.width, 2 * self.width, 4 * self.width, 8 * self.width


@dataclass(frozen=True, kw_only=True)
class SAM2Config:
    """The whole network. Raises ConfigError where the numbers do not fit together."""

    trunk: TrunkConfig
    image_size: int = 1024
    """Side S of the square input in pixels, a multiple of 32."""
    hidden: int = 256
    """C, the width of everything behind the trunk."""
    memory_dim: int = 64
    """Cm, the width of a stored memory; divides `hidden`."""
    memory_layers: int = 4
    """Layers of memory attention."""
    feedforward: int = 2048
    """Inner width of the MLPs in memory attention and in the mask decoder's transformer."""
    decoder_heads: int = 8
    """Attention heads of the mask decoder's transformer."""
    dropout: float = 0.1
    """Of memory attention in training: on attention weights, residuals and inside the MLP."""
    version: Version = "2.1"
    """2.0 lacks the embedding of absent objects in memory and the position of object pointers."""

    def __post_init__(self) -> None:
        if self.image_size < 32 or self.image_size % 32:
            raise ConfigError(
                f"image_size is {self.image_size}; expected a positive multiple of 32"
            )
        if self.hidden % 8 or (self.hidden // 2) % self.decoder_heads:
            raise ConfigError(
                f"hidden is {self.hidden}; expected a multiple of 8 whose half is a multiple of "
                f"decoder_heads ({self.decoder_heads})"
            )
        if self.memory_dim % 4 or self.hidden % self.memory_dim:
            raise ConfigError(
                f"memory_dim is {self.memory_dim}; expected a multiple of 4 that divides hidden "
                f"({self.hidden})"
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is {self.dropout}; expected 0 <= dropout < 1")
        if self.version not in ("2.0", "2.1"):
            raise ConfigError(f"version is {self.version!r}; expected '2.0' or '2.1'")

    @property
    def grid(self) -> int:
        """Side h = w of the level that prompts and memory work on: S / 16."""
        return self.image_size // 16

    @property
    def pointer_tokens(self) -> int:
        """Memory tokens that one object pointer is split into."""
        return self.hidden // self.memory_dim


PRESETS: dict[str, SAM2Config] = {
    "micro": SAM2Config(
        # Ours, for CPUs: windows that tile 96 px without padding, and no dropout, which so small a
        # network does not need.
        trunk=TrunkConfig(
            width=16, heads=1, depths=(1, 2, 3, 2), global_blocks=(5,), windows=(8, 4, 6, 3)
        ),
        image_size=96,
        hidden=64,
        memory_dim=32,
        memory_layers=2,
        feedforward=256,
        decoder_heads=4,
        dropout=0.0,
    ),
    "tiny": SAM2Config(
        trunk=TrunkConfig(width=96, heads=1, depths=(1, 2, 7, 2), global_blocks=(5, 7, 9))
    ),
    "small": SAM2Config(
        trunk=TrunkConfig(width=96, heads=1, depths=(1, 2, 11, 2), global_blocks=(7, 10, 13))
    ),
    "base_plus": SAM2Config(
        trunk=TrunkConfig(
            width=112, heads=2, depths=(2, 3, 16, 3), global_blocks=(12, 16, 20), background=14
        )
    ),
    "large": SAM2Config(
        trunk=TrunkConfig(
            width=144,
            heads=2,
            depths=(2, 6, 36, 4),
            global_blocks=(23, 33, 43),
            windows=(8, 4, 16, 8),
        )
    ),
}


def preset(
    name: str,
    image_size: int | None = None,
    *,
    version: Version = "2.1",
    drop_path: float = 0.0,
) -> SAM2Config:
    """The configuration of a named size.

    name: one of PRESETS. image_size: another input side than the preset's (1024; micro 96).
    version: of the published weights. drop_path: of the trunk, for training.
    Raises ConfigError for an unknown name or a size that does not fit.
    """
    if name not in PRESETS:
        raise ConfigError(f"model {name!r} is unknown; expected one of {', '.join(PRESETS)}")
    base = PRESETS[name]
    return replace(
        base,
        image_size=base.image_size if image_size is None else image_size,
        version=version,
        trunk=replace(base.trunk, drop_path=drop_path),
    )

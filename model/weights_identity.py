"""Whose weights are these? Size and version from names and shapes, and what does not fit, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple, get_args

from torch import Tensor, nn

from model.config import PRESETS, SAM2Config, Version, preset
from pipeline.errors import ConfigError

SHOWN = 3
"""How many names of each kind an error lists; also how many names 2.1 has and 2.0 has not."""
ONLY_IN_21 = ("no_obj_embed_spatial", "obj_ptr_tpos_proj.weight", "obj_ptr_tpos_proj.bias")
WIDTH = "image_encoder.trunk.patch_embed.proj.weight"
HIDDEN = "image_encoder.neck.convs.0.conv.weight"
BLOCKS = "image_encoder.trunk.blocks."

Component = Literal["encoder", "decoder", "memory"]
COMPONENTS: dict[Component, tuple[str, ...]] = {
    "encoder": ("image_encoder.",),
    # `no_mem_embed` stands for an empty memory: with it, encoder and decoder segment images.
    "decoder": ("no_mem_embed", "sam_prompt_encoder.", "sam_mask_decoder."),
    "memory": (
        *("maskmem_tpos_enc", "no_mem_pos_enc", "no_obj_ptr", "no_obj_embed_spatial"),
        *("mask_downsample.", "memory_attention.", "memory_encoder."),
        *("obj_ptr_proj.", "obj_ptr_tpos_proj."),
    ),
}
"""How the names of each component begin: what segments images, in two, and what only video needs."""


class Identity(NamedTuple):
    """One of the networks that can be built by name."""

    size: str
    version: Version

    def __str__(self) -> str:
        return f"{self.size} {self.version}"


def identify(weights: Mapping[str, Tensor]) -> Identity | None:
    """The preset and version that weights are of; None where no preset is like them.

    Told by the trunk's width and depth, the hidden width and the names that only 2.1 has, so that
    weights with a missing or misshapen entry are still recognised.
    """
    if WIDTH not in weights or HIDDEN not in weights:
        return None
    blocks = {name.split(".")[3] for name in weights if name.startswith(BLOCKS)}
    found = (*weights[WIDTH].shape[:1], *weights[HIDDEN].shape[:1], len(blocks))
    version: Version = "2.1" if any(name in weights for name in ONLY_IN_21) else "2.0"
    for size, known in PRESETS.items():
        if found == _landmarks(known):
            return Identity(size, version)
    return None


def identity_of(config: SAM2Config) -> Identity | None:
    """The preset that a configuration is of, whatever its version, input side and dropout."""
    trunk = replace(config.trunk, drop_path=0.0)
    for size, known in PRESETS.items():
        if known == replace(
            config,
            trunk=trunk,
            version=known.version,
            image_size=known.image_size,
            dropout=known.dropout,
        ):
            return Identity(size, config.version)
    return None


def describe(config: SAM2Config) -> str:
    """A network's size and version, "tiny 2.1", or its widths where no preset has them."""
    trunk = config.trunk
    widths = f"trunk width {trunk.width}, depths {trunk.depths}, hidden {config.hidden}"
    return str(identity_of(config) or f"{widths}, {config.version}")


def parse_expected(words: str) -> tuple[str, Version | None]:
    """ "large 2.0" or, for any version, "large". Raises ConfigError."""
    size, _, version = words.partition(" ")
    if version not in ("", *get_args(Version)):
        raise ConfigError(
            f"expected network {words!r}: give it as 'large 2.1', 'large 2.0' or 'large'"
        )
    preset(size)
    return size, version or None  # type: ignore[return-value]


def differences(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """What keeps weights from fitting the expected names and shapes; empty where they fit."""
    missing = [name for name in expected if name not in weights]
    surplus = [name for name in weights if name not in expected]
    reshaped = [
        f"{name} is {list(weights[name].shape)}, expected {list(value.shape)}"
        for name, value in expected.items()
        if name in weights and weights[name].shape != value.shape
    ]
    found = [("missing", missing), ("not expected", surplus), ("of another shape", reshaped)]
    return "; ".join(
        f"{len(names)} {kind} ({', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''})"
        for kind, names in found
        if names
    )


def bare(name: str) -> str:
    """A parameter's name without what DDP (in front) and torch.compile (anywhere) put into it."""
    parts = [part for part in name.split(".") if part != "_orig_mod"]
    while parts[:1] == ["module"]:
        parts = parts[1:]
    return ".".join(parts)


def expected_weights(network: nn.Module) -> dict[str, Any]:
    """The network's own weights under bare names, in the published order."""
    return {bare(name): value for name, value in network.state_dict().items()}


def of_component(component: Component, names: Iterable[str]) -> list[str]:
    """Those of the names that belong to a component."""
    return [name for name in names if name.startswith(COMPONENTS[component])]


def contents(weights: Mapping[str, Tensor]) -> str:
    """What weights are, as the end of a sentence: "tiny 2.1", or "only the encoder of tiny"."""
    found = identify(weights)
    parts = [part for part in COMPONENTS if of_component(part, weights)]
    if len(parts) in (1, 2):
        return f"only the {' and '.join(parts)}{f' of {found.size}' if found else ''}"
    return str(found) if found else f"of no size known here ({len(weights)} tensors)"


def _landmarks(config: SAM2Config) -> tuple[int, int, int]:
    return config.trunk.width, config.hidden, sum(config.trunk.depths)

"""Write the weights of a checkpoint in the formats that other code loads, and read them back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from model.weights import load_checkpoint, save_checkpoint
from model.weights_identity import describe
from model.weights_write import Format, format_of
from pipeline.errors import CheckpointError, ConfigError
from pipeline.remote import is_remote
from pipeline.storage import local_path, sha256


@dataclass(frozen=True)
class Export:
    """What was written."""

    network: str
    """Size and version, such as `tiny 2.1`."""
    image_size: int
    tensors: int
    parameters: int
    files: dict[str, str]
    """SHA-256 of each file, by path or URL."""


def export_weights(
    source: str | Path,
    target: str | Path,
    form: Format | None = None,
    *,
    shards: bool = False,
    image_size: int | None = None,
) -> Export:
    """Write the weights in `source` to `target`, load them from there and compare every number.

    For the arguments see `load_checkpoint` and `save_checkpoint`. Raises CheckpointError when
    `source` does not hold the whole weights of a known network, and `target` is left as it was; or
    when what was written does not read back equal. Raises ConfigError where `target` is `source`: a
    training checkpoint would lose all but its weights.
    """
    if image_size is not None and format_of(target, form) == "pt":
        raise ConfigError(
            f"image size {image_size}: the released .pt format does not keep it; export safetensors"
        )
    if not is_remote(target) and not is_remote(source) and _is_same(source, target):
        raise ConfigError(f"{target} is the checkpoint itself; give another file to write")
    model = load_checkpoint(source, image_size=image_size)
    written = save_checkpoint(model, target, form=form, shards=shards)
    weights, again = model.state_dict(), load_checkpoint(written[-1]).state_dict()
    changed = [name for name, value in weights.items() if not torch.equal(value, again[name])]
    if changed:
        raise CheckpointError(
            f"{target} does not read back as it was written ({changed[0]} differs); check the disk"
        )
    return Export(
        network=describe(model.config),
        image_size=model.config.image_size,
        tensors=len(weights),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        files={file: sha256(file) for file in written},
    )


def _is_same(source: str | Path, target: str | Path) -> bool:
    return local_path(source).resolve() == local_path(target).resolve()

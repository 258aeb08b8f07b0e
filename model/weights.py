"""Weights in and out of the network, in the layout of the published checkpoints.

Loading is all or nothing: the network is filled completely or left as it was, and what does not fit
is named. `weights_read` opens files, `weights_identity` recognises them, `weights_write` makes them.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import IO, Any, overload

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from model.config import SAM2Config, preset
from model.sam2 import SAM2
from model.weights_identity import (
    COMPONENTS,
    Component,
    bare,
    contents,
    describe,
    differences,
    expected_weights,
    identify,
    identity_of,
    of_component,
    parse_expected,
)
from model.weights_read import Source, Stored, read_weights, require_finite
from model.weights_shards import About
from model.weights_write import Format, format_of, write_shards, write_weights
from pipeline.errors import CheckpointError, ConfigError

logger = logging.getLogger(__name__)


@overload
def load_checkpoint(source: Source, model: SAM2) -> SAM2: ...
@overload
def load_checkpoint(
    source: Source, *, image_size: int | None = None, expect: str | None = None
) -> SAM2: ...
def load_checkpoint(
    source: Source,
    model: SAM2 | None = None,
    *,
    image_size: int | None = None,
    expect: str | None = None,
) -> SAM2:
    """A network with the weights of a checkpoint; without `model` one of the size and version that
    the weights are of.

    source: a path, a URL that fsspec knows (`s3://`, `https://`, `file://`, ...), the content of a
    file, or the folder or index of a sharded export. It holds {"model": state dict}, whatever else
    training put beside it, or is one of our safetensors exports. Names may carry the prefixes of
    DDP and torch.compile. model: filled and returned; it keeps its device, dtype and mode.
    image_size: side of the input of a network that is built; by default what the file says, else
    the preset's. expect: what it must be, "large 2.0", or "large" for either version.

    Nothing in the file is executed. Raises CheckpointError where the file is missing, broken, not
    finite, or belongs to another network; a given `model` is then unchanged.
    """
    if model is not None and (image_size is not None or expect is not None):
        raise ConfigError("load_checkpoint: give a model, or image_size and expect, not both")
    stored = read_weights(source)
    if model is not None:
        _require_sound(stored, model, asked=describe(model.config))
        _tell_precision(stored)
        model.load_state_dict({name: stored.weights[bare(name)] for name in model.state_dict()})
        return model
    config, asked = _config_of(stored, image_size, expect)
    built = _without_weights(config)
    _require_sound(stored, built, asked)
    _tell_precision(stored)
    own = {name: _own_copy(stored.weights[name]) for name in built.state_dict()}
    built.load_state_dict(own, assign=True)
    return built


def load_component(source: Source, model: SAM2, component: Component) -> list[str]:
    """Fill one component of a network, `encoder`, `decoder` or `memory`, and leave the others.

    source: as for `load_checkpoint`, whole, or the shard of that component. For a network that
    starts from another one's image encoder, say. Returns the names that were filled: every one of
    the component, or CheckpointError is raised and the network is unchanged.
    """
    if component not in COMPONENTS:
        raise ConfigError(f"component {component!r}: expected one of {', '.join(COMPONENTS)}")
    stored = read_weights(source)
    own = expected_weights(model)
    wanted = {name: own[name] for name in of_component(component, own)}
    held = {name: stored.weights[name] for name in of_component(component, stored.weights)}
    if problems := differences(held, wanted):
        raise CheckpointError(
            f"the {component} of {stored.name} does not fit a {describe(model.config)}: {problems}"
        )
    require_finite(held, stored.name)
    _tell_precision(stored)
    new = own | held
    model.load_state_dict({name: new[bare(name)] for name in model.state_dict()})
    return list(wanted)


def save_checkpoint(
    model: nn.Module,
    target: str | Path | IO[bytes],
    *,
    form: Format | None = None,
    shards: bool = False,
) -> list[str]:
    """Write the weights of a network, float32 under bare names in the published order.

    model: a SAM2, or one wrapped by DDP or torch.compile. target: a path, a URL that fsspec knows,
    or an open binary file. form: "pt", the released {"model": state dict}, or "safetensors", which
    also says which network it is of; by default what the name of the target ends in, else "pt".
    shards: make a folder of `target`, with a file for each component and an index of their digests.

    Each file is there whole or not at all, and equal weights give equal bytes. Returns the paths
    written, the index last. Raises CheckpointError where weights are not finite or not those of a plain
    network, StorageError where the target cannot be written.
    """
    network = next((part for part in model.modules() if isinstance(part, SAM2)), None)
    if network is None:
        raise TypeError(f"save_checkpoint: expected a SAM2, found a {type(model).__name__}")
    weights = {name: _plain(value) for name, value in expected_weights(network).items()}
    if problems := differences(weights, _without_weights(network.config).state_dict()):
        raise CheckpointError(
            f"the network to save is no longer a plain {describe(network.config)}: {problems}. "
            "Merge what was added to it first (low-rank changes: model.lora.merged)"
        )
    require_finite(weights, "the network to save")
    about = _about(network.config)
    form = format_of(target, form)
    if not isinstance(target, str | Path):
        if shards:
            raise ConfigError("save_checkpoint: shards need a folder, not an open file")
        write_weights(weights, about, target, form)
        return []
    if shards:
        return write_shards(weights, about, target, form)
    write_weights(weights, about, target, form)
    return [str(target)]


def _config_of(
    stored: Stored, image_size: int | None, expect: str | None
) -> tuple[SAM2Config, str]:
    """The network to build for weights, and how to call what was asked for."""
    found = identify(stored.weights)
    side = stored.about.image_size if image_size is None else image_size
    if expect is not None:
        size, version = parse_expected(expect)
        version = version or (found.version if found and found.size == size else "2.1")
        return preset(size, side, version=version), f"{size} {version}"
    held = contents(stored.weights)
    if found is None or held != str(found):
        raise CheckpointError(
            f"{stored.name} is {held}, not the whole weights of a network that can be built by "
            "name; give load_checkpoint the model they belong to, or all shards in their folder"
        )
    return preset(found.size, side, version=found.version), str(found)


def _require_sound(stored: Stored, network: SAM2, asked: str) -> None:
    """Raise CheckpointError unless all weights fit the network and are finite."""
    problems = differences(stored.weights, expected_weights(network))
    if not problems:
        require_finite(stored.weights, stored.name)
        return
    held, found = contents(stored.weights), identify(stored.weights)
    if held == asked:
        raise CheckpointError(f"{stored.name} is {held} but does not fit it: {problems}")
    if held.startswith("only"):
        problems += ". Load the folder of shards, or one of them with load_component"
    elif found is not None:
        known = f"preset({found.size!r}, version={found.version!r})"
        problems += f". Leave the network to load_checkpoint, or build it with {known}"
    raise CheckpointError(f"{stored.name} is {held}, you asked for {asked}: {problems}")


def _tell_precision(stored: Stored) -> None:
    """Say so where the weights were stored with another precision than the network's."""
    others = {str(value.dtype).removeprefix("torch.") for value in stored.weights.values()}
    if others != {"float32"}:
        logger.warning("%s holds %s; converted", stored.name, " and ".join(sorted(others)))


def _about(config: SAM2Config) -> About:
    known = identity_of(config)
    return About(known.size if known else None, config.version, config.image_size)


def _without_weights(config: SAM2Config) -> SAM2:
    with torch.device("meta"), _Undrawn():
        return SAM2(config)


class _Undrawn(TorchFunctionMode):
    """A network made inside has no starting weights: they would be overwritten at once, and to draw
    numbers on the meta device torch loads its compiler, which takes longer than all else."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init" or func is Tensor.uniform_:
            return args[0] if args else kwargs["tensor"]
        return torch.empty(*args, **kwargs) if func is torch.randn else func(*args, **kwargs)


def _own_copy(value: Tensor) -> Tensor:
    """A plain float32 copy on the CPU, which no longer depends on a mapped file."""
    return torch.empty(value.shape, dtype=torch.float32).copy_(value.detach())


def _plain(value: Tensor) -> Tensor:
    """The value as a plain float32 tensor on the CPU: itself, or a copy where its strides are odd
    or it shares memory with something larger, which would be saved with it."""
    value = value.detach().to("cpu", torch.float32)
    shared = value.untyped_storage().nbytes() != value.nbytes
    odd = value.stride() != torch.empty(value.shape, device="meta").stride()
    return _own_copy(value) if shared or odd else value

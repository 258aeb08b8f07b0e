"""Weights in and out of the network, in the layout of the published checkpoints.

A checkpoint is a file of torch.save that holds {"model": state dict}. Nothing in it is ever
executed (`weights_only=True`), and the network is either filled completely or left as it was.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from zipfile import BadZipFile

import torch
from torch import Tensor

from model.config import PRESETS, SAM2Config, Version, preset
from model.sam2 import SAM2
from pipeline.errors import CheckpointError

SHOWN = 3
"""How many names of each kind an error lists."""
V21_ENTRY = "no_obj_embed_spatial"


def load_checkpoint(model: SAM2, source: str | Path | bytes) -> None:
    """Fill a network with the weights of a checkpoint, all of them or none.

    source: a path, or the content of a file. Names may carry the prefixes of DDP and torch.compile.
    Raises CheckpointError where the file is missing, cut short, holds more than tensors, or belongs
    to a network of another size or version; the network is then unchanged.
    """
    name = "the given bytes" if isinstance(source, bytes) else str(source)
    weights = _unwrapped(_read(source, name), name)
    problems = differences(weights, model)
    if problems:
        raise CheckpointError(
            f"{name} does not fit the network ({_describe(model.config)}): {problems}. "
            f"{_remedy(weights)}"
        )
    model.load_state_dict(weights, strict=True)


def save_checkpoint(model: torch.nn.Module, target: str | Path | BytesIO) -> None:
    """Write {"model": state dict} on the CPU, without wrapper prefixes, to a path or buffer.

    Not atomic: whoever keeps training checkpoints writes to a buffer or a temporary name first.
    """
    weights = {
        _bare(name): value.detach().cpu().contiguous() for name, value in model.state_dict().items()
    }
    torch.save({"model": weights}, target)


def differences(weights: Mapping[str, Tensor], model: SAM2) -> str:
    """What keeps weights from fitting a network, in words; empty where they fit."""
    expected = model.state_dict()
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


def identify(weights: Mapping[str, Tensor]) -> str | None:
    """Which preset and version weights are of, such as "tiny 2.1"; None for none of them."""
    version: Version = "2.1" if V21_ENTRY in weights else "2.0"
    for name in PRESETS:
        with torch.device("meta"):
            expected = SAM2(preset(name, version=version)).state_dict()
        if {key: value.shape for key, value in expected.items()} == {
            key: value.shape for key, value in weights.items()
        }:
            return f"{name} {version}"
    return None


def _read(source: str | Path | bytes, name: str) -> object:
    """The content of a checkpoint, made of plain containers and tensors on the CPU."""
    try:
        file = BytesIO(source) if isinstance(source, bytes) else source
        return torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{name} does not exist; expected a checkpoint file") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{name} holds more than tensors and plain containers, and was not loaded because that "
            f"could run foreign code; or it is no checkpoint at all. Expected "
            f"torch.save({{'model': state dict}}). Torch says: {str(error).splitlines()[0]}"
        ) from error
    except (RuntimeError, EOFError, BadZipFile, OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{name} cannot be read; it is probably cut short or not a checkpoint. Copy it again "
            f"and compare its size. Torch says: {(str(error) or type(error).__name__)[:200]}"
        ) from error


def _unwrapped(content: object, name: str) -> dict[str, Tensor]:
    """The state dict in a checkpoint's content, under bare names."""
    weights = content.get("model") if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not weights:
        keys = list(content)[:SHOWN] if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(
            f"{name} holds {keys}; expected a dict with the weights under 'model'"
        )
    strange = [key for key, value in weights.items() if not _is_plain(value)]
    if strange:
        raise CheckpointError(
            f"{name}: {strange[:SHOWN]} under 'model' are not dense tensors of real numbers; "
            f"expected a state dict as SAM2.state_dict() gives it"
        )
    return {_bare(str(key)): value for key, value in weights.items()}


def _is_plain(value: object) -> bool:
    """A dense tensor of real numbers with its data: what copying into a parameter never refuses."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and value.is_floating_point()
    )


def _bare(name: str) -> str:
    """A parameter's name without what DDP (in front) and torch.compile (anywhere) put into it."""
    parts = [part for part in name.split(".") if part != "_orig_mod"]
    while parts[:1] == ["module"]:
        parts = parts[1:]
    return ".".join(parts)


def _describe(config: SAM2Config) -> str:
    """A network's size and version: "tiny 2.1", or its widths where no preset has them."""
    for name, known in PRESETS.items():
        if (known.trunk.width, known.trunk.depths, known.hidden) == (
            config.trunk.width,
            config.trunk.depths,
            config.hidden,
        ):
            return f"{name} {config.version}"
    return f"trunk width {config.trunk.width}, depths {config.trunk.depths}, {config.version}"


def _remedy(weights: Mapping[str, Tensor]) -> str:
    found = identify(weights)
    if found is None:
        return "The file is of no size known here: build the network as it was trained"
    name, version = found.split()
    return f"The file is a {found}: build the network with preset({name!r}, version={version!r})"

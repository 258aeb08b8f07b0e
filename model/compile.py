"""Compile the network from outside, block by block.

A block is compiled where it stands: names in the state dict, the verbs and the files of the network
stay as they are. Between blocks the network runs as before, so nothing has to be traced whole.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from model.sam2 import SAM2
from pipeline.errors import ConfigError

VERSIONS_OF_A_BLOCK = 64
"""How many shapes of one kind of block may be compiled. torch's default of 8 is below the number of
different trunk blocks (width, window, halving) times one or several images."""


def compile_blocks(model: SAM2, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compile the trunk's blocks, the memory attention's layers, the memory encoder and the mask
    decoder of `model` in place, each without a graph break.

    The first calls are slow. A block is compiled anew when a size changes for the first time, from
    then on for any size, and once more for one row; after that, other numbers of objects, points,
    memories and frames cost nothing. In float32 the answers are those of the eager network to 1e-5.
    backend: as in torch.compile.

    Raises ConfigError where the backend finds no compiler on this machine. Raises torch's limit on
    compiled versions, for the whole process.
    """
    if backend == "inductor":
        _require_compiler(model.device)
    limit = torch._dynamo.config.recompile_limit
    torch._dynamo.config.recompile_limit = max(limit, VERSIONS_OF_A_BLOCK)
    for block in compiled_parts(model):
        block.compile(fullgraph=True, backend=backend)


def compiled_parts(model: SAM2) -> list[nn.Module]:
    """What `compile_blocks` compiles."""
    return [
        *model.image_encoder.trunk.blocks,
        *model.memory_attention.layers,
        model.memory_encoder,
        model.sam_mask_decoder,
    ]


def missing_compiler(device: torch.device) -> str | None:
    """What inductor needs for `device` and does not find; None where it finds it."""
    if device.type == "cpu":
        wanted = [os.environ.get("CXX", ""), "g++", "clang++"]
        if not any(shutil.which(name) for name in wanted if name):
            return "a C++ compiler (CXX, g++ or clang++)"
    elif find_spec("triton") is None:
        return "the package triton"
    return None


def _require_compiler(device: torch.device) -> None:
    missing = missing_compiler(device)
    if missing:
        raise ConfigError(
            f"compile: torch.compile for {device.type} needs {missing}, which is not there; "
            "install it or leave the network uncompiled"
        )

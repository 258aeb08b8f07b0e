"""Compile the network from outside, block by block.

A block is compiled where it stands: names in the state dict, the verbs and the files of the network
stay as they are. Between blocks the network runs as before, so nothing has to be traced whole.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial
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
    decoder of `model` in place, each without a graph break, for inference.

    The first calls are slow. A block is compiled anew when a size changes for the first time, from
    then on for any size, and once more for one row; after that, other numbers of objects, points,
    memories and frames cost nothing. In float32 the answers are those of the eager network to 1e-5.
    backend: as in torch.compile.

    Raises ConfigError where the backend finds no compiler on this machine. Raises torch's limit on
    compiled versions, for the whole process.
    """
    _prepare(model, backend)
    for block in [*_shared_parts(model), model.sam_mask_decoder]:
        block.compile(fullgraph=True, backend=backend)


def compile_training(
    model: SAM2,
    backend: str | Callable[..., Any] = "inductor",
    *,
    trunk: bool = True,
    graphs: bool = False,
) -> None:
    """Compile what a training step of `model` spends its time in; validation, which runs in eval
    mode, stays eager.

    The decoder's heads are left out: each answer that nobody reads would get a gradient of zero
    from compiled code, where it gets none without, and AdamW decays the one and not the other.
    Call it before `recompute`, whose recomputation then runs compiled as well.

    trunk: False where the features of a frozen encoder are kept. graphs: replay CUDA graphs
    (torch's `reduce-overhead`), one for every number of objects and memories; call
    `torch.compiler.cudagraph_mark_step_begin` before each step. Raises ConfigError where the
    compiler is missing, and for graphs without a CUDA device.
    """
    if graphs and model.device.type != "cuda":
        raise ConfigError(
            f"compile: graphs are replayed by CUDA devices, found {model.device.type}; use blocks"
        )
    _prepare(model, backend)
    options: dict[str, Any] = {"mode": "reduce-overhead"} if graphs else {"backend": backend}
    parts = [*_shared_parts(model, trunk), model.sam_mask_decoder.transformer]
    for block in parts:
        fast = torch.compile(block.forward, fullgraph=True, **options)
        block.forward = partial(_fast_in_training, block, block.forward, fast)  # type: ignore[method-assign]


def _fast_in_training(block: nn.Module, plain: Any, fast: Any, *values: Any) -> Any:
    return (fast if block.training else plain)(*values)


def _shared_parts(model: SAM2, trunk: bool = True) -> list[nn.Module]:
    """The blocks of which every output is read whenever they run."""
    blocks = model.image_encoder.trunk.blocks if trunk else ()
    return [*blocks, *model.memory_attention.layers, model.memory_encoder]


def _prepare(model: SAM2, backend: object) -> None:
    if backend == "inductor":
        _require_compiler(model.device)
    limit = torch._dynamo.config.recompile_limit
    torch._dynamo.config.recompile_limit = max(limit, VERSIONS_OF_A_BLOCK)


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

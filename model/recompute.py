"""Activation checkpointing of whole parts, applied from outside: the network does not know of it."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from model.sam2 import SAM2


def recompute(model: SAM2, parts: Collection[str]) -> None:
    """Let the named parts (`trunk`, `memory`, `decoder`) keep only their inputs in training.

    Everything else is computed again when the gradient comes by, with the same random numbers.
    Names of the parameters stay.
    """
    modules: dict[str, list[nn.Module]] = {
        "trunk": list(model.image_encoder.trunk.blocks),
        "memory": [*model.memory_attention.layers, model.memory_encoder],
        "decoder": [model.sam_mask_decoder],
    }
    for part in parts:
        for module in modules[part]:
            module.forward = partial(_forward, module, module.forward)  # type: ignore[method-assign]


def _forward(module: nn.Module, plain: object, *values: object) -> object:
    if not module.training:
        return plain(*values)  # type: ignore[operator]
    return checkpoint(plain, *values, use_reentrant=False)

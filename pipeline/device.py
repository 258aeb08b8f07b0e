"""The device that a person names, held against what torch can use here."""

from __future__ import annotations

import torch

from pipeline.errors import ConfigError


def usable_device(name: str | torch.device) -> torch.device:
    """A device by its name, such as "cpu" or "cuda:1". Raises ConfigError for one that torch does
    not know, or that is not there."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(
            f"device {name}: found no such kind; expected cpu, cuda or cuda:1"
        ) from error
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter where torch is built without it
        why = str(error).partition("\n")[0]
        raise ConfigError(f"device {name}: torch cannot use it here ({why}); give cpu") from error
    return device

"""Write the weights of a checkpoint as a file that the released code loads."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import torch

from model.config import preset
from model.sam2 import build_sam2
from model.weights import identify, load_checkpoint, save_checkpoint
from pipeline.errors import CheckpointError
from pipeline.storage import atomic_file


def export_weights(source: Path, target: Path) -> str:
    """Check the weights of `source` against the network they say they are of, and write `target`.

    Returns that network's name, such as `tiny 2.1`. Raises CheckpointError when the file is not a
    checkpoint of a known size; `target` is then left as it was.
    """
    content = torch.load(source, map_location="cpu", weights_only=True, mmap=True)
    weights = content.get("model") if isinstance(content, dict) else None
    name = identify(weights) if isinstance(weights, dict) else None
    if name is None:
        raise CheckpointError(
            f"{source} holds no weights of a known size; expected {{'model': state dict}} of one "
            "of the presets"
        )
    size, version = name.split()
    model = build_sam2(preset(size, version=version))  # type: ignore[arg-type]
    load_checkpoint(model, source)
    buffer = BytesIO()
    save_checkpoint(model, buffer)
    with atomic_file(target) as file:
        file.write(buffer.getbuffer())
    return name

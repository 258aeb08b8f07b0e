"""`export`: a checkpoint as files that facebookresearch/sam2, or any reader of safetensors, loads."""

from __future__ import annotations

import argparse
from pathlib import Path

from flows.weights import local_weights
from pipeline.remote import is_remote
from pipeline.storage import local_path, require_writable


def export(arguments: argparse.Namespace) -> int:
    """Write the weights, read them back, and say what they are."""
    from stages.export import export_weights

    out = str(arguments.out)
    if not is_remote(out):
        out = str(local_path(out).absolute())
        require_writable(Path(out).parent, "output folder")
    source: str | Path = arguments.checkpoint
    if str(source).startswith(("runs:/", "models:/")):
        source = local_weights(arguments.checkpoint, arguments.runs)
    done = export_weights(
        source, out, arguments.format, shards=arguments.shards, image_size=arguments.image_size
    )
    print(
        f"{done.network}: {done.tensors} tensors, {done.parameters:,} parameters; read back equal"
    )
    for file, digest in done.files.items():
        print(f"{file}  sha256 {digest}")
    return 0

"""The arithmetic the published numbers were computed with, on demand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def exact() -> Iterator[None]:
    """Inside, the network computes as the reference does in float32, whatever was set outside.

    Three things make it faster and less exact: autocast to half precision, reduced precision inside
    float32 products and convolutions (TF32, or bfloat16 on a CPU), and compiled blocks, whose sums
    run in another order. None of them is used here. All else that is faster than the reference is
    the same arithmetic and stays within the tolerances of the golden numbers. Autocast is switched
    off for the types of device that are there; settings are restored at the end.
    """
    products = torch.get_float32_matmul_precision()
    convolutions = torch.backends.cudnn.allow_tf32
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    before = {device: torch.is_autocast_enabled(device) for device in devices}
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    for device in devices:
        torch.set_autocast_enabled(device, False)
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions
        for device, enabled in before.items():
            torch.set_autocast_enabled(device, enabled)

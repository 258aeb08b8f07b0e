"""A copy of a training state in the host's memory, so that training can go on while it is written.

The buffers are used again for the next copy, and pinned where the state lies on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


class HostCopy:
    """Buffers as large as what was copied last."""

    def __init__(self) -> None:
        self.buffers: dict[str, Tensor] = {}

    @torch.no_grad()
    def of(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The same nested dictionaries, lists and plain values, every tensor a copy on the CPU.

        The copies stay valid until the next call. Waits for the device.
        """
        used: dict[str, Tensor] = {}
        copied = {name: self._copied(item, name, used) for name, item in values.items()}
        if any(tensor.is_cuda for tensor in tensors(values)):
            torch.cuda.synchronize()
        self.buffers = used  # what the state no longer has is given up
        return copied

    def _copied(self, value: Any, path: str, used: dict[str, Tensor]) -> Any:
        if isinstance(value, Tensor):
            used[path] = self._buffer(value, path).copy_(value, non_blocking=True)
            return used[path]
        if isinstance(value, Mapping):
            return {key: self._copied(item, f"{path}/{key}", used) for key, item in value.items()}
        if isinstance(value, list | tuple):
            items = [self._copied(item, f"{path}/{n}", used) for n, item in enumerate(value)]
            return type(value)(items)
        return value

    def _buffer(self, like: Tensor, path: str) -> Tensor:
        found = self.buffers.get(path)
        if found is not None and (found.shape, found.dtype) == (like.shape, like.dtype):
            return found
        return torch.empty(like.shape, dtype=like.dtype, pin_memory=like.is_cuda)


def tensors(values: Any) -> Iterator[Tensor]:
    """All tensors in nested dictionaries and lists."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, Mapping):
        for item in values.values():
            yield from tensors(item)
    elif isinstance(values, list | tuple):
        for item in values:
            yield from tensors(item)


@torch.no_grad()
def all_finite(values: Any) -> bool:
    """Whether no tensor in `values` holds an infinity or what is not a number; looked at where the
    tensors lie."""
    by_device: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors(values):
        if tensor.is_floating_point() and tensor.numel():
            by_device.setdefault(tensor.device, []).append(tensor)
    for group in by_device.values():
        # a sum is finite only where all its terms are, and quick; a large one tells nothing
        sums = torch.stack([tensor.sum(dtype=torch.float32) for tensor in group])
        if not sums.isfinite().all() and not all(bool(t.isfinite().all()) for t in group):
            return False
    return True

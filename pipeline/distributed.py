"""The ranks of a job: who we are, and the few things ranks agree on.

`init` reads submitit's, torchrun's or no environment. There is no DDP wrapper: after backward,
`average_gradients` reduces the gradients in flat buckets, and parameters that no rank used keep no
gradient at all, so that the optimiser leaves them alone. Small host values (flags, counts) travel
over a gloo group and never wait for the GPU.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.errors import StageError
from pipeline.heartbeat import pulse
from pipeline.rendezvous import meet

PATIENCE_SECONDS = 3600.0
"""How long ranks wait for one that is alive: it may have the longest videos to evaluate, or a
checkpoint to fetch. In training `pipeline.watcher` finds what hangs long before."""
BUCKET_ELEMENTS = 8 << 20
"""Gradients reduced in one call: 32 MB of fp32, large enough that latency does not count."""


@dataclass(frozen=True)
class World:
    """The ranks that train together; one of size 1 has no process group."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    control: Any = None
    """Process group for host values: gloo, also where gradients travel over nccl."""

    @property
    def is_first(self) -> bool:
        """Whether this rank writes files and metrics."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether any rank says True."""
        return self.any_of([flag])[0] if self.size > 1 else flag

    def any_of(self, flags: Sequence[bool]) -> list[bool]:
        """For each position, whether any rank says True; all ranks pass the same number."""
        if self.size == 1:
            return list(flags)
        bits = torch.tensor(flags, dtype=torch.uint8)
        with pulse.collective("agreement"):
            dist.all_reduce(bits, op=dist.ReduceOp.MAX, group=self.control)
        return [bool(bit) for bit in bits.tolist()]

    def sum(self, value: float) -> float:
        """The sum over ranks, in fp64."""
        if self.size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64)
        with pulse.collective("sum"):
            dist.all_reduce(total, group=self.control)
        return float(total)

    def mean(self, values: Mapping[str, float]) -> dict[str, float]:
        """The mean over ranks of every value; ranks may know different names."""
        if self.size == 1:
            return dict(values)
        gathered = self.gather(dict(values))
        names = sorted({name for part in gathered for name in part})
        present = {name: [part[name] for part in gathered if name in part] for name in names}
        return {name: sum(found) / len(found) for name, found in present.items()}

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, in the order of ranks; small and picklable."""
        gathered: list[Any] = [value] * self.size
        if self.size > 1:
            with pulse.collective("gather"):
                dist.all_gather_object(gathered, value, group=self.control)
        return gathered

    def share(self, value: Any) -> Any:
        """Rank 0's value, on every rank; small and picklable."""
        if self.size == 1:
            return value
        box = [value]
        with pulse.collective("share"):
            dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]


def init(device: str = "auto", timeout_seconds: float = PATIENCE_SECONDS) -> World:
    """Join the ranks this process was started with.

    device: `cpu`, `cuda`, or `auto` for a GPU where there is one; each rank takes the GPU of its
    local rank. A rank that is waited for longer than `timeout_seconds` fails the job.
    """
    rank, size, local_rank = _who_am_i()
    chosen = _device(device, local_rank)
    if size == 1:
        return World(device=chosen)
    timeout = timedelta(seconds=timeout_seconds)
    if os.environ.get("MASTER_ADDR") == "127.0.0.1" and os.uname().sysname == "Linux":
        os.environ.setdefault(
            "GLOO_SOCKET_IFNAME", "lo"
        )  # the host's own name often does not resolve
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    device_id = chosen if backend == "nccl" else None
    store = meet(rank, size, timeout) if _under_slurm() else None  # None: MASTER_ADDR and _PORT
    dist.init_process_group(
        backend, store=store, rank=rank, world_size=size, timeout=timeout, device_id=device_id
    )
    control = dist.new_group(backend="gloo", timeout=timeout) if backend == "nccl" else None
    return World(rank=rank, size=size, device=chosen, control=control)


def shutdown() -> None:
    """Leave the process group, if there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def broadcast_parameters(world: World, model: nn.Module, leave: Collection[str] = ()) -> None:
    """Give every rank the parameters and buffers of rank 0, those named in `leave` excepted."""
    if world.size == 1:
        return
    with pulse.collective("broadcast of the weights"):
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name not in leave:
                dist.broadcast(tensor.detach(), src=0)


def average_gradients(world: World, parameters: Sequence[nn.Parameter], bad: Tensor) -> Tensor:
    """Average the gradients over ranks in place, as DDP does; returns in how many ranks `bad` is
    set.

    bad: float scalar on the device, 1 where this rank's loss was not finite. A rank without a
    gradient for a parameter that another rank used counts as zero; a parameter no rank used keeps
    `grad = None`.
    """
    if world.size == 1:
        return bad
    used_somewhere = world.any_of([parameter.grad is not None for parameter in parameters])
    gradients: list[Tensor] = [bad.reshape(1).float()]
    for parameter, used in zip(parameters, used_somewhere, strict=True):
        if used:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
    for bucket in _buckets(gradients):
        flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
        with pulse.collective("sum of the gradients"):
            dist.all_reduce(flat)
        pieces = flat.div_(world.size).split([gradient.numel() for gradient in bucket])
        shaped = [piece.view_as(item) for piece, item in zip(pieces, bucket, strict=True)]
        torch._foreach_copy_(bucket, shaped)
    return gradients[0][0] * world.size


def _buckets(gradients: Sequence[Tensor]) -> list[list[Tensor]]:
    """Gradients of one dtype together, at most BUCKET_ELEMENTS where a single one is not larger."""
    buckets: list[list[Tensor]] = []
    fill: dict[torch.dtype, tuple[list[Tensor], int]] = {}
    for gradient in gradients:
        bucket, size = fill.get(gradient.dtype, ([], BUCKET_ELEMENTS))
        if size + gradient.numel() > BUCKET_ELEMENTS:
            bucket, size = [], 0
            buckets.append(bucket)
        bucket.append(gradient)
        fill[gradient.dtype] = (bucket, size + gradient.numel())
    return buckets


def _who_am_i() -> tuple[int, int, int]:
    """(rank, world size, local rank) from the environment."""
    if os.environ.get("SUBMITIT_EXECUTOR"):
        from submitit import JobEnvironment

        found = JobEnvironment()
        return found.global_rank, found.num_tasks, found.local_rank
    environment = os.environ
    if "RANK" in environment and "WORLD_SIZE" in environment:
        local_rank = int(environment.get("LOCAL_RANK", environment["RANK"]))
        return int(environment["RANK"]), int(environment["WORLD_SIZE"]), local_rank
    return 0, 1, 0


def _under_slurm() -> bool:
    return os.environ.get("SUBMITIT_EXECUTOR") == "slurm"


def _device(wanted: str, local_rank: int) -> torch.device:
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise StageError(
            f"device {wanted} was asked for, but torch sees no GPU; use device=cpu or auto"
        )
    index = (
        local_rank % torch.cuda.device_count()
    )  # a scheduler may show each rank only its own GPU
    torch.cuda.set_device(index)
    return torch.device("cuda", index)

"""Parameters that no rank holds whole: FSDP2 for the parts of a network that outgrow a card.

Each of these parts is gathered for its own forward and backward and given up afterwards; its
gradients come back averaged over the ranks, as those of the rest do. To the optimiser, the moving
average and the loss scale a shard is an ordinary parameter, this rank's rows. A checkpoint of each
rank's rows (`pipeline.checkpoint_parts`) can be continued by any number of ranks, sharing or not.

Source: Zhao et al., PyTorch FSDP; torch.distributed.fsdp.fully_shard (per-parameter sharding along
the first dimension, as torch.chunk cuts it).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from pipeline.checkpoint_parts import Path_, Rows, RowsOf
from pipeline.distributed import World, broadcast_parameters


class Sharding:
    """Which parameters of a model are shared out, and this rank's part of each.

    What is shared out runs the same number of times, in the same order, on every rank: each run
    gathers.
    """

    def __init__(self, world: World, model: nn.Module, parts: Sequence[nn.Module]) -> None:
        """Share out `parts` of `model`, inner ones before those they lie in, from rank 0's values.

        Every rank calls it, after parameters were frozen and before there is an optimiser.
        """
        self.world = world
        mesh = init_device_mesh(world.device.type, (world.size,))
        broadcast_parameters(world, model)
        for part in parts:
            fully_shard(part, mesh=mesh)
        self.parameters = {
            name: item for name, item in model.named_parameters() if isinstance(item, DTensor)
        }
        with torch.no_grad():
            self.shards = {
                name: nn.Parameter(item.to_local(), requires_grad=item.requires_grad)
                for name, item in self.parameters.items()
            }
        self.background = dist.new_group(backend="gloo")
        """Process group for what happens beside the training."""
        self._own = {id(shard): name for name, shard in self.shards.items()}

    def replicated(self, parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
        """Those of `parameters` that every rank holds whole."""
        return [item for item in parameters if id(item) not in self._own]

    @torch.no_grad()
    def collect(self) -> None:
        """After backward: let the shards have the gradients, and be where the model's values are
        (FSDP may move them when it first runs)."""
        for name, item in self.parameters.items():
            shard = self.shards[name]
            shard.data = item.to_local()
            shard.grad = None if item.grad is None else item.grad.to_local()  # type: ignore[attr-defined]
            item.grad = None

    def clip(self, parameters: Sequence[nn.Parameter], largest: float) -> Tensor:
        """Scale all gradients down to a total norm of `largest`, over shards and replicated ones
        together; returns the norm before."""
        shared = [shard.grad for shard in self.shards.values() if shard.grad is not None]
        rest = [item.grad for item in self.replicated(parameters) if item.grad is not None]
        squares = torch.nn.utils.get_total_norm(shared).square().to(self.world.device)
        dist.all_reduce(squares)
        squares += torch.nn.utils.get_total_norm(rest).square().to(self.world.device)
        norm = squares.sqrt()
        torch.nn.utils.clip_grads_with_norm_(parameters, largest, norm)
        return norm

    def whole(self, model: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """The state dict of `model` item by item, shards gathered. Every rank has to go through all
        of it."""
        for name, value in model.state_dict().items():
            yield name, self._gather(name, self.shards[name]) if name in self.shards else value

    def local(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The state dicts `values` with this rank's rows of what the model shares out."""
        model = {name: self.shards.get(name, item) for name, item in values["model"].items()}
        return {**values, "model": {name: item.detach() for name, item in model.items()}}

    def joined(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The reverse of `local`: what the model, whose shards know of each other, can load."""
        model = dict(values["model"])
        for name in self.shards.keys() & model.keys():
            model[name] = self._joined(name, model[name].to(self.world.device))
        return {**values, "model": model}

    def rows_of(self, optimizer: torch.optim.Optimizer) -> RowsOf:
        """Which rows of the tensors of a checkpoint this rank holds."""
        parameters = [item for group in optimizer.param_groups for item in group["params"]]
        owners = {place: self._own.get(id(item)) for place, item in enumerate(parameters)}

        def rows(path: Path_, dimensions: int) -> Rows | None:
            """Moments have the name of their parameter, which the optimiser knows by its place."""
            name = owners.get(path[2]) if path[0] == "optimizer" else path[-1]
            if name not in self.shards or not dimensions:
                return None
            shape = tuple(self.parameters[name].shape)
            each = -(-shape[0] // self.world.size)  # as torch.chunk cuts
            start = min(self.world.rank * each, shape[0])
            return Rows(start, min(each, shape[0] - start), shape)

        return rows

    def _gather(self, name: str, piece: Tensor) -> Tensor:
        return self._joined(name, piece.detach()).full_tensor()

    def _joined(self, name: str, piece: Tensor) -> DTensor:
        """This rank's `piece` as its part of a tensor like the parameter `name`."""
        like = self.parameters[name]
        return DTensor.from_local(
            piece, like.device_mesh, like.placements, shape=like.shape, stride=like.stride()
        )

"""Parameters that no rank holds whole: FSDP2 for the parts of a network that outgrow a card.

Each of these parts is gathered for its own forward and backward and given up afterwards; its
gradients come back averaged over the ranks, as those of the rest do. To the optimiser, the moving
average and the loss scale a shard is an ordinary parameter, this rank's rows. What is written to
disk is whole: a checkpoint does not tell how many ranks wrote it, nor whether they shared.

Source: Zhao et al., PyTorch FSDP; torch.distributed.fsdp.fully_shard (per-parameter sharding along
the first dimension, as torch.chunk cuts it).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

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

    def gathered(
        self, values: Mapping[str, Any], optimizer: torch.optim.Optimizer
    ) -> dict[str, Any]:
        """State dicts `model`, `optimizer`, `average` as one rank without sharding has them.

        Every rank calls it; off rank 0 the answer holds nothing in place of gathered tensors.
        """

        def gather(name: str, piece: Tensor) -> Tensor:
            local = piece.to_local() if isinstance(piece, DTensor) else piece
            found = self._gather(name, local.detach())
            return found.cpu().clone() if self.world.is_first else found.new_empty(0)

        return self._changed(values, optimizer, gather)

    def shared_out(
        self, values: Mapping[str, Any], optimizer: torch.optim.Optimizer
    ) -> dict[str, Any]:
        """The reverse of `gathered`: this rank's part of whole state dicts, ready to be loaded."""
        found = self._changed(values, optimizer, self._cut)
        model = found["model"]
        found["model"] = model | {n: self._joined(n, model[n]) for n in self.shards if n in model}
        return found

    def _changed(
        self,
        values: Mapping[str, Any],
        optimizer: torch.optim.Optimizer,
        change: Callable[[str, Tensor], Tensor],
    ) -> dict[str, Any]:
        """`values` with everything that belongs to a shard sent through `change`, in the order of
        names and positions, which all ranks share."""

        def named(items: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {n: change(n, item) if n in self.shards else item for n, item in items.items()}

        parameters = [item for group in optimizer.param_groups for item in group["params"]]
        owner = {place: self._own.get(id(item)) for place, item in enumerate(parameters)}
        states = {}
        for place, state in values["optimizer"]["state"].items():
            name = owner.get(place)
            states[place] = {
                key: change(name, item) if name and isinstance(item, Tensor) and item.ndim else item
                for key, item in state.items()
            }
        found = {key: named(values[key]) for key in ("model", "average") if key in values}
        return {**values, **found, "optimizer": {**values["optimizer"], "state": states}}

    def _gather(self, name: str, piece: Tensor) -> Tensor:
        return self._joined(name, piece.detach()).full_tensor()

    def _joined(self, name: str, piece: Tensor) -> DTensor:
        """This rank's `piece` as its part of a tensor like the parameter `name`."""
        like = self.parameters[name]
        return DTensor.from_local(
            piece, like.device_mesh, like.placements, shape=like.shape, stride=like.stride()
        )

    def _cut(self, name: str, whole: Tensor) -> Tensor:
        """This rank's rows of `whole`. Raises ValueError for another shape than the parameter's."""
        if whole.shape != self.parameters[name].shape:
            raise ValueError(
                f"{name} is {list(whole.shape)}, expected {list(self.parameters[name].shape)}"
            )
        rows = whole.chunk(self.world.size)
        mine = rows[self.world.rank] if self.world.rank < len(rows) else whole[:0]
        return mine.to(self.world.device, copy=True)

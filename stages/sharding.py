"""Which part of SAM 2 is shared out over the ranks, and how to have the whole of it again.

The image encoder's trunk is most of the network (95 % of large) and runs once a step on every rank,
whatever there is to follow. The rest is small, and which of it runs depends on prompts and objects.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch

from model.sam2 import SAM2
from pipeline.checkpoint import TrainState
from pipeline.distributed import World

if TYPE_CHECKING:
    from pipeline.sharding import Sharding


def shard_trunk(world: World, model: SAM2) -> Sharding:
    """Share out the trunk, block by block; every rank calls it."""
    from pipeline.sharding import Sharding  # takes a second to load, for few stages

    # nothing writes into the trunk's maps, which are views
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view", UserWarning)
    trunk = model.image_encoder.trunk
    return Sharding(world, model, [*trunk.blocks, trunk])


@torch.no_grad()
def whole(state: TrainState) -> SAM2:
    """The network with ordinary parameters only: that of `state` itself where nothing is shared
    out, else a copy on the same device, in the same modes.

    Every rank calls it, outside of inference mode. The copy may be run at will, on one rank alone.
    """
    model = state.model
    assert isinstance(model, SAM2)
    if state.sharding is None:
        return model
    plain = SAM2(model.config).to(model.device)
    places = plain.state_dict()
    for name, value in state.sharding.whole(model):
        places[name].copy_(value)
    for module, copy in zip(model.modules(), plain.modules(), strict=True):
        copy.training = module.training
    return plain

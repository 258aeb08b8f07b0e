"""The published way of working, re-enacted with our own modules.

This is no measurement of the published code: it is our network with what we do differently undone,
so that both run in one process on the same weights and give the same masks. Undone are:

- objects in one batch: here one after another, a batch of one each, with a memory bank of its own;
- frames encoded some at a time: here one by one;
- queries, keys and values before window padding: here the input is padded, and its padding projected;
- the two 1 x 1 convolutions behind strides 4 and 8 as one: here a map of full width lies between;
- one layer norm kernel on channels-last maps: here mean and variance written out;
- the decoder's encoding of places once per size: here for every call.

Left as they are, because both do them alike: scaled_dot_product_attention, complex rotary positions,
bfloat16 memories, resizing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from types import MethodType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from model.hiera import WindowAttention
from model.layers import LayerNorm2d
from model.memory_bank import MemoryBank
from model.memory_choice import MemoryWindow
from model.neck import FpnNeck
from model.sam2 import SAM2, mask_logits
from model.types import FramePrediction, ImageFeatures, Prompts
from model.video_features import encode_frames
from model.video_follow import squared_masks


def as_reference(model: SAM2) -> SAM2:
    """A copy of `model` that computes its layers the published way."""
    plain = copy.deepcopy(model)
    ways: dict[type[nn.Module], tuple[str, Callable[..., object]]] = {
        WindowAttention: ("forward", _padded_attention),
        LayerNorm2d: ("forward", _written_out_norm),
        FpnNeck: ("fine", _two_convolutions),
    }
    for module in plain.modules():
        if type(module) in ways:
            name, way = ways[type(module)]
            setattr(module, name, MethodType(way, module))
    return plain


@torch.inference_mode()
def track_as_reference(
    model: SAM2, frames: NDArray[np.uint8], masks: NDArray[np.bool_]
) -> Iterator[Tensor]:
    """As `VideoPredictor(model).track`; masks: bool [O, H, W] of the first frame."""
    window = MemoryWindow(future_pointers=False)
    banks = [MemoryBank(model, window, len(frames)) for _ in masks]
    size = masks.shape[1:]
    for position, frame in enumerate(frames):
        seen = encode_frames(model, [frame])[0]
        out = []
        for bank, mask in zip(banks, masks, strict=True):
            if position == 0:
                given = torch.from_numpy(mask)[None, None].float().to(model.device)
                answer = model.adopt_mask(seen, squared_masks(given, model.config.image_size))
                out.append(mask_logits(given))
            else:
                answer = _follow(model, bank, position, seen)
                out.append(F.interpolate(answer.low.float(), size=size, mode="bilinear"))
            _remember(model, bank, position, seen, answer)
        yield torch.cat(out)[:, 0]


def _follow(model: SAM2, bank: MemoryBank, frame: int, seen: ImageFeatures) -> FramePrediction:
    grid = model.sam_prompt_encoder.grid(*seen.s16.shape[2:])
    nothing = Prompts.none(1, model.device)
    recalled = bank.recall(frame, seen)
    return model.decode(recalled, seen._replace(grid=grid), nothing, multimask=True)


def _remember(
    model: SAM2, bank: MemoryBank, frame: int, seen: ImageFeatures, answer: FramePrediction
) -> None:
    side = model.config.image_size
    full = F.interpolate(answer.low.float(), size=(side, side), mode="bilinear")
    memory = model.remember(seen, full, answer.object_score, from_prompt=False)
    stored = memory.features.bfloat16().to(memory.features.dtype)
    bank.keep(frame, memory._replace(features=stored), answer.pointer, conditioning=frame == 0)


def _padded_attention(attention: WindowAttention, x: Tensor) -> Tensor:
    batch, height, width, _ = x.shape
    rows, columns = (attention.window, attention.window) if attention.window else (height, width)
    x = F.pad(x, (0, 0, 0, -width % columns, 0, -height % rows))
    down, across = x.shape[1] // rows, x.shape[2] // columns
    x = x.view(batch, down, rows, across, columns, -1).transpose(2, 3).flatten(0, 2)
    q, k, v = attention.qkv(x).chunk(3, dim=-1)
    if attention.halve:
        q = F.max_pool2d(q.permute(0, 3, 1, 2), kernel_size=2).permute(0, 2, 3, 1)
        height, width, rows, columns = height // 2, width // 2, rows // 2, columns // 2
    q, k, v = (
        t.flatten(1, 2).unflatten(2, (attention.heads, -1)).transpose(1, 2) for t in (q, k, v)
    )
    answer = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    answer = attention.proj(answer).view(batch, down, across, rows, columns, -1).transpose(2, 3)
    return answer.flatten(3, 4).flatten(1, 2)[:, :height, :width]


def _written_out_norm(norm: LayerNorm2d, x: Tensor) -> Tensor:
    mean = x.mean(1, keepdim=True)
    variance = (x - mean).pow(2).mean(1, keepdim=True)
    x = (x - mean) / torch.sqrt(variance + 1e-6)
    return norm.weight[:, None, None] * x + norm.bias[:, None, None]


def _two_convolutions(neck: FpnNeck, stages: list[Tensor], level: int, head: nn.Conv2d) -> Tensor:
    return head(neck.convs[3 - level](stages[level]))

"""What was tried and left out: `python -m benchmarks rejected`. A ratio near or below 1 is the reason.

Every row asserts first that the rejected way gives the same numbers.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.measure import Row, compare
from benchmarks.network import MEMORIES, inference, network
from model.attention import Attention
from model.position import _rotate_real, rotate, rotations

SIDES = (256, 1024)


def rejected_rows() -> list[Row]:
    """Cross attention to a full memory in other ways, for one object, and rotations in real numbers."""
    torch.manual_seed(0)
    attention = network("tiny", 256, "cpu").memory_attention.layers[0].cross_attn_image
    with inference(1):
        return [row for side in SIDES for row in _attention_rows(attention, side // 16)] + [
            _rotation_row(16)
        ]


def _attention_rows(attention: Attention, grid: int) -> list[Row]:
    cells = grid * grid
    table = rotations(grid, grid, 256, torch.device("cpu"))
    image = torch.randn(1, cells, 256)
    memories = [torch.randn(1, cells, 64) for _ in range(MEMORIES)]
    times = [0.1 * torch.randn(1, 1, 64) for _ in range(MEMORIES)]
    values = torch.cat(memories, dim=1)
    keys = torch.cat([m + t for m, t in zip(memories, times, strict=True)], dim=1)

    def ours() -> Tensor:
        return attention(image, keys, values, table, keys.shape[1])

    def absorbed() -> Tensor:
        """Rows of the soft-max sum to one, so values may be projected after they are averaged."""
        q, k = rotate(attention.q_proj(image)[:, None], table, cells), attention.k_proj(keys)
        k = rotate(k[:, None], table, keys.shape[1])
        read = F.scaled_dot_product_attention(q, k, values[:, None])[:, 0]
        return attention.out_proj(attention.v_proj(read))

    kept_keys = [rotate(attention.k_proj(m), table, cells) for m in memories]
    kept_values = [attention.v_proj(m) for m in memories]
    weight = attention.k_proj.weight

    def kept() -> Tensor:
        """Keys and values of each memory are there already; what the time adds to a key is added."""
        q = rotate(attention.q_proj(image)[:, None], table, cells)
        moved = [
            k + rotate(F.linear(t, weight).expand(1, cells, -1), table, cells)
            for k, t in zip(kept_keys, times, strict=True)
        ]
        k, v = torch.cat(moved, dim=1)[:, None], torch.cat(kept_values, dim=1)[:, None]
        read = F.scaled_dot_product_attention(q, k, v)[:, 0]
        return attention.out_proj(read)

    rows = []
    grown = MEMORIES * cells * 512 / (MEMORIES * cells * 64)
    for name, way, note in (
        ("values projected after attention", absorbed, ""),
        (
            "keys and values kept",
            kept,
            f"a memory takes {4 * grown:.0f} times the room in 4 layers",
        ),
    ):
        torch.testing.assert_close(way(), ours(), atol=1e-4, rtol=1e-4)
        rows.append(
            compare(
                f"cross attention, {MEMORIES} memories of {grid}x{grid}",
                (name, way),
                ("ours", ours),
                note=note,
                clock=time.process_time,
            )
        )
    return rows


def _rotation_row(grid: int) -> Row:
    table = rotations(grid, grid, 256, torch.device("cpu"))
    keys = torch.randn(1, MEMORIES * grid * grid, 256)

    def real() -> Tensor:
        pairs = keys.unflatten(-1, (-1, 2)).unflatten(-3, (-1, len(table)))
        return _rotate_real(pairs, table).reshape(keys.shape)

    def ours() -> Tensor:
        return rotate(keys, table, keys.shape[1])

    torch.testing.assert_close(real(), ours(), atol=1e-5, rtol=1e-5)
    return compare("rotary positions of keys, eager", ("real", real), ("complex (ours)", ours))

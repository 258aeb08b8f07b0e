"""Attention between tokens, and the two-way transformer of the mask decoder.

Letters: N objects, T tokens, L cells of the map, C hidden width.
"""

from __future__ import annotations

from torch import Tensor, nn

from model.config import SAM2Config
from model.layers import MLP
from model.lean import dropped_attention
from model.position import rotate

DEPTH = 2
"""Layers of the two-way transformer, the same in all published models."""


class Attention(nn.Module):
    """Multi-head attention with own projections of queries, keys and values."""

    def __init__(
        self,
        width: int,
        heads: int,
        inner: int | None = None,
        key_width: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        inner, key_width = inner or width, key_width or width
        self.q_proj = nn.Linear(width, inner)
        self.k_proj = nn.Linear(key_width, inner)
        self.v_proj = nn.Linear(key_width, inner)
        self.out_proj = nn.Linear(inner, width)
        self.heads, self.dropout = heads, dropout

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, table: Tensor | None = None, rotated_keys: int = 0
    ) -> Tensor:
        """q [N, T, width], k and v [N, L, key_width] to [N, T, width]; one row on either side serves
        all rows of the other.

        table: rotary positions of the queries' map; also turns the first `rotated_keys` keys, which
        are one or more such maps in a row.
        """
        q, k, v = (self._heads(t) for t in (self.q_proj(q), self.k_proj(k), self.v_proj(v)))
        if table is not None:
            q, k = rotate(q, table, q.shape[2]), rotate(k, table, rotated_keys)
        rows = len(k) if len(q) == 1 else len(q)
        q, k, v = (t.expand(rows, -1, -1, -1) for t in (q, k, v))
        drop = self.dropout if self.training else 0.0
        answer = dropped_attention(q, k, v, drop)
        return self.out_proj(answer.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        """[N, T, inner] to [N, heads, T, inner / heads]."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class TwoWayTransformer(nn.Module):
    """Tokens read the image, the image reads the tokens, twice; then the tokens read once more."""

    def __init__(self, config: SAM2Config) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayLayer(config, first=i == 0) for i in range(DEPTH))
        self.final_attn_token_to_image = _cross(config)
        self.norm_final_attn = nn.LayerNorm(config.hidden)

    def forward(self, tokens: Tensor, image: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
        """tokens [N, T, C], image [N, L, C], grid [1, L, C] (its places) to tokens and image."""
        start = tokens
        for layer in self.layers:
            tokens, image = layer(tokens, image, start, grid)
        read = self.final_attn_token_to_image(tokens + start, image + grid, image)
        return self.norm_final_attn(tokens + read), image


class TwoWayLayer(nn.Module):
    """Self-attention of tokens, tokens to image, MLP, image to tokens; each with a norm after."""

    def __init__(self, config: SAM2Config, first: bool) -> None:
        super().__init__()
        width = config.hidden
        self.self_attn = Attention(width, config.decoder_heads)
        self.norm1 = nn.LayerNorm(width)
        self.cross_attn_token_to_image = _cross(config)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(width, config.feedforward, width, layers=2)
        self.norm3 = nn.LayerNorm(width)
        self.norm4 = nn.LayerNorm(width)
        self.cross_attn_image_to_token = _cross(config)
        self.first = first

    def forward(
        self, tokens: Tensor, image: Tensor, start: Tensor, grid: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As TwoWayTransformer; start: the tokens as they came in, which are their positions."""
        if self.first:  # the tokens are their own positions here, and the answer replaces them
            tokens = self.self_attn(tokens, tokens, tokens)
        else:
            placed = tokens + start
            tokens = tokens + self.self_attn(placed, placed, tokens)
        tokens = self.norm1(tokens)
        cells = image + grid
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + start, cells, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = self.norm4(image + self.cross_attn_image_to_token(cells, tokens + start, tokens))
        return tokens, image


def _cross(config: SAM2Config) -> Attention:
    """Attention between tokens and image, at half the width."""
    return Attention(config.hidden, config.decoder_heads, inner=config.hidden // 2)

"""Operations that keep less for their gradient than torch's own and give the same numbers.

What torch keeps between forward and backward pass decides how much memory a training step takes. Here an activation
is kept once where torch keeps it before and after a function that is cheap to run again, and the places of maxima
as one byte in place of eight. Inside compiled code the plain operations are used: the compiler decides for itself.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import Function, once_differentiable


def gelu_linear(x: Tensor, layer: nn.Linear) -> Tensor:
    """`layer(gelu(x))`, [..., inputs] to [..., outputs], of which only x is kept."""
    if _plain(x, layer.weight):
        return layer(F.gelu(x))
    return _GeluLinear.apply(x, layer.weight, layer.bias)


def norm_linear(x: Tensor, norm: nn.LayerNorm, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.linear(norm(x), weight, bias)`, [..., inputs] to [..., outputs], of which only x is kept."""
    if _plain(x, norm.weight, weight):
        return F.linear(norm(x), weight, bias)
    return _NormLinear.apply(x, norm.weight, norm.bias, norm.eps, weight, bias)


def dropped(x: Tensor, rate: float) -> Tensor:
    """`dropout(x, rate)` in training, with torch's own random numbers, of which one byte is kept."""
    if rate == 0:
        return x
    if _plain(x) or x.device.type != "cpu":  # GPUs have a kernel that keeps no more
        return F.dropout(x, rate)
    return _Dropped.apply(x, rate)


def dropped_relu(x: Tensor, rate: float) -> Tensor:
    """`dropout(relu(x), rate)` in training, with torch's own random numbers, of which only the
    result is kept: where it is not 0, the unit was positive and kept."""
    if rate == 0:
        return F.relu(x)
    if _plain(x):
        return F.dropout(F.relu(x), rate)
    return _DroppedRelu.apply(x, rate)


def halve(x: Tensor) -> Tensor:
    """Max-pool [B, H, W, C], H and W even, by 2 x 2; of each maximum only its place is kept."""
    if _plain(x):
        return F.max_pool2d(x.permute(0, 3, 1, 2), kernel_size=2).permute(0, 2, 3, 1)
    return _Halved.apply(x)


def dropped_attention(q: Tensor, k: Tensor, v: Tensor, rate: float) -> Tensor:
    """Attention with dropout of its weights: q [N, H, T, D], k and v [N, H, L, D] to [N, H, T, D].

    GPUs have kernels that keep none of the T x L weights. On CPUs torch keeps them three times;
    here once, and who was dropped as one byte each. Random numbers are torch's, results equal up to
    rounding.
    """
    if q.device.type != "cpu" or q.dtype != torch.float32 or rate == 0 or _plain(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, dropout_p=rate)
    return _DroppedAttention.apply(q, k, v, rate)


def _plain(*tensors: Tensor) -> bool:
    needed = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    return not needed or torch.compiler.is_compiling()


class _GeluLinear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        result = F.linear(F.gelu(x), weight, bias)
        ctx.bias_dtype = bias.dtype
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        rows = grad.flatten(0, -2)
        x_grad = weight_grad = bias_grad = None
        if ctx.needs_input_grad[0]:
            inner = rows.mm(weight.to(rows.dtype)).view(x.shape).to(x.dtype)
            x_grad = torch.ops.aten.gelu_backward(inner, x)
        if ctx.needs_input_grad[1]:
            inputs = F.gelu(x).to(rows.dtype).flatten(0, -2)
            weight_grad = rows.t().mm(inputs).to(weight.dtype)
        if ctx.needs_input_grad[2]:
            bias_grad = rows.sum(0).to(ctx.bias_dtype)
        return x_grad, weight_grad, bias_grad


class _NormLinear(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        shift: Tensor,
        eps: float,
        weight: Tensor,
        bias: Tensor | None,
    ) -> Tensor:
        normed, mean, rstd = torch.native_layer_norm(x, scale.shape, scale, shift, eps)
        ctx.save_for_backward(x, scale, shift, mean, rstd, weight)
        ctx.eps, ctx.dtype, ctx.bias_dtype = eps, normed.dtype, bias is not None and bias.dtype
        return F.linear(normed, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, shift, mean, rstd, weight = ctx.saved_tensors
        rows, x = grad.flatten(0, -2), x.to(ctx.dtype)
        by_x, by_scale, by_shift, _, by_weight, by_bias = ctx.needs_input_grad
        of_norm: tuple[Tensor | None, ...] = (None, None, None)
        weight_grad = bias_grad = None
        if by_x or by_scale or by_shift:
            inner = rows.mm(weight.to(rows.dtype)).view(x.shape).to(x.dtype)
            of_norm = torch.ops.aten.native_layer_norm_backward(
                inner, x, scale.shape, mean, rstd, scale, shift, [by_x, by_scale, by_shift]
            )
        if by_weight:
            normed, _, _ = torch.native_layer_norm(x, scale.shape, scale, shift, ctx.eps)
            inputs = normed.to(rows.dtype).flatten(0, -2)
            weight_grad = rows.t().mm(inputs).to(weight.dtype)
        if by_bias:
            bias_grad = rows.sum(0).to(ctx.bias_dtype)
        return *of_norm, None, weight_grad, bias_grad


class _Dropped(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float) -> Tensor:
        kept = torch.empty_like(x).bernoulli_(1 - rate)
        ctx.save_for_backward(kept.bool())
        ctx.rate = rate
        return x * kept.div_(1 - rate)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return grad * kept.to(grad.dtype).div_(1 - ctx.rate), None


class _DroppedRelu(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float) -> Tensor:
        result = F.dropout(F.relu(x), rate)
        ctx.save_for_backward(result)
        ctx.rate = rate
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (result,) = ctx.saved_tensors
        scale = torch.ones((), dtype=grad.dtype, device=grad.device).div_(1 - ctx.rate)
        return torch.ops.aten.threshold_backward(grad * scale, result, 0), None


class _Halved(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        result = F.max_pool2d(x.permute(0, 3, 1, 2), kernel_size=2).permute(0, 2, 3, 1)
        later = result != x[:, 0::2, 0::2]  # of equal ones the first counts
        corner = later.to(torch.uint8)
        for row, column in ((0, 1), (1, 0)):
            later &= result != x[:, row::2, column::2]
            corner += later
        ctx.save_for_backward(corner)
        ctx.shape = x.shape
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (corner,) = ctx.saved_tensors
        batch, height, width, channels = ctx.shape
        x_grad = grad.new_empty(batch, height // 2, 2, width // 2, 2, channels)
        for place in range(4):
            part = x_grad[:, :, place // 2, :, place % 2]
            torch.mul(grad, corner == place, out=part)
        return x_grad.view(ctx.shape)


class _DroppedAttention(Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, rate: float) -> Tensor:
        weights = ((q * q.shape[-1] ** -0.5) @ k.mT).softmax(dim=-1)
        kept = torch.empty_like(weights).bernoulli_(1 - rate)
        ctx.save_for_backward(q, k, v, weights, kept.bool())
        ctx.rate = rate
        return kept.mul_(weights).div_(1 - rate) @ v

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, weights, kept = ctx.saved_tensors
        scaled = kept.to(weights.dtype).div_(1 - ctx.rate)
        v_grad = (weights * scaled).mT @ grad
        of_weights = scaled.mul_(grad @ v.mT)
        scores = torch.ops.aten._softmax_backward_data(of_weights, weights, -1, weights.dtype)
        scores = scores.mul_(q.shape[-1] ** -0.5)
        return scores @ k, scores.mT @ q, v_grad, None

"""Operations that keep less: torch's own numbers, gradients included, from fewer bytes."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.measure import saved_bytes
from model import lean


def plain_halve(x: Tensor) -> Tensor:
    return F.max_pool2d(x.permute(0, 3, 1, 2), kernel_size=2).permute(0, 2, 3, 1)


def both(ours: Callable[[], Tensor], theirs: Callable[[], Tensor], *inputs: Tensor) -> list:
    """[(ours, theirs)] of the result and the gradient of every input, with equal random numbers."""
    found = []
    for call in (ours, theirs):
        torch.manual_seed(1)
        result = call()
        chance = torch.randn(result.shape, generator=torch.Generator().manual_seed(2))
        found.append([result, *torch.autograd.grad(result, inputs, chance.to(result.dtype))])
    return list(zip(*found, strict=True))


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "autocast"])
def test_gelu_and_linear(half: bool) -> None:
    torch.manual_seed(0)
    first, last = nn.Linear(16, 64), nn.Linear(64, 32)
    x = torch.randn(3, 7, 5, 16, requires_grad=True)

    def with_activation(after: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            return after(first(x))

    pairs = both(
        lambda: with_activation(lambda inner: lean.gelu_linear(inner, last)),
        lambda: with_activation(lambda inner: last(F.gelu(inner))),
        x,
        *first.parameters(),
        *last.parameters(),
    )
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in pairs)


@pytest.mark.parametrize("trained", ["input", "layer"])
def test_gelu_and_linear_of_which_a_part_is_frozen(trained: str) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(64, 32).requires_grad_(trained == "layer")
    x = torch.randn(5, 64, requires_grad=trained == "input")
    wanted = (x,) if trained == "input" else tuple(layer.parameters())
    pairs = both(lambda: lean.gelu_linear(x, layer), lambda: layer(F.gelu(x)), *wanted)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "autocast"])
@pytest.mark.parametrize("biased", [False, True], ids=["", "bias"])
def test_norm_and_linear(half: bool, biased: bool) -> None:
    torch.manual_seed(0)
    norm, layer = nn.LayerNorm(16), nn.Linear(16, 64, bias=biased)
    nn.init.normal_(norm.weight)
    x = torch.randn(3, 7, 5, 16, requires_grad=True)

    def under_autocast(call: Callable[[], Tensor]) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            return call()

    pairs = both(
        lambda: under_autocast(lambda: lean.norm_linear(x, norm, layer.weight, layer.bias)),
        lambda: under_autocast(lambda: layer(norm(x))),
        x,
        *norm.parameters(),
        *layer.parameters(),
    )
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in pairs)


@pytest.mark.parametrize("trained", ["input", "norm", "layer"])
def test_norm_and_linear_of_which_a_part_is_frozen(trained: str) -> None:
    torch.manual_seed(0)
    norm = nn.LayerNorm(16).requires_grad_(trained == "norm")
    layer = nn.Linear(16, 64).requires_grad_(trained == "layer")
    x = torch.randn(5, 16, requires_grad=trained == "input")
    wanted = {"input": (x,), "norm": norm.parameters(), "layer": layer.parameters()}[trained]
    pairs = both(
        lambda: lean.norm_linear(x, norm, layer.weight, layer.bias),
        lambda: layer(norm(x)),
        *wanted,
    )
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropped(dtype: torch.dtype) -> None:
    x = torch.randn(3, 40, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    x.requires_grad_()
    pairs = both(lambda: lean.dropped(x, 0.1), lambda: F.dropout(x, 0.1), x)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropped_relu(dtype: torch.dtype) -> None:
    x = torch.randn(3, 40, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    x.requires_grad_()
    pairs = both(lambda: lean.dropped_relu(x, 0.1), lambda: F.dropout(F.relu(x), 0.1), x)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_first_of_equal_maxima_gets_the_gradient(dtype: torch.dtype) -> None:
    x = torch.randn(2, 8, 12, 16, generator=torch.Generator().manual_seed(0)).round().to(dtype)
    x.requires_grad_()
    pairs = both(lambda: lean.halve(x), lambda: plain_halve(x), x)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("rows", [1, 2])
def test_dropped_attention(rows: int) -> None:
    chance = torch.Generator().manual_seed(0)
    q = torch.randn(2, 1, 50, 32, generator=chance, requires_grad=True)
    k, v = (torch.randn(rows, 1, 70, 32, generator=chance, requires_grad=True) for _ in range(2))
    keys, values = k.expand(2, -1, -1, -1), v.expand(2, -1, -1, -1)
    pairs = both(
        lambda: lean.dropped_attention(q, keys, values, 0.1),
        lambda: F.scaled_dot_product_attention(q, keys, values, dropout_p=0.1),
        q,
        k,
        v,
    )
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "name",
    ["gelu_linear", "norm_linear", "dropped", "dropped_relu", "halve", "dropped_attention"],
)
def test_less_is_kept(name: str) -> None:
    x = torch.randn(2, 64, 64, 32, requires_grad=True)
    wide, narrow = nn.Linear(32, 128), nn.Linear(128, 32)
    heads = x.flatten(1, 2)[:, None, :512]
    norm = nn.LayerNorm(32)
    calls: dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]] = {
        "gelu_linear": (
            lambda: lean.gelu_linear(wide(x), narrow),
            lambda: narrow(F.gelu(wide(x))),
        ),
        "norm_linear": (
            lambda: lean.norm_linear(x, norm, wide.weight, wide.bias),
            lambda: wide(norm(x)),
        ),
        "dropped": (lambda: lean.dropped(x, 0.1), lambda: F.dropout(x, 0.1)),
        "dropped_relu": (
            lambda: narrow(lean.dropped_relu(wide(x), 0.1)),
            lambda: narrow(F.dropout(F.relu(wide(x)), 0.1)),
        ),
        "halve": (lambda: lean.halve(x), lambda: plain_halve(x)),
        "dropped_attention": (
            lambda: lean.dropped_attention(heads, heads, heads, 0.1),
            lambda: F.scaled_dot_product_attention(heads, heads, heads, dropout_p=0.1),
        ),
    }
    ours, theirs = (saved_bytes(call) for call in calls[name])
    assert ours < 0.7 * theirs


def test_nothing_is_kept_where_no_gradient_is_wanted() -> None:
    x = torch.randn(1, 4, 4, 8)
    assert not lean.halve(x).requires_grad
    with torch.inference_mode():
        assert torch.equal(lean.halve(x), plain_halve(x))

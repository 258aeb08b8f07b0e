"""Compiled blocks: no graph breaks, no new compilation for other numbers, the same answers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._dynamo.utils import counters

from model.compile import compile_blocks, missing_compiler
from model.config import preset
from model.sam2 import SAM2
from model.types import Prompts
from pipeline.errors import ConfigError

SMALL = replace(
    preset("micro", image_size=64),
    trunk=replace(preset("micro").trunk, depths=(1, 1, 2, 1), global_blocks=(3,)),
    memory_layers=1,
)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    limit = torch._dynamo.config.recompile_limit
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = limit


def network() -> SAM2:
    torch.manual_seed(0)
    model = SAM2(SMALL)
    model.sam_mask_decoder.pred_obj_score_head.layers[2].bias.data.fill_(5.0)  # present
    return model


def clip(model: SAM2, images: int, objects: int, points: int, memories: int) -> list[Tensor]:
    """Objects on a frame each (or all on one): prompted, remembered, recalled and found again."""
    chance = torch.Generator().manual_seed(images + 10 * objects + 100 * points)
    pictures = torch.randn(images, 3, 64, 64, generator=chance)
    places = 64 * torch.rand(objects, points, 2, generator=chance)
    features = model.encode(pictures).rows(torch.arange(objects) % images)
    prompts = Prompts(places, torch.ones(objects, points, dtype=torch.int64))
    first = model.decode(model.unconditioned(features), features, prompts, multimask=points < 2)
    full = F.interpolate(first.low, size=(64, 64), mode="bilinear")
    memory = model.remember(features, full, first.object_score, from_prompt=False)
    seen = model.recall(
        features,
        [(memory, slot) for slot in range(memories)],
        [(first.pointer, float(t)) for t in range(memories)],
        max_pointer_distance=7.0,
    )
    second = model.decode(seen, features, Prompts.none(objects, CPU), multimask=True)
    return [first.low, first.ious, first.pointer, seen, second.low, second.ious, second.pointer]


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


def test_blocks_are_compiled_in_place_and_keep_their_names() -> None:
    model, eager = network().eval(), network().eval()
    compile_blocks(model, backend="eager")
    assert list(model.state_dict()) == list(eager.state_dict())
    features, mask = torch.randn(2, 64, 4, 4), torch.randn(2, 1, 64, 64)
    with torch.inference_mode():
        ours, theirs = (m.memory_encoder(features, mask) for m in (model, eager))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert graphs() == 1
    assert not counters["graph_break"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_other_numbers_compile_nothing_new() -> None:
    model = network().eval()
    compile_blocks(model, backend="eager")
    with torch.inference_mode():
        for warm in ((1, 1, 1, 1), (1, 2, 2, 3), (2, 2, 3, 4), (3, 3, 1, 2)):
            clip(model, *warm)
        before = graphs()
        assert before > 0
        for numbers in ((1, 5, 4, 6), (1, 3, 7, 2), (4, 4, 2, 7), (5, 5, 6, 5), (1, 1, 1, 1)):
            clip(model, *numbers)
        assert graphs() == before
    assert not counters["graph_break"]


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.skipif(missing_compiler(CPU) is not None, reason="no C++ compiler")
def test_compiled_answers_and_gradients_are_the_eager_ones() -> None:
    eager, compiled = network().train(), network().train()
    compile_blocks(compiled)
    ours, theirs = clip(compiled, 2, 2, 1, 1), clip(eager, 2, 2, 1, 1)
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() <= 1e-5 * max(1.0, b.abs().max().item())
    for outputs in (ours, theirs):
        sum(t.square().mean() for t in outputs).backward()
    assert not counters["graph_break"]
    for (name, a), b in zip(compiled.named_parameters(), eager.parameters(), strict=True):
        if a.grad is None or b.grad is None:
            # of what a block computes and nobody reads, compiled code returns gradients of zero
            assert b.grad is None and (a.grad is None or not a.grad.any()), name
        else:
            assert (a.grad - b.grad).norm() <= 1e-4 * b.grad.norm() + 1e-7, name


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(ConfigError, match=r"needs a C\+\+ compiler .* install it"):
        compile_blocks(network())

"""Half precision stays near float32, and exact mode is float32 whatever is set around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from model.compile import compile_blocks
from model.memory_bank import MemoryBank
from model.memory_choice import MemoryWindow
from model.precision import exact
from model.sam2 import SAM2
from model.types import Memory, Prompts
from tests.golden.reader import Golden, golden_model, normal, waves

TRACKS = Golden("micro_f_track.npz")
MASKS = TRACKS.tensor("in:masks").transpose(0, 1)
ENCODED = Golden("micro_a_image_encoder.npz")


@torch.inference_mode()
def answers(model: SAM2, frames: int = 5) -> tuple[list[Tensor], Memory]:
    """Logits of a click and of three objects followed from their masks; the last memory."""
    seen = model.encode(waves("A/micro/video", 8, 128, 128)[:frames])
    click = Prompts(TRACKS.tensor("in:points_c1"), torch.ones(3, 1, dtype=torch.int32))
    first = seen.rows(torch.zeros(3, dtype=torch.int64))
    logits = [model.decode(model.unconditioned(first), first, click, multimask=True).candidates]
    bank = MemoryBank(model, MemoryWindow(future_pointers=False), 8)
    for t in range(frames):
        features = seen.rows(torch.full((3,), t))
        if t == 0:
            answer = model.adopt_mask(features, MASKS[:, 0, None])
        else:
            nothing = Prompts.none(3, model.device)
            answer = model.decode(bank.recall(t, features), features, nothing, multimask=True)
            logits.append(answer.candidates)
        full = F.interpolate(answer.low.float(), size=(128, 128), mode="bilinear")
        memory = model.remember(features, full, answer.object_score, from_prompt=False)
        bank.keep(t, memory, answer.pointer, conditioning=t == 0)
    return logits, memory


def test_half_precision_is_near(micro_golden: SAM2) -> None:
    whole, memory = answers(micro_golden)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half, rounded = answers(micro_golden)
    assert (memory.features.dtype, rounded.features.dtype) == (torch.float32, torch.bfloat16)
    for a, b in zip(whole, half, strict=True):
        assert b.dtype == torch.bfloat16
        assert 0 < (a - b).norm() <= 2e-2 * a.norm()


def test_half_precision_memory_serves_a_network_in_full(micro_golden: SAM2) -> None:
    """A session stored under autocast may be continued without."""
    seen = micro_golden.encode(normal("A/micro/image", 2, 3, 128, 128)[:1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        answer = micro_golden.adopt_mask(seen, MASKS[:, 0, None])
        full = F.interpolate(answer.low.float(), size=(128, 128), mode="bilinear")
        memory = micro_golden.remember(seen, full, answer.object_score, from_prompt=False)
    seen_again = micro_golden.recall(seen, [(memory, 6)], [(answer.pointer, 1.0)], 7)
    assert seen_again.dtype == torch.float32


@torch.no_grad()
def golden_distance(model: SAM2) -> float:
    features = model.encode(normal("A/micro/image", 2, 3, 128, 128))
    return ENCODED.distance("fpn2_after_conv_s", features.s16.float())


def test_exact_ignores_autocast(micro_golden: SAM2) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert golden_distance(micro_golden) > 1e-3
        with exact():
            assert golden_distance(micro_golden) <= 5e-5
        assert torch.is_autocast_enabled("cpu")


def test_exact_ignores_reduced_products(micro_golden: SAM2) -> None:
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("medium")
    try:
        with exact():
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cudnn.allow_tf32
            assert golden_distance(micro_golden) <= 5e-5
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision("highest")


def test_exact_does_not_run_compiled_blocks() -> None:
    model, runs = golden_model(), 0

    def counting(graph: torch.fx.GraphModule, _inputs: object) -> Callable[..., Any]:
        def run(*inputs: Any) -> Any:
            nonlocal runs
            runs += 1
            return graph.forward(*inputs)

        return run

    compile_blocks(model, backend=counting)
    mask, features = normal("A/micro/mem_mask_logits", 3, 1, 128, 128), torch.zeros(3, 256, 8, 8)
    with torch.no_grad():
        compiled = model.memory_encoder(features, mask)
        assert runs == 1
        with exact():
            plain = model.memory_encoder(features, mask)
        assert runs == 1
        model.memory_encoder(features, mask)
        assert runs == 2
    torch.testing.assert_close(compiled, plain, atol=1e-5, rtol=1e-5)

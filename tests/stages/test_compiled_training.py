"""Training with compiled blocks: the same losses, the same gradients, and none where there was none."""

import copy
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from model.compile import compile_training
from model.config import preset
from model.lora import LoRAConfig, add_lora
from model.policy import MemorySavings, PromptPolicy
from model.sam2 import SAM2, build_sam2
from pipeline.config import parse
from pipeline.errors import ConfigError
from stages.settings import TrainStage
from tests.stages.test_clip_task import OBJECTS, batch_of, task_of

SMALL = replace(
    preset("micro"),
    trunk=replace(preset("micro").trunk, depths=(1, 1, 2, 1), global_blocks=(3,)),
    memory_layers=1,
)
ONLY_MASKS = PromptPolicy(mask=1.0, click=0.0, box=0.0, corrected_frames=1, correction_clicks=1)
ONLY_CLICKS = PromptPolicy(mask=0.0, click=1.0, box=0.0, corrected_frames=2, correction_clicks=2)


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    limit = torch._dynamo.config.recompile_limit
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = limit


def gradients(model: SAM2, prompts: PromptPolicy, frames: int, savings: MemorySavings) -> list:
    task = task_of(model, prompts, savings=savings)
    model.zero_grad(set_to_none=True)
    losses = task.losses(batch_of(frames), 0, sum(OBJECTS))
    losses.total.backward()
    return [losses.total.detach(), *(parameter.grad for parameter in model.parameters())]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("saved", "low_rank"),
    [((), False), (("trunk", "memory", "decoder"), True)],
    ids=["plain", "low rank, recomputed"],
)
def test_compiled_blocks_train_as_eager_ones(saved: tuple[str, ...], low_rank: bool) -> None:
    torch.manual_seed(0)
    eager = build_sam2(SMALL).train()
    if low_rank:
        eager.requires_grad_(False)
        add_lora(eager, LoRAConfig(rank=2))
    compiled, savings = copy.deepcopy(eager), MemorySavings(recompute=saved)
    compile_training(compiled, backend="aot_eager")
    for prompts, frames in ((ONLY_MASKS, 1), (ONLY_CLICKS, 3)):
        ours = gradients(compiled, prompts, frames, savings)
        theirs = gradients(eager, prompts, frames, savings)
        assert [item is None for item in ours] == [item is None for item in theirs]
        for a, b in zip(ours, theirs, strict=True):
            if b is not None:
                assert (a - b).norm() <= 1e-4 * b.norm() + 1e-7


def test_a_network_that_is_measured_runs_as_it_was_written() -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("compiled")

    torch.manual_seed(0)
    model = build_sam2(SMALL).eval()
    pictures = torch.randn(1, 3, 96, 96)
    with torch.inference_mode():
        before = model.encode(pictures).s16
        compile_training(model, backend=refuse)
        assert torch.equal(model.encode(pictures).s16, before)


def test_graphs_without_a_gpu_are_refused() -> None:
    with pytest.raises(ConfigError, match="graphs are replayed by CUDA devices, found cpu"):
        compile_training(build_sam2(SMALL), graphs=True)


def test_what_does_not_go_with_it_is_refused() -> None:
    stage = {"kind": "finetune", "datasets": ["train"], "steps": 1, "optim": {"lr": 1e-4}}
    assert parse(TrainStage, {**stage, "compile": "blocks"}, where="finetune").compile == "blocks"
    with pytest.raises(ConfigError, match="shard: found with compile"):
        parse(TrainStage, {**stage, "compile": "blocks", "shard": True}, where="finetune")
    with pytest.raises(ConfigError, match="compile"):
        parse(TrainStage, {**stage, "compile": "all"}, where="finetune")

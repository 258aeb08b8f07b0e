"""The loss of a step follows from its clips, the seed and the step, however the clips are shared."""

import pytest
import torch

from data.types import ClipBatch
from model.config import preset
from model.losses import AREAS
from model.policy import LossConfig, MemorySavings, PromptPolicy
from model.sam2 import SAM2, build_sam2
from pipeline.distributed import World
from stages.clip_task import WEIGHED, ClipTask

SIDE = 96
OBJECTS = (2, 1, 0, 3)
"""Of the four clips of the whole batch; one has nothing to follow."""


@pytest.fixture(scope="module")
def model() -> SAM2:
    torch.manual_seed(0)
    return build_sam2(preset("micro")).train()


def batch_of(frames: int, clips=(0, 1, 2, 3)) -> ClipBatch:
    """Rectangles that wander over noise."""
    chance = torch.Generator().manual_seed(7)
    pixels = torch.randint(0, 256, (len(OBJECTS), frames, 3, SIDE, SIDE), generator=chance)
    masks, owners = [], []
    for clip, count in enumerate(OBJECTS):
        for number in range(count):
            mask = torch.zeros(frames, SIDE, SIDE, dtype=torch.bool)
            for t in range(frames):
                x, y = 8 + 9 * number + 5 * t, 10 + 7 * clip
                mask[t, y : y + 24, x : x + 30] = True
            if clip in clips:
                masks.append(mask)
                owners.append(list(clips).index(clip))
    return ClipBatch(
        frames=pixels[list(clips)].to(torch.uint8),
        masks=torch.stack(masks) if masks else torch.zeros(0, frames, SIDE, SIDE, dtype=torch.bool),
        clip_of_object=torch.tensor(owners, dtype=torch.int64),
        names=tuple(f"clip{clip}" for clip in clips),
        kind="video" if frames > 1 else "image",
        slots=tuple(clips),
    )


def task_of(
    model: SAM2, prompts: PromptPolicy | None = None, seed=3, precision="fp32", savings=None
) -> ClipTask:
    return ClipTask(
        model,
        prompts or PromptPolicy(),
        LossConfig(),
        seed=seed,
        world=World(),
        precision=precision,
        savings=savings,
    )


def gradient(model: SAM2, loss: torch.Tensor) -> torch.Tensor:
    used = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, used, allow_unused=True)
    return torch.cat(
        [
            (torch.zeros_like(p) if g is None else g).flatten()
            for p, g in zip(used, found, strict=True)
        ]
    )


@pytest.mark.parametrize("frames", [1, 3], ids=["pictures", "clips"])
def test_the_loss_follows_from_seed_and_step(model: SAM2, frames: int):
    batch = batch_of(frames)

    def loss(seed: int, step: int) -> float:
        torch.rand(step + seed + 1)  # the state of torch's own generator does not matter
        return task_of(model, seed=seed).losses(batch, step, sum(OBJECTS)).total.item()

    assert loss(3, 5) == loss(3, 5)
    assert len({loss(3, step) for step in range(4)}) > 1
    assert len({loss(seed, 5) for seed in range(4)}) > 1


@pytest.mark.parametrize("frames", [1, 3], ids=["pictures", "clips"])
@pytest.mark.parametrize("step", [0, 1, 2])
def test_two_ranks_see_the_loss_and_gradient_of_one(model: SAM2, frames: int, step: int):
    whole = task_of(model).losses(batch_of(frames), step, sum(OBJECTS)).total
    mean_objects = sum(OBJECTS) / 2
    halves = [
        task_of(model).losses(batch_of(frames, clips), step, mean_objects).total
        for clips in ((0, 1), (2, 3))
    ]
    torch.testing.assert_close(sum(halves) / 2, whole, rtol=1e-4, atol=1e-5)
    expected = gradient(model, whole)
    found = sum(gradient(model, half) for half in halves) / 2
    assert (found - expected).norm() <= 1e-3 * expected.norm()


@pytest.mark.parametrize(
    "prompts",
    [
        PromptPolicy(mask=1, click=0, box=0),
        PromptPolicy(mask=0, click=1, box=0, correction_clicks=2),
        PromptPolicy(mask=0, click=0, box=1, correction_clicks=0),
        PromptPolicy(mask=0, click=1, box=0, initial_frames=1, corrected_frames=0),
    ],
    ids=["mask", "clicks", "box", "one click"],
)
@pytest.mark.parametrize("frames", [1, 3], ids=["pictures", "clips"])
def test_every_kind_of_prompt_gives_a_finite_loss_with_a_gradient(
    model: SAM2, prompts: PromptPolicy, frames: int
):
    losses = task_of(model, prompts).losses(batch_of(frames), 0, sum(OBJECTS))
    assert torch.isfinite(losses.total)
    kind = next(name for name in ("mask", "click", "box") if getattr(prompts, name))
    terms = set(WEIGHED) - {"temporal"}
    assert set(losses.parts) == {
        *terms,
        *(f"weighted/{name}" for name in terms),
        f"prompt/{kind}",
        *(f"{what}/{size}" for what in ("area", "answers") for size in AREAS),
    }
    total = losses.total.detach()
    for group in ("weighted", "prompt", "area"):
        parts = [value for name, value in losses.parts.items() if name.startswith(f"{group}/")]
        torch.testing.assert_close(sum(parts), total, rtol=1e-5, atol=1e-5, msg=group)
    assert not any(part.requires_grad for part in losses.parts.values())
    assert gradient(model, losses.total).norm() > 0


def test_the_temporal_term_has_a_curve_where_it_counts(model: SAM2):
    task = task_of(model)
    task.loss = LossConfig(temporal=2.0)
    parts = task.losses(batch_of(3), 0, sum(OBJECTS)).parts
    torch.testing.assert_close(parts["weighted/temporal"], 2.0 * parts["temporal"])


def test_a_batch_without_objects_costs_nothing(model: SAM2):
    losses = task_of(model).losses(batch_of(3, clips=(2,)), 0, 0)
    assert losses.total.item() == 0
    assert gradient(model, losses.total).norm() == 0


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("frames", [1, 3], ids=["pictures", "clips"])
def test_half_precision_stays_near_full(model: SAM2, precision: str, frames: int):
    exact = task_of(model).losses(batch_of(frames), 1, sum(OBJECTS))
    rough = task_of(model, precision=precision).losses(batch_of(frames), 1, sum(OBJECTS))
    torch.testing.assert_close(rough.total, exact.total, rtol=0.05, atol=0.05)
    assert torch.isfinite(gradient(model, rough.total)).all()


@pytest.mark.parametrize("frames", [1, 3], ids=["pictures", "clips"])
@pytest.mark.parametrize(
    "savings",
    [
        MemorySavings(recompute=("trunk", "memory", "decoder")),
        MemorySavings(frames_at_once=2),
        MemorySavings(objects_at_once=2),
        MemorySavings(recompute=("trunk", "decoder"), frames_at_once=1, objects_at_once=1),
    ],
    ids=["recompute", "frames", "objects", "all"],
)
def test_saving_memory_changes_no_gradient(savings: MemorySavings, frames: int):
    step = 1  # clicks and corrections
    torch.manual_seed(0)
    model = build_sam2(preset("micro")).train()
    plain = task_of(model).losses(batch_of(frames), step, sum(OBJECTS))
    expected = gradient(model, plain.total)
    found = task_of(model, savings=savings).losses(batch_of(frames), step, sum(OBJECTS))
    torch.testing.assert_close(found.total, plain.total, rtol=1e-5, atol=1e-6)
    for name, part in plain.parts.items():
        torch.testing.assert_close(found.parts[name], part, rtol=1e-5, atol=1e-6)
    assert (gradient(model, found.total) - expected).norm() <= 1e-5 * expected.norm()


def saved_bytes(model: SAM2, savings: MemorySavings | None) -> int:
    """What a step keeps for its way back, beyond the parameters."""
    own = {p.data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if tensor.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    task = task_of(model, PromptPolicy(mask=0, click=1, box=0), savings=savings)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = task.losses(batch_of(3), 0, sum(OBJECTS)).total
    del loss
    return sum(kept.values())


def test_recomputing_keeps_less():
    torch.manual_seed(0)
    model = build_sam2(preset("micro")).train()
    plain = saved_bytes(model, None)
    by_objects = saved_bytes(model, MemorySavings(objects_at_once=2))
    by_parts = saved_bytes(model, MemorySavings(recompute=("trunk", "memory", "decoder")))
    assert by_objects < 0.75 * plain and by_parts < 0.5 * plain

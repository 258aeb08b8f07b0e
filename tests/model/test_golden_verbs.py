"""The verbs that decide something give the reference's answers: decode, adopt_mask, remember."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.memory import without_overlap
from model.sam2 import SAM2, mask_logits
from model.types import FramePrediction, ImageFeatures, Prompts
from tests.golden.reader import Golden, normal

HEADS = Golden("micro_c2_sam_heads.npz")
MEMORY = Golden("micro_d_memory_encoder.npz")

pytestmark = pytest.mark.usefixtures("threads")


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def features(micro_golden: SAM2) -> ImageFeatures:
    return ImageFeatures(
        s4=normal("A/micro/hr0", 3, 32, 32, 32, scale=0.5),
        s8=normal("A/micro/hr1", 3, 64, 16, 16, scale=0.5),
        s16=normal("A/micro/image_embed", 3, 256, 8, 8),
        position=torch.zeros(1, 256, 8, 8),
        grid=micro_golden.sam_prompt_encoder.grid(8, 8),
    )


def prompts(count: int, mask: Tensor | None = None) -> Prompts:
    """The first `count` stored points."""
    stored = Golden("micro_b_prompt_encoder.npz")
    return Prompts(
        stored.tensor("in:points")[:, :count], stored.tensor("in:labels")[:, :count], mask
    )


def check(case: str, answer: FramePrediction) -> None:
    HEADS.check(f"{case}/low_multi", answer.candidates, 5e-5)
    HEADS.check(f"{case}/ious", answer.ious, 5e-5)
    HEADS.check(f"{case}/low", answer.low, 5e-5)
    HEADS.check(f"{case}/obj_ptr", answer.pointer, 5e-5)
    HEADS.check(f"{case}/obj_score", answer.object_score, 5e-5)


def full_size(logits: Tensor) -> Tensor:
    return F.interpolate(logits, size=(128, 128), mode="bilinear", align_corners=False)


@pytest.mark.parametrize(
    ("case", "count", "multimask"),
    [("none_mm", 0, True), ("none_sm", 0, False), ("point1_mm", 1, True), ("points4", 4, False)],
)
def test_points(
    micro_golden: SAM2, features: ImageFeatures, case: str, count: int, multimask: bool
):
    answer = micro_golden.decode(features.s16, features, prompts(count), multimask)
    check(case, answer)
    HEADS.check(f"{case}/high", full_size(answer.low), 5e-5)
    HEADS.check(f"{case}/high_multi", full_size(answer.candidates), 5e-5)


def test_points_and_an_earlier_answer(micro_golden: SAM2, features: ImageFeatures):
    earlier = normal("A/micro/prev_low", 3, 1, 32, 32, scale=4.0)
    prompt = prompts(4, earlier)
    check("points_prevmask", micro_golden.decode(features.s16, features, prompt, False))


def test_mask_at_full_size_is_shrunk(micro_golden: SAM2, features: ImageFeatures):
    mask = HEADS.tensor("in:mask").float()
    check("fullres_mask", micro_golden.decode(features.s16, features, prompts(0, mask), True))


@pytest.mark.parametrize(("case", "multimask"), [("occl_mm0", False), ("occl_mm1", True)])
def test_absent_objects(micro_golden: SAM2, features: ImageFeatures, case: str, multimask: bool):
    bias = micro_golden.sam_mask_decoder.pred_obj_score_head.layers[2].bias
    before = bias.clone()
    bias += HEADS.tensor("occl/bias_added_to_pred_obj_score_head.layers.2.bias")
    try:
        answer = micro_golden.decode(features.s16, features, prompts(0), multimask)
    finally:
        bias.copy_(before)
    check(case, answer)
    assert (answer.object_score <= 0).any()


def test_given_mask(micro_golden: SAM2, features: ImageFeatures):
    mask = HEADS.tensor("in:mask")
    check("maskasoutput", micro_golden.adopt_mask(features, mask))
    HEADS.check("maskasoutput/high", mask_logits(mask), 5e-5)


def test_remember(micro_golden: SAM2, features: ImageFeatures):
    seen = features._replace(s16=normal("A/micro/pix_feat", 3, 256, 8, 8))
    logits = normal("A/micro/mem_mask_logits", 3, 1, 128, 128, scale=4.0)
    score = MEMORY.tensor("in:object_score_logits")
    for key, mask, binary in (
        ("new_memory", logits, False),
        ("new_memory_binarized_from_pts", logits, True),
        ("new_memory_non_overlap", without_overlap(logits), False),
    ):
        memory = micro_golden.remember(seen, mask, score, from_prompt=binary)
        MEMORY.check(key, memory.features, 5e-5)
        MEMORY.check("pos", memory.position, 5e-5)
    MEMORY.check("non_overlap_applied", without_overlap(logits), 0)

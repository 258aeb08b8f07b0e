"""Every size at every side: what depends on the side of the input is derived from it."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import PRESETS, SAM2Config, preset
from model.sam2 import SAM2
from model.types import FramePrediction, ImageFeatures, Memory, Prompts
from pipeline.errors import ConfigError

SIDES = (512, 768, 1024)
PUBLISHED = ("tiny", "small", "base_plus", "large")


def two_frames(
    model: SAM2, images: Tensor
) -> tuple[ImageFeatures, FramePrediction, Memory, FramePrediction]:
    """One object clicked on the first frame and tracked to the second; images [2, 3, S, S]."""
    side = model.config.image_size
    seen = model.encode(images)
    first, second = (
        seen._replace(s4=seen.s4[t, None], s8=seen.s8[t, None], s16=seen.s16[t, None])
        for t in (0, 1)
    )
    labels = torch.ones(1, 1, dtype=torch.int32, device=images.device)
    click = Prompts(torch.full((1, 1, 2), side / 2.0, device=images.device), labels)
    clicked = model.decode(model.unconditioned(first), first, click, multimask=True)
    full = F.interpolate(clicked.low, size=(side, side), mode="bilinear", align_corners=False)
    memory = model.remember(first, full, clicked.object_score, from_prompt=True)
    recalled = model.recall(second, [(memory, 6)], [(clicked.pointer, 1.0)], 1)
    nothing = Prompts.none(1, images.device)
    return seen, clicked, memory, model.decode(recalled, second, nothing, multimask=True)


def check_shapes(
    config: SAM2Config,
    seen: ImageFeatures,
    clicked: FramePrediction,
    memory: Memory,
    tracked: FramePrediction,
) -> None:
    side, hidden = config.image_size, config.hidden
    assert seen.s4.shape == (2, hidden // 8, side // 4, side // 4)
    assert seen.s8.shape == (2, hidden // 4, side // 8, side // 8)
    assert seen.s16.shape == (2, hidden, side // 16, side // 16)
    assert seen.position.shape == seen.grid.shape == (1, hidden, side // 16, side // 16)
    assert memory.features.shape == (1, config.memory_dim, side // 16, side // 16)
    for answer in (clicked, tracked):
        assert answer.candidates.shape == (1, 3, side // 4, side // 4)
        assert answer.low.shape == (1, 1, side // 4, side // 4)
        assert answer.pointer.shape == (1, hidden)


@pytest.mark.parametrize("side", [32, 64, 96, 160, 224, 1056])
def test_any_multiple_of_32(side: int):
    torch.manual_seed(0)
    model = SAM2(preset("micro", image_size=side)).eval()
    model.sam_mask_decoder.pred_obj_score_head.layers[2].bias.data.fill_(5.0)  # present
    with torch.inference_mode():
        seen, clicked, memory, tracked = two_frames(model, torch.randn(2, 3, side, side))
    check_shapes(model.config, seen, clicked, memory, tracked)
    for value in (*seen, memory.features, *clicked, *tracked):
        assert value.isfinite().all()
    assert tracked.low.std() > 0


def test_weights_serve_every_side():
    """Nothing in the state dict depends on the side of the input."""
    with torch.device("meta"):
        sizes = [SAM2(preset("micro", image_size=side)).state_dict() for side in (96, 1024)]
    first, second = ({name: v.shape for name, v in weights.items()} for weights in sizes)
    assert first == second


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("size", PUBLISHED)
def test_published_sizes(size: str, side: int):
    """Shapes only, on the meta device: both published versions of every size."""
    for version in ("2.0", "2.1"):
        config = preset(size, image_size=side, version=version)  # type: ignore[arg-type]
        with torch.device("meta"), torch.inference_mode():
            model = SAM2(config).eval()
            answers = two_frames(model, torch.empty(2, 3, side, side))
        check_shapes(config, *answers)
        assert {value.device.type for answer in answers for value in answer} == {"meta"}


def test_a_window_that_would_not_tile_every_side():
    with pytest.raises(ConfigError, match="must be 2, 4 or 8"):
        replace(PRESETS["micro"].trunk, windows=(16, 4, 6, 3))


def test_every_field_is_turned_by_some_preset_or_recipe():
    """What all networks share is a constant, not an option."""
    by_recipes = {"image_size", "dropout", "version", "drop_path"}
    for parts in (list(PRESETS.values()), [c.trunk for c in PRESETS.values()]):
        fields = {name for name in vars(parts[0]) if len({str(vars(p)[name]) for p in parts}) == 1}
        assert fields <= by_recipes

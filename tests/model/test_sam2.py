"""Names, shapes, starting weights and gradients of the network."""

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from model.config import PRESETS, TrunkConfig, preset
from model.layers import DropPath
from model.sam2 import SAM2, build_sam2
from model.types import ImageFeatures, Memory, Prompts
from pipeline.errors import ConfigError
from tests.golden.reader import FOLDER


@pytest.fixture(scope="module")
def micro() -> SAM2:
    torch.manual_seed(3)
    return build_sam2("micro")


@pytest.mark.parametrize("version", ["2.0", "2.1"])
@pytest.mark.parametrize("name", ["tiny", "small", "base_plus", "large"])
def test_state_dict_is_the_published_one(name: str, version: str):
    published = json.loads((FOLDER / f"state_dict_{name}.json").read_text())
    only_new = set(published["sam2.1_only"]) if version == "2.0" else set()
    expected = [
        (entry, tuple(shape), dtype)
        for entry, shape, dtype in published["entries"]
        if entry not in only_new
    ]
    with torch.device("meta"):
        model = SAM2(preset(name, version=version))
    ours = [
        (entry, tuple(value.shape), str(value.dtype).removeprefix("torch."))
        for entry, value in model.state_dict().items()
    ]
    assert ours == expected
    total = "total_parameters" if version == "2.1" else "sam2.0_total_parameters"
    assert sum(p.numel() for p in model.parameters()) == published[total]


def test_fresh_weights(micro: SAM2):
    state = micro.state_dict()
    for name in ("maskmem_tpos_enc", "no_obj_ptr", "no_mem_embed", "no_obj_embed_spatial"):
        assert 0.01 < state[name].std() < 0.03, name
    trunk = micro.image_encoder.trunk
    assert not trunk.pos_embed.any() and not trunk.pos_embed_window.any()
    assert (state["memory_encoder.fuser.layers.1.gamma"] == 1e-6).all()
    for stack in (micro.memory_attention.layers, micro.memory_encoder.fuser.layers):
        first, second = (layer.state_dict() for layer in stack)
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert all(
            a.data_ptr() != b.data_ptr()
            for a, b in zip(stack[0].parameters(), stack[1].parameters(), strict=True)
        )
    matrix = state["sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"]
    assert 0.7 < matrix.std() < 1.3


def test_fresh_weights_follow_the_seed(micro: SAM2):
    torch.manual_seed(3)
    again = build_sam2("micro").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in micro.state_dict().items())


def clip(model: SAM2, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Two frames: a click, then tracking; the tensors a loss would read."""
    side, count = model.config.image_size, len(images)
    features = model.encode(images)
    click = Prompts(torch.full((count, 1, 2), side / 3), torch.ones(count, 1, dtype=torch.int64))
    first = model.decode(model.unconditioned(features), features, click, multimask=True)
    full = F.interpolate(first.low, size=(side, side), mode="bilinear", align_corners=False)
    memory = model.remember(features, full, first.object_score, from_prompt=False)
    seen = model.recall(features, [(memory, 6), (memory, 0)], [(first.pointer, 1.0)], 7)
    second = model.decode(seen, features, Prompts.none(count, model.device), multimask=True)
    refined = click._replace(mask_logits=first.low)
    third = model.decode(model.unconditioned(features), features, refined, multimask=False)
    adopted = model.adopt_mask(features, full > 0)
    answers = (first, second, third, adopted)
    return tuple(t for a in answers for t in (a.candidates, a.ious, a.pointer, a.object_score))


def test_every_parameter_but_one_learns(micro: SAM2):
    # A positive bias keeps the objects present: an absent one passes no gradient.
    micro.sam_mask_decoder.pred_obj_score_head.layers[2].bias.data.fill_(5.0)
    torch.manual_seed(0)
    sum(t.float().square().mean() for t in clip(micro, torch.randn(2, 3, 96, 96))).backward()
    idle = {name for name, p in micro.named_parameters() if p.grad is None}
    assert idle == {"no_mem_pos_enc"}
    assert all(p.grad.isfinite().all() for p in micro.parameters() if p.grad is not None)


@pytest.mark.parametrize("size", [64, 128])
def test_other_image_sizes(size: int):
    torch.manual_seed(0)
    model = SAM2(preset("micro", image_size=size)).eval()
    with torch.no_grad():
        outputs = clip(model, torch.randn(1, 3, size, size))
    assert outputs[0].shape == (1, 3, size // 4, size // 4)


def test_another_image_size_is_named(micro: SAM2):
    with pytest.raises(ValueError, match=r"expected \[B, 3, 96, 96\].*image_size=64"):
        micro.encode(torch.zeros(1, 3, 64, 64))


def test_works_under_autocast(micro: SAM2):
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        exact = clip(micro, images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = clip(micro, images)
    for a, b in zip(exact, rounded, strict=True):
        assert (a - b).norm() <= 0.1 * a.norm() + 0.1


def test_no_objects_at_all(micro: SAM2):
    features = micro.encode(torch.randn(1, 3, 96, 96)).rows(torch.zeros(0, dtype=torch.int64))
    answer = micro.decode(
        micro.unconditioned(features), features, Prompts.none(0, micro.device), multimask=True
    )
    assert answer.low.shape == (0, 1, 24, 24)


def test_tables_made_in_inference_mode_serve_training():
    model = SAM2(replace(preset("micro"), image_size=160))
    images = torch.randn(1, 3, 160, 160)
    with torch.inference_mode():
        clip(model, images)
    sum(t.sum() for t in clip(model, images)).backward()


def test_rows_repeat_images_for_objects(micro: SAM2):
    with torch.no_grad():
        features = micro.encode(torch.randn(2, 3, 96, 96))
    rows: ImageFeatures = features.rows(torch.tensor([1, 0, 1]))
    assert torch.equal(rows.s16, features.s16[[1, 0, 1]])
    assert rows.position.shape[0] == 1


def test_objects_of_one_image_share_its_features(micro: SAM2):
    one = micro.encode(torch.randn(1, 3, 96, 96)).rows(torch.zeros(3, dtype=torch.int64))
    assert len(one.s16) == 1
    each = one._replace(**{n: getattr(one, n).repeat(3, 1, 1, 1) for n in ("s4", "s8", "s16")})
    points = Prompts(96 * torch.rand(3, 2, 2), torch.tensor([[1, 0]] * 3))
    answers = []
    for features in (one, each):
        first = micro.decode(micro.unconditioned(features), features, points, multimask=False)
        full = F.interpolate(first.low, size=(96, 96), mode="bilinear", align_corners=False)
        memory = micro.remember(features, full, first.object_score, from_prompt=False)
        adopted = micro.adopt_mask(features, full > 0)
        seen = micro.recall(features, [(memory, 6)], [(first.pointer, 1.0)], 7)
        answers.append((first.low, first.pointer, memory.features, adopted.pointer, seen))
    for shared, own in zip(*answers, strict=True):
        assert len(shared) == 3
        torch.testing.assert_close(shared, own, atol=1e-5, rtol=1e-5)


def test_dropout_is_drawn_for_each_object_of_one_image():
    torch.manual_seed(0)
    model = SAM2(replace(preset("micro"), dropout=0.5)).train()
    features = model.encode(torch.randn(1, 3, 96, 96))
    memory = Memory(torch.randn(1, 32, 6, 6).expand(2, -1, -1, -1), torch.zeros(1, 32, 6, 6))
    seen: list[torch.Tensor] = []
    attention = model.memory_attention.layers[0].self_attn
    attention.register_forward_hook(lambda _module, _inputs, out: seen.append(out))
    model.recall(features, [(memory, 0)], [], 7)
    assert not torch.equal(seen[0][0], seen[0][1])


def test_normalise():
    frames = torch.randint(0, 256, (2, 1, 3, 4, 4), dtype=torch.uint8)
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    expected = (frames / 255.0 - mean) / std
    torch.testing.assert_close(SAM2.normalise(frames), expected, atol=2e-6, rtol=0)


def test_drop_path_keeps_the_mean():
    torch.manual_seed(0)
    layer = DropPath(0.25)
    x = torch.ones(4000, 1, 1)
    dropped = layer(x)
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert dropped.mean() == pytest.approx(1, abs=0.05)
    assert layer.eval()(x) is x


def test_drop_path_grows_with_depth():
    model = SAM2(preset("micro", drop_path=0.1))
    rates = [block.drop_path.rate for block in model.image_encoder.trunk.blocks]
    assert rates == pytest.approx([0.1 * i / 7 for i in range(8)])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image_size": 100}, "multiple of 32"),
        ({"hidden": 60}, "hidden is 60"),
        ({"memory_dim": 24}, "memory_dim is 24"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"version": "3"}, "version is '3'"),
    ],
)
def test_impossible_networks_are_named(change: dict[str, object], words: str):
    with pytest.raises(ConfigError, match=words):
        replace(PRESETS["micro"], **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"global_blocks": (3,)}, r"global_blocks contains \[3\]"),
        ({"global_blocks": (8,)}, r"global_blocks contains \[8\]"),
        ({"windows": (8, 4, 7, 7)}, "must be even"),
        ({"heads": 3}, "not a multiple of trunk.heads"),
        ({"drop_path": 1.0}, "drop_path is 1.0"),
    ],
)
def test_impossible_trunks_are_named(change: dict[str, object], words: str):
    trunk: TrunkConfig = PRESETS["micro"].trunk
    with pytest.raises(ConfigError, match=words):
        replace(trunk, **change)  # type: ignore[arg-type]


def test_unknown_preset_lists_the_known():
    with pytest.raises(ConfigError, match="'huge' is unknown; expected one of micro, tiny"):
        build_sam2("huge")

"""Every part of the network gives the reference's numbers, with the reference's weights and
inputs."""

import json
import zlib

import pytest
import torch

from model.mask_decoder import DecodedMasks, stability
from model.position import rotate, rotations, sine_map, sine_times
from model.sam2 import SAM2
from model.types import Prompts
from tests.golden.reader import FOLDER, Golden, normal

CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("threads")


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def test_weights_are_the_reference_ones(micro_golden: SAM2):
    expected = json.loads((FOLDER / "fill_check_micro.json").read_text())
    state = micro_golden.state_dict()
    assert list(state) == list(expected)
    for name, (shape, checksum, first) in expected.items():
        value = state[name].numpy()
        assert list(value.shape) == shape
        assert zlib.crc32(value.tobytes()) == checksum, name
        assert float(value.reshape(-1)[0]) == pytest.approx(first)


class TestImageEncoder:
    golden = Golden("micro_a_image_encoder.npz")
    images = normal("A/micro/image", 2, 3, 128, 128)

    def test_blocks(self, micro_golden: SAM2):
        trunk = micro_golden.image_encoder.trunk
        x = trunk.patch_embed(self.images)
        self.golden.check("patch_embed_BHWC", x, 5e-5)
        position = trunk.position(32, 32)
        self.golden.check("pos_embed_BHWC", position, 5e-5)
        x = x + position
        for index, block in enumerate(trunk.blocks):
            x = block(x)
            self.golden.check(f"block{index}_BHWC", x, 5e-5)

    def test_pyramid(self, micro_golden: SAM2):
        stages = micro_golden.image_encoder.trunk(self.images)
        neck = micro_golden.image_encoder.neck
        for index, stage in enumerate(stages):
            self.golden.check(f"stage{index}", stage, 5e-5)
            self.golden.check(f"neckpos{index}", sine_map(*stage.shape[2:], 256, CPU), 5e-5)
        self.golden.check("neck2", neck.coarse(stages), 5e-5)
        for level in (0, 1, 3):
            self.golden.check(f"neck{level}", neck.convs[3 - level](stages[level]), 5e-5)

    def test_encode(self, micro_golden: SAM2):
        features = micro_golden.encode(self.images)
        self.golden.check("fpn0_after_conv_s", features.s4, 5e-5)
        self.golden.check("fpn1_after_conv_s", features.s8, 5e-5)
        self.golden.check("fpn2_after_conv_s", features.s16, 5e-5)
        self.golden.check("neckpos2", features.position, 5e-5)

    def test_image_that_is_not_square(self, micro_golden: SAM2):
        stages = micro_golden.image_encoder.trunk(normal("A/micro/image_rect", 1, 3, 64, 128))
        for index, stage in enumerate(stages):
            self.golden.check(f"rect_stage{index}", stage, 5e-5)


class TestPromptEncoder:
    golden = Golden("micro_b_prompt_encoder.npz")

    def test_points_of_every_kind(self, micro_golden: SAM2):
        points, labels = self.golden.tensor("in:points"), self.golden.tensor("in:labels")
        sparse, dense = micro_golden.sam_prompt_encoder(Prompts(points, labels), (8, 8))
        self.golden.check("points_sparse", sparse, 1e-5)
        self.golden.check("points_dense", dense.expand(3, -1, -1, -1), 1e-5)

    def test_boxes_are_two_points(self, micro_golden: SAM2):
        corners = self.golden.tensor("in:boxes").view(2, 2, 2)
        labels = torch.tensor([[2, 3]] * 2)
        encode = micro_golden.sam_prompt_encoder.points
        self.golden.check("boxes_only_sparse", encode(corners, labels)[:, :2], 1e-5)
        points, kinds = self.golden.tensor("in:points"), self.golden.tensor("in:labels")
        both = encode(torch.cat([points[:2], corners], 1), torch.cat([kinds[:2], labels], 1))
        self.golden.check("points_and_boxes_sparse", both[:, :6], 1e-5)

    def test_no_point_makes_two_tokens(self, micro_golden: SAM2):
        for count in (0, 1):
            sparse = micro_golden.sam_prompt_encoder.points(
                torch.zeros(2, count, 2), torch.full((2, count), -1)
            )
            self.golden.check("empty_prompt_sparse", sparse, 1e-5)

    def test_masks_and_the_grid(self, micro_golden: SAM2):
        logits = normal("A/micro/mask_logits", 3, 1, 32, 32, scale=3)
        self.golden.check("mask_dense", micro_golden.sam_prompt_encoder.mask(logits, (8, 8)), 1e-5)
        self.golden.check("dense_pe", micro_golden.sam_prompt_encoder.grid(8, 8), 1e-5)


class TestMaskDecoder:
    golden = Golden("micro_c_mask_decoder.npz")
    image = normal("A/micro/image_embed", 3, 256, 8, 8)
    sparse = normal("A/micro/sparse", 3, 5, 256, scale=0.5)
    dense = normal("A/micro/dense", 3, 256, 8, 8, scale=0.3)
    s4 = normal("A/micro/hr0", 3, 32, 32, 32, scale=0.5)
    s8 = normal("A/micro/hr1", 3, 64, 16, 16, scale=0.5)

    def decode(self, model: SAM2, image: torch.Tensor | None = None) -> DecodedMasks:
        grid = model.sam_prompt_encoder.grid(8, 8)
        image = self.image if image is None else image
        s4, s8 = self.s4[: len(image)], self.s8[: len(image)]
        return model.sam_mask_decoder(image, grid, self.sparse, self.dense, s4, s8)

    def test_transformer(self, micro_golden: SAM2):
        decoder = micro_golden.sam_mask_decoder
        tokens = [decoder.obj_score_token, decoder.iou_token, decoder.mask_tokens]
        own = torch.cat([token.weight for token in tokens]).expand(3, -1, -1)
        cells = (self.image + self.dense).flatten(2).transpose(1, 2)
        grid = micro_golden.sam_prompt_encoder.grid(8, 8).flatten(2).transpose(1, 2)
        queries, keys = decoder.transformer(torch.cat([own, self.sparse], 1), cells, grid)
        self.golden.check("transformer_queries", queries, 5e-5)
        self.golden.check("transformer_keys", keys, 5e-5)

    def test_all_masks(self, micro_golden: SAM2):
        decoded = self.decode(micro_golden)
        self.golden.check("all_masks", decoded.logits, 5e-5)
        self.golden.check("all_ious", decoded.ious, 5e-5)
        self.golden.check("mask_tokens_out", decoded.tokens, 5e-5)
        self.golden.check("object_score_logits", decoded.object_score, 5e-5)

    def test_one_and_three(self, micro_golden: SAM2):
        decoded = self.decode(micro_golden)
        for kind, chosen in (("mm0", decoded.single()), ("mm1", decoded.several())):
            for part, value in zip(("masks", "ious", "tokens"), chosen, strict=True):
                self.golden.check(f"{kind}_{part}", value, 5e-5)

    def test_one_image_for_several_prompts(self, micro_golden: SAM2):
        masks, ious, _ = self.decode(micro_golden, self.image[:1]).several()
        self.golden.check("repeat_masks", masks, 5e-5)
        self.golden.check("repeat_ious", ious, 5e-5)

    def test_unstable_mask_gives_way(self, micro_golden: SAM2):
        decoded = self.decode(micro_golden)
        masks, ious, tokens = decoded.stable()
        self.golden.check("dyn_masks", masks, 5e-5)
        self.golden.check("dyn_ious", ious, 5e-5)
        self.golden.check("dyn_tokens", tokens, 5e-5)
        steady = stability(decoded.logits[:, :1])[..., 0]
        self.golden.check("dyn_stability_of_mask0", steady, 5e-5)

    def test_stability_of_designed_logits(self):
        logits, ious = self.golden.tensor("in:dyn_logits"), self.golden.tensor("in:dyn_scores")
        designed = DecodedMasks(logits, ious, torch.zeros(3, 4, 1), torch.zeros(3, 1))
        masks, scores, _ = designed.stable()
        self.golden.check("dyn2_masks", masks, 0)
        self.golden.check("dyn2_scores", scores, 0)
        self.golden.check("dyn2_stability", stability(logits[:, :1])[..., 0], 1e-6)


class TestMemory:
    def test_encoder(self, micro_golden: SAM2):
        golden = Golden("micro_d_memory_encoder.npz")
        features = normal("A/micro/pix_feat", 3, 256, 8, 8)
        logits = normal("A/micro/mem_mask_logits", 3, 1, 128, 128, scale=4.0)
        encoder = micro_golden.memory_encoder
        stretched = logits.sigmoid() * 20 - 10
        golden.check("mask_downsampler", encoder.mask_downsampler(stretched), 5e-5)
        golden.check("skip_features", encoder(features, stretched), 5e-5)
        golden.check("plain_features", encoder(features, logits.sigmoid()), 5e-5)
        golden.check("pos", sine_map(8, 8, 64, CPU), 5e-5)

    def test_attention_layer_by_layer(self, micro_golden: SAM2):
        golden = Golden("micro_e_memory_attention.npz")
        attention = micro_golden.memory_attention
        image = _map(normal("A/micro/curr", 64, 2, 256))
        position = _map(normal("A/micro/curr_pos", 64, 2, 256, scale=0.7))
        seen: list[torch.Tensor] = []
        hooks = [
            layer.register_forward_hook(lambda _m, _i, out: seen.append(out))
            for layer in attention.layers
        ]
        for maps, pointers in ((1, 0), (3, 8), (7, 64)):
            tokens = 64 * maps + pointers
            memory = normal(f"A/micro/mem_{maps}_{pointers}", tokens, 2, 64)
            where = normal(f"A/micro/mempos_{maps}_{pointers}", tokens, 2, 64, scale=0.7)
            seen.clear()
            out = attention(image, position, memory.transpose(0, 1), where.transpose(0, 1), maps)
            for index, layer_out in enumerate(seen):
                golden.check(f"f{maps}_p{pointers}/layer{index}_BNC", layer_out, 5e-5)
            golden.check(f"f{maps}_p{pointers}/out", out.flatten(2).permute(2, 0, 1), 5e-5)
        for hook in hooks:
            hook.remove()

    def test_positions(self, micro_golden: SAM2):
        golden = Golden("micro_e_memory_attention.npz")
        table = rotations(8, 8, 256, CPU)
        golden.check("cis_real", table[..., 0], 1e-6)
        golden.check("cis_imag", table[..., 1], 1e-6)
        queries, keys = (
            normal("A/micro/rope_q", 1, 1, 64, 256),
            normal("A/micro/rope_k", 1, 1, 128, 256),
        )
        golden.check("rope_q_out", rotate(queries, table, 64), 1e-6)
        golden.check("rope_k_out", rotate(keys, table, 128), 1e-6)
        times = [distance / 15 for distance in (0, 1, 5, 15, -3)]
        golden.check("sine_1d", sine_times(times, 256, CPU), 1e-6)
        encoded = micro_golden.obj_ptr_tpos_proj(sine_times(times, 256, CPU))
        golden.check("obj_ptr_tpos_proj_of_sine", encoded, 5e-5)


def _map(tokens: torch.Tensor) -> torch.Tensor:
    """[64, N, C] to [N, C, 8, 8]."""
    return tokens.permute(1, 2, 0).unflatten(2, (8, 8))


def test_real_rotation_equals_complex(monkeypatch: pytest.MonkeyPatch):
    x = torch.randn(2, 1, 128, 64)
    table = rotations(8, 8, 64, CPU)
    complex_result = rotate(x, table, 128)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert (rotate(x, table, 128) - complex_result).abs().max() <= 5e-7

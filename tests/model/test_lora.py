"""A low-rank change starts as none, is all that learns, and merges into ordinary weights."""

import copy

import pytest
import torch

from model.config import preset
from model.lora import add_lora, merged
from model.policy import LoRAConfig
from model.sam2 import SAM2, build_sam2
from pipeline.errors import ConfigError
from pipeline.optim import freeze


@pytest.fixture
def model() -> SAM2:
    torch.manual_seed(0)
    return build_sam2(preset("micro")).eval()


def see(model: SAM2) -> torch.Tensor:
    images = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    return model.encode(images).s16


def test_it_starts_as_no_change_and_learns_alone(model: SAM2) -> None:
    before, weights = see(model), copy.deepcopy(model.state_dict())
    freeze(model, ["*"])
    layers = add_lora(model, LoRAConfig(rank=4))
    assert any(name.endswith("attn.qkv") for name in layers)
    assert torch.equal(see(model), before)

    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert trained and all(name.endswith((".0.a", ".0.b")) for name in trained)
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2)
    for _ in range(2):  # the first step moves b only: a has no gradient while b is zero
        optimizer.zero_grad()
        see(model).square().mean().backward()
        optimizer.step()
    assert not torch.equal(see(model), before)
    for name, value in model.state_dict().items():
        bare = name.replace("parametrizations.weight.original", "weight")
        if bare in weights:
            assert torch.equal(value, weights[bare]), name


def test_merging_gives_an_ordinary_network_with_the_same_answers(model: SAM2) -> None:
    names = list(model.state_dict())
    add_lora(model, LoRAConfig(rank=2, alpha=4.0))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".b"):
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))
    plain = merged(model)
    assert list(plain.state_dict()) == names
    torch.testing.assert_close(see(plain), see(model), atol=1e-6, rtol=1e-6)
    assert merged(plain) is plain


def test_patterns_and_settings_that_do_not_fit(model: SAM2) -> None:
    with pytest.raises(ConfigError, match=r"'\*.query' matches no linear layer"):
        add_lora(model, LoRAConfig(layers=("*.query",)))
    with pytest.raises(ConfigError, match="rank is 0"):
        LoRAConfig(rank=0)

"""Devices by name."""

import pytest
import torch

from pipeline.device import usable_device
from pipeline.errors import ConfigError


def test_a_device_that_is_there():
    assert usable_device("cpu") == usable_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("abacus", "expected cpu, cuda or cuda:1"),
        ("cuda:-3", "expected cpu, cuda or cuda:1"),
        ("cuda:4711", "cannot use it here"),
    ],
)
def test_a_device_that_is_not(name: str, told: str):
    with pytest.raises(ConfigError, match=told) as caught:
        usable_device(name)
    assert "\n" not in str(caught.value) and f"device {name}" in str(caught.value)

"""The network with golden weights, built once, and the number of threads it computes with."""

from collections.abc import Iterator

import pytest
import torch

from model.sam2 import SAM2, build_sam2
from tests.golden.reader import golden_model


@pytest.fixture(scope="session")
def micro_golden() -> SAM2:
    """Golden weights in eval mode. Tests that change it must change it back."""
    return golden_model()


@pytest.fixture(scope="module")
def network() -> SAM2:
    """Untrained weights, those of seed 0."""
    torch.manual_seed(0)
    return build_sam2("micro")


@pytest.fixture(params=[1, 2], ids=["1-thread", "2-threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Run the test with one thread and with two."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)

"""The network with golden weights, built once."""

import pytest

from model.sam2 import SAM2
from tests.golden.reader import golden_model


@pytest.fixture(scope="session")
def micro_golden() -> SAM2:
    """Golden weights in eval mode. Tests that change it must change it back."""
    return golden_model()

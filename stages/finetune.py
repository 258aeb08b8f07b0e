"""Fine-tune a trained model on somebody's own clips or pictures; the recipe says which parts stay frozen."""

from __future__ import annotations

from stages.contract import StageResult, StageSpec
from stages.training import train


def run(spec: StageSpec) -> StageResult | None:
    """Train on whatever the recipe names: pictures, videos or both."""
    return train(spec)

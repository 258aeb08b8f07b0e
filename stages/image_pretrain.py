"""Stage 1: learn to segment. Pictures as one-frame clips, clicked, boxed or masked; memory is never asked.

Seed: training-pipeline-end-to-end.md, stage 1 (SA-1B in the real recipe). The memory encoder, memory attention and
object-pointer parts take no part in the loss and keep their initial weights.
"""

from __future__ import annotations

from stages.contract import StageResult, StageSpec
from stages.training import require_kinds, train


def run(spec: StageSpec) -> StageResult | None:
    """Train on pictures only."""
    require_kinds(spec, {"image"})
    return train(spec)

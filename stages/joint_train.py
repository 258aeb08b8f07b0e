"""Stage 3: keep both skills. Picture steps and video steps in turn, so that tracking does not cost segmentation.

Seed: training-pipeline-end-to-end.md, stage 3. Which step sees what is decided by the mixture, the same on every rank.
"""

from __future__ import annotations

from stages.contract import StageResult, StageSpec
from stages.training import require_kinds, train


def run(spec: StageSpec) -> StageResult | None:
    """Train on pictures and videos mixed."""
    require_kinds(spec, {"image", "video"})
    return train(spec)

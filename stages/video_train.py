"""Stage 2: learn to track. Windows of video frames, prompted at the start, followed through memory.

Seed: training-pipeline-end-to-end.md, stage 2 (SA-V in the real recipe). The first frame is prompted with
a mask, click or box; later frames see only the memory bank and object pointers, and dropped frames teach the
object to be found again.
"""

from __future__ import annotations

from stages.contract import StageResult, StageSpec
from stages.training import require_kinds, train


def run(spec: StageSpec) -> StageResult | None:
    """Train on video windows only."""
    require_kinds(spec, {"video"})
    return train(spec)

"""Better, worse, or nothing that can be told: what a difference means for a gate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from stages.evaluation.bootstrap import Difference

Verdict = Literal["better", "same", "worse"]
WORDS: Mapping[Verdict, str] = {"better": "better", "same": "no clear change", "worse": "worse"}
"""Each as a reader says it."""


def verdict(difference: Difference, tolerance: float) -> Verdict:
    """What `difference` amounts to; `tolerance` is a change nobody minds, in its unit.

    `worse` and `better` need two things: the interval excludes zero, so that it is no accident of
    the videos chosen, and the mean lies beyond the tolerance, so that it is worth a word.
    Everything else is `same`, which may also mean that there are too few videos to tell.
    """
    if difference.worse and difference.mean < -tolerance:
        return "worse"
    if difference.better and difference.mean > tolerance:
        return "better"
    return "same"

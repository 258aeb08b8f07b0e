"""The story that the numbers of a run tell, in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from pipeline.errors import DataError
from stages.evaluation.compare import compare
from stages.evaluation.report.data import ReportData, StageRow, stage_title
from stages.evaluation.scored import scored_details

NOTICEABLE = 0.01
"""A change of mIoU below this is not called a loss."""


def story(data: ReportData) -> str:
    """What the stages did to each other, in one sentence made of their numbers."""
    clauses = [clause for clause in (_trade(data.stages), _outcome(data)) if clause]
    text = "; ".join(clauses)
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _trade(stages: Sequence[StageRow]) -> str:
    """What learning video cost pictures, and whether a later stage won it back."""
    measured = [(row, row.miou) for row in stages if row.miou is not None]
    if len(measured) < 2:
        return ""
    falls = [before[1] - after[1] for before, after in pairwise(measured)]
    worst = int(np.argmax(falls))
    (before, high), (after, low) = measured[worst], measured[worst + 1]
    if falls[worst] < NOTICEABLE or not _is_clear(before, after):
        start, end = measured[0][1], measured[-1][1]
        return f"no stage clearly unlearned pictures: mIoU@1 went from {start:.2f} to {end:.2f}"
    text = f"{stage_title(after.name)} "
    if before.jf is not None and after.jf is not None:
        text += f"moved J&F by {after.jf - before.jf:+.1f} and ".replace("-", "−")
    text += f"cost {falls[worst]:.2f} of mIoU@1 ({high:.2f} → {low:.2f})"
    if worst + 2 == len(measured):
        return text
    last, end = measured[-1]
    share = (end - low) / falls[worst]
    if share >= 1:
        return f"{text}, all of which {stage_title(last.name)} won back ({end:.2f})"
    if share < 0.1:
        return f"{text}, which {stage_title(last.name)} did not win back ({end:.2f})"
    return f"{text}, of which {stage_title(last.name)} won back {share:.0%} ({end:.2f})"


def _is_clear(before: StageRow, after: StageRow) -> bool:
    """Whether a loss of pictures is more than chance, where single scores can tell."""
    if before.details is None or after.details is None:
        return True
    then, now = (scored_details(found, "", "") for found in (before.details, after.details))
    try:
        return compare(then, now, metrics=["image/miou@1"]).verdict == "worse"
    except DataError:  # measured on other pictures
        return False


def _outcome(data: ReportData) -> str:
    """Where the last stage stands against repeating the first mask."""
    scored = [row for row in data.stages if row.jf is not None]
    if not scored:
        return ""
    jf = scored[-1].jf or 0.0
    text = f"on held-out video the run ends at J&F {jf:.1f}"
    if data.repeated is None or data.repeated.video is None:
        return text
    ahead = jf - data.repeated.video.jf
    side = "above" if ahead >= 0 else "below"
    return f"{text}, {abs(ahead):.1f} points {side} repeating the first mask"

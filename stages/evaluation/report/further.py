"""What a recipe measured beyond pictures and videos, as tables whose figures have words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from stages.evaluation.report.data import ReportData, stage_title

WORDS: Mapping[str, str] = {
    r"miou": "mIoU, %",
    r"miou@box": "mIoU of a box, %",
    r"miou@(\d+)": r"mIoU, click \1, %",
    r"noc(.+)": r"clicks to IoU \1 %",
    r"failed(.+)": r"objects that never have IoU \1 %, %",
    r"jf@(\d+)": r"J&F, frames interacted with: \1",
    r"jf_mean": "J&F, mean over these numbers",
    r"interacted_frames": "frames interacted with, mean over objects",
    r"ap": "mask AP",
    r"ap(50|75)": r"mask AP, IoU \1 %",
    r"ap_(.+)": r"mask AP, \1 objects",
    r"returns": "returns of objects",
    r"jf_returned": "J&F after a return",
    r"found_again": "found again, % of returns",
    r"presence": "presence accuracy, %",
    r"missed": "missed, % of frames that show it",
    r"false_presence": "claimed, % of frames without it",
    r"jf": "J&F",
    r"j": "J",
    r"f": "F",
    r"j_(recall|decay)": r"J \1",
    r"f_(recall|decay)": r"F \1",
}
"""Patterns of the whole name of a figure, up to a group (`jf_returned/small`), and what a reader calls it."""
COUNTS = ("returns",)


class Further(NamedTuple):
    """What one further protocol found after the stages it measured."""

    name: str
    stages: list[str]
    rows: list[tuple[str, list[str]]]
    """A figure, and its value after each of the stages."""
    protocols: list[str]


def further(data: ReportData) -> list[Further]:
    """The protocols that a recipe asked for beyond pictures and videos."""
    found = []
    for name in dict.fromkeys(name for row in data.stages for name in row.more):
        stages = [row for row in data.stages if name in row.more]
        answers = [row.more[name] for row in stages]
        figures = dict.fromkeys(figure for one in answers for figure in one.metrics)
        rows = [
            (in_words(figure), [_text(figure, one.metrics.get(figure)) for one in answers])
            for figure in figures
        ]
        said = dict.fromkeys(f"{one.protocol}; split {one.split[:12]}" for one in answers)
        found.append(Further(name, [row.name for row in stages], rows, list(said)))
    return found


def in_words(figure: str) -> str:
    """`noc85` as a reader says it; the name itself of one that is not known."""
    name, _, group = figure.partition("/")
    matches = ((re.fullmatch(pattern, name), words) for pattern, words in WORDS.items())
    said = next((match.expand(words) for match, words in matches if match), stage_title(name))
    return f"{said} ({group})" if group else said


def _text(figure: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0f}" if figure in COUNTS else f"{value:.2f}"

"""J&F sequence by sequence, and what the figures were taken on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from stages.evaluation.report.data import ReportData, StageRow
from stages.evaluation.report.failures import worst_words

MOST = 24
"""Bars shown at most; of longer lists, the best and the worst."""


class Bar(NamedTuple):
    """One sequence of the bar list, percent."""

    name: str
    value: float
    before: float | None
    """After the stage before."""
    baseline: float | None
    """The first mask repeated."""
    trouble: str
    """What is wrong with its objects; empty when nothing is."""


class Sequences(NamedTuple):
    """All sequences, or the two ends of a long list."""

    best: list[Bar]
    worst: list[Bar]
    between: int
    """Sequences left out between the two."""
    has_before: bool
    has_baseline: bool


def sequences(data: ReportData) -> Sequences:
    """J&F of every sequence after the last stage, the best first."""
    scored = [row for row in data.stages if row.summary.video is not None]
    if not scored:
        return Sequences([], [], 0, False, False)
    values = _by_name(scored[-1])
    before = _by_name(scored[-2]) if len(scored) > 1 else {}
    repeated = data.repeated.video if data.repeated is not None else None
    baseline = repeated.sequences if repeated is not None else {}
    trouble = _trouble(scored[-1])
    bars = [
        Bar(name, value, before.get(name), baseline.get(name), trouble.get(name, ""))
        for name, value in sorted(values.items(), key=lambda item: -item[1])
    ]
    marks = (bool(before), bool(baseline))
    if len(bars) <= MOST:
        return Sequences(bars, [], 0, *marks)
    half = MOST // 2
    return Sequences(bars[:half], bars[-half:], len(bars) - MOST, *marks)


def protocols(data: ReportData) -> list[str]:
    """How the figures were taken, and on what; a second split or protocol in one run shows up as a
    second line."""
    summaries = [row.summary for row in data.stages]
    summaries += [part for part in (data.untrained, data.repeated) if part is not None]
    images = [summary.image for summary in summaries if summary.image is not None]
    videos = [summary.video for summary in summaries if summary.video is not None]
    lines = [
        f"Pictures: {image.objects} objects in {image.pictures} pictures, "
        f"split {image.split[:12]}; {image.protocol}."
        for image in images
    ]
    lines += [
        f"Video: {video.objects} objects in {len(video.sequences)} videos, "
        f"split {video.split[:12]}; {video.protocol}."
        for video in videos
    ]
    return list(dict.fromkeys(lines))


def _by_name(row: StageRow) -> Mapping[str, float]:
    return row.summary.video.sequences if row.summary.video is not None else {}


def _trouble(row: StageRow) -> dict[str, str]:
    if row.details is None or row.details.videos is None:
        return {}
    return {video.name: worst_words(video.objects) for video in row.details.videos.videos}

"""The report of a run: one HTML file that needs nothing else, offline, on paper, in light and
dark."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.storage import atomic_file
from stages.evaluation.media import data_url, picture_url
from stages.evaluation.plots import curve_svg, stages_svg
from stages.evaluation.report_data import ReportData, StageRow, stage_title, story
from stages.evaluation.summary import Summary

MOST_SEQUENCES = 24
"""Bars shown at most; of longer lists, the best and the worst."""


class Cell(NamedTuple):
    """One figure of the headline table."""

    value: str
    change: str = ""
    """Against the stage before; empty when there is none."""
    better: bool = True
    share: float = 0.0
    """0 to 1: how far the bar under the figure reaches."""


class Bar(NamedTuple):
    """One sequence of the bar list."""

    name: str
    value: float
    baseline: float | None


class Tile(NamedTuple):
    """One large figure at the head of the page."""

    value: str
    label: str
    note: str


COLUMNS = ("image mIoU@1", "image mIoU@3", "video J&F", "video J", "video F")


def write_report(data: ReportData, path: str | Path) -> Path:
    """Write the report of `data` to `path` (.html), whole or not at all, and return where it is."""
    path = Path(path)
    environment = Environment(
        loader=PackageLoader("stages.evaluation", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["title"] = stage_title
    page = environment.get_template("report.html.j2").render(
        data=data,
        story=story(data),
        tiles=_tiles(data),
        columns=COLUMNS,
        table=_table(data),
        protocols=_protocols(data),
        stages_svg=stages_svg(data) if len(_measured(data)) > 1 else "",
        curves=[(row.name, [curve_svg(curve) for curve in row.curves]) for row in data.stages],
        sequences=_sequences(data),
        cases=[(case.title, case.caption, picture_url(case.picture)) for case in data.cases],
        film=None if data.film is None else data_url(data.film),
        config=json.dumps(data.config, indent=2, default=str, ensure_ascii=False),
        time=time_text,
    )
    with atomic_file(path, "w") as file:
        file.write(page)
    return path


def time_text(seconds: float) -> str:
    """A duration as a person says it: 45 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s".removesuffix(" 0 s")
    return f"{whole // 3600} h {whole % 3600 // 60} min".removesuffix(" 0 min")


def _table(data: ReportData) -> list[tuple[str, str, list[Cell], str]]:
    """The rows of the headline table: name, kind, one cell per column, time."""
    rows: list[tuple[str, str, list[Cell], str]] = []
    if data.repeated is not None:
        rows.append(("first mask repeated", "baseline", _cells(data.repeated, None), ""))
    if data.untrained is not None:
        rows.append(("untrained network", "baseline", _cells(data.untrained, None), ""))
    before = data.untrained
    for row in data.stages:
        time = time_text(row.seconds) if row.seconds else ""
        rows.append((stage_title(row.name), "stage", _cells(row.summary, before), time))
        before = row.summary
    return rows


def _cells(summary: Summary, before: Summary | None) -> list[Cell]:
    earlier = _figures(before) if before is not None else [None] * len(COLUMNS)
    cells = []
    for column, now, then in zip(COLUMNS, _figures(summary), earlier, strict=True):
        digits, full = (3, 1.0) if column.startswith("image") else (1, 100.0)
        if now is None:
            cells.append(Cell("–"))
            continue
        change = "" if then is None else f"{now - then:+.{digits}f}".replace("-", "−")
        cells.append(Cell(f"{now:.{digits}f}", change, then is None or now >= then, now / full))
    return cells


def _figures(summary: Summary) -> list[float | None]:
    """The figures of COLUMNS, None where not measured."""
    miou = summary.image.miou if summary.image is not None else {}
    video = summary.video
    found = [None] * 3 if video is None else [video.jf, video.j, video.f]
    return [miou.get(1), miou.get(3), *found]


def _tiles(data: ReportData) -> list[Tile]:
    """The last stage's results at a glance."""
    if not data.stages:
        return []
    last = data.stages[-1]
    tiles = []
    if last.summary.video is not None:
        note = "percent, over all held-out objects"
        if data.repeated is not None and data.repeated.video is not None:
            ahead = last.summary.video.jf - data.repeated.video.jf
            note = f"{ahead:+.1f} against the first mask repeated"
        tiles.append(Tile(f"{last.summary.video.jf:.1f}", "video J&F", note.replace("-", "−")))
    if last.summary.image is not None:
        tiles += [
            Tile(f"{last.summary.image.miou[clicks]:.3f}", f"image mIoU@{clicks}", note)
            for clicks, note in ((1, "after one click"), (3, "after three clicks"))
            if clicks in last.summary.image.miou
        ]
    seconds = sum(row.seconds for row in data.stages)
    if seconds:
        tiles.append(Tile(time_text(seconds), "training", f"{len(data.stages)} stages"))
    return tiles


def _measured(data: ReportData) -> list[Summary]:
    """The evaluations of the network that found something, in the order of the stages."""
    found = ([data.untrained] if data.untrained else []) + [row.summary for row in data.stages]
    return [summary for summary in found if summary.image is not None or summary.video is not None]


def _sequences(data: ReportData) -> tuple[list[Bar], list[Bar], int]:
    """J&F of every sequence after the last stage: the best ones, the worst ones, and how many lie
    between."""
    scored: Sequence[StageRow] = [row for row in data.stages if row.summary.video is not None]
    if not scored or scored[-1].summary.video is None:
        return [], [], 0
    baseline = data.repeated.video.sequences if data.repeated and data.repeated.video else {}
    values = scored[-1].summary.video.sequences
    bars = [
        Bar(name, value, baseline.get(name))
        for name, value in sorted(values.items(), key=lambda item: -item[1])
    ]
    if len(bars) <= MOST_SEQUENCES:
        return bars, [], 0
    half = MOST_SEQUENCES // 2
    return bars[:half], bars[-half:], len(bars) - MOST_SEQUENCES


def _protocols(data: ReportData) -> list[str]:
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

"""The report of a run: one HTML file that needs nothing else, offline, on paper, in light and
dark."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.storage import atomic_file
from stages.evaluation.media import data_url, picture_url
from stages.evaluation.published import THREE_STAGES, THREE_STAGES_SOURCE
from stages.evaluation.report.colours import FAILURES, stage_colour
from stages.evaluation.report.data import ReportData, rows_with_start, stage_title
from stages.evaluation.report.failures import CATEGORIES, Failures, failures
from stages.evaluation.report.further import further
from stages.evaluation.report.headline import COLUMNS, MAIN, headline, tiles, time_text
from stages.evaluation.report.origins import config_diff
from stages.evaluation.report.plots import Chart, curve_chart, stages_chart
from stages.evaluation.report.sequences import protocols, sequences
from stages.evaluation.report.story import story
from stages.evaluation.verdict import WORDS

FIGURES = "figures"
"""Folder of the charts, beside the page."""
STRIP_QUALITY = 80


class FailedStage(NamedTuple):
    """The failure categories of one stage."""

    name: str
    found: list[Failures]
    objects: int


def write_report(data: ReportData, path: str | Path) -> Path:
    """Write the report of `data` to `path` (.html), whole or not at all, its charts also as files
    into figures/ beside it, and return where the page is."""
    path = Path(path)
    names = [row.name for row in rows_with_start(data)]
    curves = {
        row.name: [
            curve_chart(row, curve, stage_colour(row.name, row.kind, names)) for curve in row.curves
        ]
        for row in data.stages
    }
    overview = stages_chart(data) if _measured(data) > 1 else None
    write_page(
        "report.html.j2",
        path,
        data=data,
        story=story(data),
        tiles=tiles(data),
        columns=COLUMNS,
        main=MAIN,
        table=headline(data),
        protocols=protocols(data),
        published=_published(data),
        published_source=THREE_STAGES_SOURCE,
        stages_svg=overview.svg() if overview is not None else "",
        curves={name: [chart.svg() for chart in charts] for name, charts in curves.items()},
        further=further(data),
        sequences=sequences(data),
        failed=_failed(data),
        categories=CATEGORIES,
        failure_colours=FAILURES,
        stage_colours={
            row.name: stage_colour(row.name, row.kind, names) for row in rows_with_start(data)
        },
        cases=[
            (
                case.title,
                case.caption,
                picture_url(case.picture, quality=STRIP_QUALITY),
                data_url(case.clip) if case.clip is not None else "",
            )
            for case in data.cases
        ],
        film=None if data.film is None else data_url(data.film),
        differences=config_diff([row.settings.get("stage", {}) for row in data.stages]),
        config=json.dumps(data.config, indent=2, default=str, ensure_ascii=False),
    )
    _write_figures([overview] if overview else [], curves, path.parent / FIGURES)
    return path


def write_page(template: str, path: Path, **values: Any) -> None:
    """Fill a template of this package and put it at `path`, whole or not at all."""
    environment = Environment(
        loader=PackageLoader("stages.evaluation.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"title": stage_title, "time": time_text}
    environment.globals |= {"zip": zip, "verdict_words": WORDS}
    page = environment.get_template(template).render(**values)
    with atomic_file(path, "w") as file:
        file.write(page)


def _write_figures(overview: list[Chart], curves: Mapping[str, list[Chart]], folder: Path) -> None:
    for chart in [*overview, *(chart for charts in curves.values() for chart in charts)]:
        chart.write(folder)


def _measured(data: ReportData) -> int:
    """How many evaluations of the network found something."""
    summaries = [row.summary for row in rows_with_start(data)]
    return sum(found.image is not None or found.video is not None for found in summaries)


def _failed(data: ReportData) -> list[FailedStage]:
    """How objects are lost in each stage whose single scores were kept."""
    found = []
    for row in rows_with_start(data):
        videos = row.details.videos if row.details is not None else None
        if videos is not None and videos.objects:
            found.append(FailedStage(row.name, failures(videos), len(videos.objects)))
    return found


def _published(data: ReportData) -> list[tuple[str, float | None, float | None, Any]]:
    """Our three stages (name, mIoU@1, J&F) and what was published for each; empty for other
    recipes."""
    ours = {row.kind: row for row in data.stages}
    if not all(stage.kind in ours for stage in THREE_STAGES):
        return []
    return [
        (ours[stage.kind].name, ours[stage.kind].miou, ours[stage.kind].jf, stage)
        for stage in THREE_STAGES
    ]

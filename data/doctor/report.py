"""What the doctor leaves in a folder: findings as json lines, the numbers as json, the sheet, and a
page that holds all of it."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data.doctor.finding import Finding
from data.doctor.survey import Survey
from data.doctor.worst import WorstBatch
from pipeline.storage import atomic_file, write_json

FINDINGS, NUMBERS, SHEET, PAGE = "findings.jsonl", "doctor.json", "sheet.jpg", "doctor.html"
LISTED = 200
"""Findings of a kind that the page lists; the json lines hold all."""
TEMPLATE = Path(__file__).with_name("report.html.j2")


def write_reports(
    folder: Path,
    surveys: Sequence[Survey],
    batches: Sequence[WorstBatch],
    sheet: np.ndarray | None,
    *,
    page: bool,
) -> list[Path]:
    """Write the files, each whole or not at all; returns where they are.

    sheet: uint8 [H, W, 3], RGB; None where nothing could be drawn. page: also as one HTML file.
    """
    findings = [finding for one in surveys for finding in one.findings]
    paths = [folder / FINDINGS, folder / NUMBERS]
    with atomic_file(paths[0], "w") as file:
        file.writelines(json.dumps(finding.row, ensure_ascii=False) + "\n" for finding in findings)
    numbers = {
        "datasets": [one.numbers() for one in surveys],
        "errors": sum(one.errors for one in surveys),
        "notes": len(findings) - sum(one.errors for one in surveys),
        "worst_batches": [batch.row for batch in batches],
    }
    write_json(paths[1], numbers)
    drawn = b""
    if sheet is not None:
        paths.append(folder / SHEET)
        drawn = cv2.imencode(".jpg", sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
        with atomic_file(paths[-1]) as file:
            file.write(drawn)
    if page:
        paths.append(folder / PAGE)
        with atomic_file(paths[-1], "w") as file:
            file.write(_page(surveys, batches, drawn))
    return paths


def bars(counts: Counter[int], most: int = 12) -> list[tuple[str, int, float]]:
    """A histogram as (label, count, share of the largest); many values are put into equal bins."""
    if not counts:
        return []
    low, high = min(counts), max(counts)
    width = -(-(high - low + 1) // most)
    bins: Counter[int] = Counter()
    for value, count in counts.items():
        bins[(value - low) // width] += count
    top = max(bins.values())
    rows = []
    for number in range((high - low) // width + 1):
        first = low + number * width
        last = min(first + width - 1, high)
        label = str(first) if first == last else f"{first}-{last}"
        rows.append((label, bins[number], bins[number] / top))
    return rows


def grouped(findings: Sequence[Finding]) -> list[tuple[str, str, list[Finding]]]:
    """(severity, check, findings), errors first, then the most frequent."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.severity, finding.check), []).append(finding)
    order = sorted(groups.items(), key=lambda item: (item[0][0] != "error", -len(item[1])))
    return [(severity, check, rows) for (severity, check), rows in order]


def _page(surveys: Sequence[Survey], batches: Sequence[WorstBatch], sheet: bytes) -> str:
    from jinja2 import Environment, StrictUndefined

    sections: list[dict[str, Any]] = [
        {
            "survey": one,
            "bars": bars(one.objects),
            "lengths": bars(one.lengths) if one.spec.kind == "video" else [],
            "sizes": one.sizes.most_common(5),
            "groups": [
                (severity, check, len(rows), rows[:LISTED])
                for severity, check, rows in grouped(one.findings)
            ],
            "batches": [batch for batch in batches if batch.dataset == one.name],
        }
        for one in surveys
    ]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(sections=sections, sheet=base64.b64encode(sheet).decode())

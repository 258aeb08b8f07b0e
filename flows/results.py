"""The results of a run in words and rows, for the terminal and for Prefect's pages alike."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flows import daemons
from flows.home import state_folder
from flows.run import Run
from pipeline.progress import duration_text
from pipeline.remote import shown
from pipeline.storage import size_text
from stages.contract import StageResult, StageSpec

COLUMNS: Mapping[str, str] = {
    "image/miou@1": "mIoU@1",
    "image/miou@3": "mIoU@3",
    "video/jf": "J&F",
}
"""The metrics of an evaluation that the table shows, and their headings."""
PERCENT = ("video/jf", "video/baseline_jf")
BASELINE = "video/baseline_jf"
"""J&F of repeating the first mask; the same for every evaluation of a run."""


@dataclass(frozen=True)
class Results:
    """A table of words; every row as long as `columns`."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def markdown(self) -> str:
        """The table in Markdown."""
        lines = ["| " + " | ".join(self.columns) + " |"]
        lines.append("|" + "|".join([":--", *["--:"] * (len(self.columns) - 1)]) + "|")
        lines += ["| " + " | ".join(row) + " |" for row in self.rows]
        return "\n".join(lines)

    def records(self) -> list[dict[str, str]]:
        """The rows with a name for every cell; a change is named after what has changed."""
        names = [
            f"{self.columns[index - 1]} change" if column == "change" else column
            for index, column in enumerate(self.columns)
        ]
        return [dict(zip(names, row, strict=True)) for row in self.rows]


def results_table(run: Run) -> Results:
    """What every stage added: its evaluation, the change against the one before, and its time."""
    shown = [key for key in COLUMNS if any(key in result.metrics for result in _measured(run))]
    headings = tuple(heading for key in shown for heading in (COLUMNS[key], "change"))
    rows: list[tuple[str, ...]] = []
    before: Mapping[str, float] = {}
    for result in _measured(run):
        if not rows and BASELINE in result.metrics:
            rows.append(_baseline_row(result, shown))
        trained = result.stage.removesuffix(".evaluate")
        cost = run.results.get(trained)
        cells = [cell for key in shown for cell in _cells(key, result.metrics, before)]
        name = "untrained network" if trained == "start" else trained
        rows.append((name, *cells, duration_text(cost.seconds) if cost else ""))
        before = result.metrics
    return Results(
        f"Results of {run.recipe.folder.name}", ("stage", *headings, "time"), tuple(rows)
    )


def figures_text(metrics: Mapping[str, float], limit: int = 4) -> str:
    """The figures of a stage that tell most: `mIoU@1 0.470, J&F 38.2`."""
    known = [key for key in COLUMNS if key in metrics]
    others = [key for key in metrics if metrics[key] or key != "skipped"]
    return ", ".join(
        f"{COLUMNS.get(key, key)} {number(key, metrics[key])}" for key in (known or others)[:limit]
    )


def stage_page(run: Run, spec: StageSpec, result: StageResult, how: str) -> str:
    """A stage in Markdown: figures, checkpoint, files, and where to look further."""
    at = f"; step {result.step:,}" if result.step else ""
    lines = [f"## {spec.name}", "", f"{spec.kind}, {how}{at}.", ""]
    if result.metrics:
        lines += ["| figure | value |", "|:--|--:|"]
        lines += [f"| {key} | {number(key, value)} |" for key, value in result.metrics.items()]
        lines.append("")
    if result.checkpoint is not None:
        reference = result.checkpoint
        lines += [f"**Checkpoint** `{reference.uri}`", "", f"sha256 `{reference.sha256}`", ""]
    lines += [f"* {name}: `{place}`" for name, place in result.files.items()]
    lines += [f"* logs: `{Path(spec.folder) / 'logs'}`"]
    lines += [item(what, where) for what, where in viewers(run, result.run_id)]
    return "\n".join(lines)


def run_page(run: Run, table: Results) -> str:
    """The whole run in Markdown."""
    lines = [f"## {table.title}", "", run.recipe.description, ""]
    if table.rows:
        lines += [table.markdown, ""]
    report = served_file(run, "report")
    if report:
        lines.append(f"* [the report, from MLflow]({report})")
    lines += [item(what, where) for what, where in where_to_look(run)]
    return "\n".join(
        [*lines, "", "Continue or repeat it with", "", "```", run.request.command(), "```"]
    )


def served_file(run: Run, what: str) -> str:
    """Where MLflow serves a file of the report; empty where it does not."""
    report, base = run.results.get("report"), _served_mlflow(run)
    if report is None or what not in report.files or not (base and report.run_id):
        return ""
    name = Path(report.files[what]).name
    return f"{base}/get-artifact?path={name}&run_uuid={report.run_id}"


def where_to_look(run: Run) -> list[tuple[str, str]]:
    """What a person may want to open after a run: (what it is, file or command)."""
    trained = [result for result in run.results.values() if result.checkpoint is not None]
    last = run.results.get("report") or (trained[-1] if trained else None)
    files = last.files if last is not None else {}
    found = [(name, short(Path(place))) for name, place in files.items()]
    return [*found, *viewers(run, str(run.tracking.get("parent", "")))]


def short(path: Path) -> str:
    """A path as seen from here, where that is shorter."""
    relative = os.path.relpath(path)
    return relative if len(relative) < len(str(path)) else str(path)


def item(what: str, where: str) -> str:
    """A line of a list in Markdown: a link, or a place on this machine."""
    return f"* [{what}]({where})" if where.startswith("http") else f"* {what}: `{where}`"


def viewers(run: Run, run_id: str) -> list[tuple[str, str]]:
    """MLflow and TensorBoard: their pages where they are served, else the commands that serve
    them."""
    uri, base = run.recipe.tracking_uri, _served_mlflow(run)
    board = daemons.running(state_folder(), "tensorboard")
    page = f"{base}/#/runs/{run_id}" if run_id else base
    if run_id and run.experiment_id:  # only this address opens the pages of training, not of chats
        where = f"experiments/{run.experiment_id}/runs/{run_id}"
        page = f"{base}/#/{where}?workflowType=machine_learning"
    return [
        ("mlflow", page if base else f"mlflow ui --backend-store-uri {shown(uri)}"),
        ("tensorboard", board.url if board else f"tensorboard --logdir {short(run.recipe.folder)}"),
    ]


def _served_mlflow(run: Run) -> str:
    """The address of MLflow's pages for a browser; empty where nobody serves them."""
    page = os.environ.get("SAM2_MLFLOW_PAGE", "")
    if page:
        return page.rstrip("/")
    uri, mlflow = run.recipe.tracking_uri, daemons.running(state_folder(), "mlflow")
    return uri.rstrip("/") if uri.startswith("http") else (mlflow.url if mlflow else "")


def _measured(run: Run) -> list[StageResult]:
    names = [stage.name for stage in run.planned if stage.kind == "evaluate"]
    return [run.results[name] for name in names if name in run.results]


def _baseline_row(result: StageResult, shown: list[str]) -> tuple[str, ...]:
    cells = [
        cell
        for key in shown
        for cell in ((number(key, result.metrics[BASELINE]) if key == "video/jf" else "", ""))
    ]
    return ("first mask repeated", *cells, "")


def _cells(key: str, metrics: Mapping[str, float], before: Mapping[str, float]) -> tuple[str, str]:
    if key not in metrics:
        return "", ""
    value = number(key, metrics[key])
    if key not in before:
        return value, ""
    change = metrics[key] - before[key]
    return value, f"{change:+.1f}" if key in PERCENT else f"{change:+.3f}"


def number(key: str, value: float) -> str:
    """A metric as it is shown in a table."""
    if key in PERCENT:
        return f"{value:.1f}"
    if key == "bytes":
        return size_text(int(value))
    if key in COLUMNS:
        return f"{value:.3f}"
    return str(int(value)) if float(value).is_integer() else f"{value:.3g}"

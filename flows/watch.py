"""Whoever looks on while a run goes: the terminal, and Prefect with its artifacts.

A watcher is told what happens and never decides anything. What Prefect does not take is dropped
with a line in the log: a slow or absent server neither stops nor changes a run (law 6).
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol
from uuid import UUID

from flows import results
from flows.run import Run
from pipeline.progress import Progress, duration_text
from stages.contract import StageResult, StageSpec
from stages.recipe import PlannedStage

LOG_SECONDS = 30.0
"""A running stage writes a progress line this often; its bar moves more often."""
ARTIFACT_SECONDS = 5.0


class Watcher(Protocol):
    """What a run tells, in order."""

    def run_begins(self, run: Run, stages: Sequence[PlannedStage]) -> None:
        """These stages are gone through, in this order."""

    def run_notes(self, line: str) -> None:
        """Something is done, or was found, that belongs to no job."""

    def stage_begins(self, spec: StageSpec) -> None:
        """A job is started for `spec` (or one that runs already is watched)."""

    def stage_moves(self, spec: StageSpec, progress: Progress) -> None:
        """The job has written a new progress; called at every look."""

    def stage_ends(self, run: Run, spec: StageSpec, result: StageResult, reused: bool) -> None:
        """The stage is done; `reused` when it had been done before."""

    def run_ends(self, run: Run) -> None:
        """All stages are done."""


class PrefectPage:
    """Log lines and artifacts on the page of the flow run."""

    def __init__(self, logger: logging.Logger | logging.LoggerAdapter[Any]) -> None:
        self.logger = logger
        self.bar: UUID | None = None
        self.drawn = self.logged = 0.0

    def run_begins(self, run: Run, stages: Sequence[PlannedStage]) -> None:
        """Say what is coming."""
        self.logger.info("%s in %s", run.request.command(), run.recipe.folder)
        self.logger.info("stages: %s", ", ".join(stage.name for stage in stages))

    def run_notes(self, line: str) -> None:
        """A line in the log."""
        self.logger.info("%s", line)

    def stage_begins(self, spec: StageSpec) -> None:
        """A progress bar at 0 %, and where the logs are."""
        from prefect.artifacts import create_progress_artifact

        self.bar, self.drawn, self.logged = None, time.monotonic(), time.monotonic()
        self.logger.info("%s begins; its folder is %s", spec.name, spec.folder)

        def create() -> None:
            made = create_progress_artifact(0.0, artifact_key(spec.name, "progress"), spec.name)
            self.bar = made if isinstance(made, UUID) else None

        self._offer(create)

    def stage_moves(self, spec: StageSpec, progress: Progress) -> None:
        """Move the bar, and now and then write a line."""
        now = time.monotonic()
        if now - self.logged >= LOG_SECONDS:
            self.logged = now
            self.logger.info("%s: %s", spec.name, progress.text)
        if now - self.drawn >= ARTIFACT_SECONDS:
            self.drawn = now
            self._draw(100.0 * progress.step / max(progress.total, 1), progress.text)

    def stage_ends(self, run: Run, spec: StageSpec, result: StageResult, reused: bool) -> None:
        """The bar full, and the stage's page: figures, checkpoint, logs, where to look."""
        from prefect.artifacts import create_markdown_artifact

        how = "was done already" if reused else f"done in {duration_text(result.seconds)}"
        self.logger.info("%s %s; %s", spec.name, how, results.figures_text(result.metrics))
        self._draw(100.0, how)
        page = results.stage_page(run, spec, result, how)
        key = artifact_key(spec.name)
        self._offer(lambda: create_markdown_artifact(page, key, f"{spec.name}: {how}"))

    def run_ends(self, run: Run) -> None:
        """The results as a table and as a page, and a link to the report."""
        from prefect.artifacts import (
            create_link_artifact,
            create_markdown_artifact,
            create_table_artifact,
        )

        table = results.results_table(run)
        name = run.recipe.folder.name
        if table.rows:
            key_of_table, rows = artifact_key(name, "table"), table.records()
            self._offer(lambda: create_table_artifact(rows, key_of_table, "Results by stage"))
        page = results.run_page(run, table)
        self._offer(
            lambda: create_markdown_artifact(page, artifact_key(name, "results"), "Results")
        )
        report = results.report_file(run)
        if report is not None:
            key = artifact_key(name, "report")
            self._offer(lambda: create_link_artifact(report.as_uri(), key, report.name, "Report"))

    def _draw(self, percent: float, text: str) -> None:
        from prefect.artifacts import update_progress_artifact

        bar = self.bar
        if bar is not None:
            self._offer(lambda: update_progress_artifact(bar, min(percent, 100.0), text))

    def _offer(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:  # whatever ails the server must not end the run
            self.logger.warning("Prefect did not take an artifact (%s); the run goes on", error)


def artifact_key(*parts: str) -> str:
    """A key of the letters Prefect allows, `[a-z0-9-]`."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")

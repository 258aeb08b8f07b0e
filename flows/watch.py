"""Whoever looks on while a run goes: the terminal, and Prefect with its artifacts.

A watcher is told what happens and never decides anything.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from flows import results
from flows.page import Page, artifact_key, image_url
from flows.pictures import pictures_of
from flows.run import Run
from flows.watch_job import JobView
from flows.watch_log import JobLog
from pipeline.progress import Progress, duration_text
from pipeline.redaction import redact_logs
from stages.contract import StageResult, StageSpec
from stages.recipe import PlannedStage

DEPLOYED_PATIENCE, PATIENCE = 3600.0, 10.0
"""Seconds that the end of a run waits for a server that does not answer."""
SCAFFOLDING = "submitit INFO"
"""Lines of a job's log that begin so are about submitit's own doings."""
ARTIFACT_SECONDS = 5.0
"""A running stage's page and bar are drawn again this often."""


class Watcher(Protocol):
    """What a run tells, in order."""

    def run_begins(self, run: Run, stages: Sequence[PlannedStage]) -> None:
        """These stages are gone through, in this order."""

    def run_notes(self, line: str) -> None:
        """Something is done, or was found, that belongs to no job."""

    def stage_begins(self, spec: StageSpec) -> None:
        """A job is started for `spec` (or one that runs already is watched)."""

    def stage_moves(self, spec: StageSpec, progress: Progress | None) -> None:
        """Called at every look at the job, with its last word; None before its first."""

    def stage_fails(self, spec: StageSpec) -> None:
        """The job has ended without a result, or the wait for it was interrupted."""

    def stage_ends(self, run: Run, spec: StageSpec, result: StageResult, reused: bool) -> None:
        """The stage is done; `reused` when it had been done before."""

    def run_ends(self, run: Run) -> None:
        """All stages are done."""


class PrefectPage:
    """Log lines and artifacts on the page of the flow run."""

    def __init__(self, logger: logging.Logger | logging.LoggerAdapter[Any]) -> None:
        redact_logs()
        self.flow_logger, self.page = logger, Page(logger)
        self.run: Run | None = None
        self.job: JobView | None = None
        self.log: JobLog | None = None
        self.drawn = 0.0

    @property
    def logger(self) -> logging.Logger | logging.LoggerAdapter[Any]:
        """That of the stage's task inside of one, else the flow's."""
        from prefect.context import TaskRunContext
        from prefect.logging import get_run_logger

        return get_run_logger() if TaskRunContext.get() is not None else self.flow_logger

    def run_begins(self, run: Run, stages: Sequence[PlannedStage]) -> None:
        """Say what is coming."""
        self.run = run
        self.logger.info("%s in %s", run.request.command(), run.recipe.folder)
        self.logger.info("stages: %s", ", ".join(stage.name for stage in stages))

    def run_notes(self, line: str) -> None:
        """A line in the log."""
        self.logger.info("%s", line)

    def stage_begins(self, spec: StageSpec) -> None:
        """A bar at 0 %, the stage's page with the state of its job, and the job's log from here
        on."""
        self.drawn = time.monotonic()
        self.logger.info("%s begins; its folder is %s", spec.name, spec.folder)
        assert self.run is not None
        self.job, self.log = JobView(self.run, spec), JobLog(spec.folder)
        self.page.bar(artifact_key(spec.name, "progress"), 0.0, spec.name)

    def stage_moves(self, spec: StageSpec, progress: Progress | None) -> None:
        """The job's new log lines, its bar and its state."""
        if not self.page.reachable():  # lines wait in their file
            return
        self._show_log()
        now = time.monotonic()
        if self.job is None or now - self.drawn < ARTIFACT_SECONDS:
            return
        self.drawn = now
        text = self.job.page(progress)
        self.page.markdown(artifact_key(spec.name), text, f"{spec.name}: running")
        if progress is not None:
            percent = 100.0 * progress.step / max(progress.total, 1)
            self.page.bar(artifact_key(spec.name, "progress"), percent, progress.text)

    def stage_fails(self, spec: StageSpec) -> None:
        """What the job said last."""
        if self.page.reachable(at_once=True):
            self._show_log(last=True)
        text = f"## {spec.name}\n\nended without a result; logs: `{Path(spec.folder) / 'logs'}`"
        self.page.markdown(artifact_key(spec.name), text, f"{spec.name}: no result")

    def stage_ends(self, run: Run, spec: StageSpec, result: StageResult, reused: bool) -> None:
        """The bar full, and the stage's page: figures, checkpoint, logs, pictures, where to
        look."""
        if not reused:
            self._show_log(last=True)
        how = "was done already" if reused else f"done in {duration_text(result.seconds)}"
        figures = results.figures_text(result.metrics)
        self.logger.info("%s %s%s", spec.name, how, f"; {figures}" if figures else "")
        self.page.bar(artifact_key(spec.name, "progress"), 100.0, how)
        text = results.stage_page(run, spec, result, how)
        text += self._pictures(Path(spec.folder), result)
        self.page.markdown(artifact_key(spec.name), text, f"{spec.name}: {how}")

    def _pictures(self, folder: Path, result: StageResult) -> str:
        """The pictures of a stage in Markdown."""
        try:
            found = [(what, image_url(file)) for what, file in pictures_of(folder, result)]
        except Exception as error:  # a picture is not worth a run
            self.logger.warning("%s: a picture could not be drawn (%s)", folder.name, error)
            return ""
        return "".join(f"\n\n![{what}]({url})" for what, url in found if url)

    def run_ends(self, run: Run) -> None:
        """The results as a table and as a page, and a frame of the report's film."""
        table = results.results_table(run)
        name = run.recipe.folder.name
        if table.rows:
            self.page.table(artifact_key(name, "table"), table.records(), "Results by stage")
        page = results.run_page(run, table)
        still = results.served_file(run, "still")
        if still:
            self.page.image(artifact_key(name, "film"), still, "From the film of the report")
        if "report" in run.results:
            page += self._pictures(run.folder("report"), run.results["report"])
        self.page.markdown(artifact_key(name, "results"), page, "Results")
        self.page.flush(patience())

    def _show_log(self, last: bool = False) -> None:
        if self.log is None:
            return

        def say(line: str) -> None:
            if not line.startswith(SCAFFOLDING):
                self.logger.info("%s", line)

        try:
            self.log.show(say, last=last)
        except OSError as error:
            self.logger.warning("the job's log cannot be read (%s)", error)


def patience() -> float:
    """Seconds worth waiting for a Prefect server that is away: a worker's flow run has to tell it
    how it ended, while a person at a terminal has seen that."""
    from prefect.runtime import deployment

    return DEPLOYED_PATIENCE if deployment.id else PATIENCE

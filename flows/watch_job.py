"""A running job on one page: how far it is, whether it lives, what the scheduler says of it, and
where more is to be seen."""

from __future__ import annotations

import time
from pathlib import Path

from flows import results
from flows.run import Run
from pipeline.backends import Backend, Handle
from pipeline.heartbeat import read_beat
from pipeline.launch import backend_for, read_handle
from pipeline.progress import Progress, duration_text
from pipeline.storage import size_text
from stages.contract import StageSpec


class JobView:
    """The job of one stage, looked at from outside."""

    def __init__(self, run: Run, spec: StageSpec) -> None:
        self.run, self.spec, self.folder = run, spec, Path(spec.folder)
        self.handle: Handle | None = None
        self.backend: Backend | None = None

    def page(self, progress: Progress | None) -> str:
        """Everything known now, in Markdown."""
        rows = [*self._job_rows(), *_progress_rows(progress)]
        beat = read_beat(self.folder)
        if beat is not None:
            age = duration_text(max(0.0, time.time() - beat.time))
            rows.append(("last heartbeat", f"{age} ago, in {beat.phase}"))
        first, *others = [f"| {what} | {value} |" for what, value in rows]
        lines = [f"## {self.spec.name}", "", first, "|:--|:--|", *others, ""]
        if self.handle is not None:
            log = Path(self.handle.logs) / f"{self.handle.job_id}_0_log.err"
            lines.append(results.item("log", str(log)))
        parent = str(self.run.tracking.get("parent", ""))
        lines += [results.item(what, where) for what, where in results.viewers(self.run, parent)]
        return "\n".join(lines)

    def _job_rows(self) -> list[tuple[str, str]]:
        handle = read_handle(self.folder)
        if handle is None:
            return [("job", "being started")]
        if self.backend is None or handle != self.handle:
            self.backend = backend_for(self.run.recipe.launch, handle)
        self.handle = handle
        state = self.backend.state(handle)
        waited = f" for {duration_text(time.time() - state.since)}" if state.since else ""
        return [("job", f"{handle.launcher} {handle.job_id}"), ("state", f"{state.text}{waited}")]


def _progress_rows(progress: Progress | None) -> list[tuple[str, str]]:
    if progress is None:
        return []
    share = 100.0 * progress.step / max(progress.total, 1)
    rows = [(progress.unit, f"{progress.step:,} of {progress.total:,} ({share:.0f} %)")]
    if progress.loss is not None:
        rows.append(("loss", f"{progress.loss:.4g}"))
    if progress.rate:
        rows.append(("speed", f"{progress.rate:.3g} {progress.unit}/s"))
    if progress.eta is not None:
        rows.append(("time left", duration_text(progress.eta)))
    if "memory_bytes" in progress.metrics:
        rows.append(("memory", size_text(int(progress.metrics["memory_bytes"]))))
    if "data_wait" in progress.metrics:
        rows.append(("waits for data", f"{progress.metrics['data_wait']:.0%} of the time"))
    for name, what in (("skipped", "steps left out"), ("broken_samples", "broken samples")):
        if progress.metrics.get(name):
            rows.append((what, f"{progress.metrics[name]:.0f}"))
    return rows

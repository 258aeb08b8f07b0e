"""A job may be requeued as often as it takes, for as long as it gets anywhere."""

from __future__ import annotations

from pathlib import Path

from pipeline.progress import read_progress
from pipeline.storage import read_json, write_json

IDLE_LIVES = 10
"""Lives in a row without a step of progress after which a job is not requeued: a preemption may
come before the first step several times, but not for ever."""


def enough(folder: str | Path, logs: str | Path, job_id: str, reason: str) -> str:
    """Count a life of the job, which wants another; why it should not have one, empty where it
    should. folder: the stage's, with its progress. logs: the attempt's."""
    note = Path(logs) / f"lives-{job_id}.json"
    progress = read_progress(folder)
    step = progress.step if progress is not None else 0
    before = read_json(note) or {}
    idle = 0 if step > before.get("step", -1) else int(before.get("idle", 0)) + 1
    lives = int(before.get("lives", 0)) + 1
    write_json(note, {"lives": lives, "step": step, "idle": idle})
    if idle < IDLE_LIVES:
        return ""
    return (
        f"was requeued {idle} times in a row without getting beyond step {step} ({reason}); give "
        "it more time with launch.timeout_minutes, or a partition that is not preempted"
    )

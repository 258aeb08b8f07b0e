"""A stage that is told to stop in the middle, on as many ranks as the job has."""

import json
from pathlib import Path
from typing import Any


def run(plan: str) -> None:
    """plan: a JSON file, {spec, batch}: at that batch the last rank is asked to stop; None: never."""
    from pipeline.stop import request_stop
    from stages.clip_task import ClipTask
    from stages.job import run_stage

    given = json.loads(Path(plan).read_text())
    losses = ClipTask.losses

    def told(self: ClipTask, batch: Any, step: int, whole: float) -> Any:
        if step == given["batch"] and self.world.rank == self.world.size - 1:
            request_stop("a test asked for it")
        return losses(self, batch, step, whole)

    ClipTask.losses = told  # type: ignore[method-assign]
    try:
        run_stage(given["spec"])
    finally:
        ClipTask.losses = losses  # type: ignore[method-assign]

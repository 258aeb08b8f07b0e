"""A flow that dies at a given step of the protocol: `python -m tests.flows.crashing STEP SETTING…`.

It goes through the stages of a recipe as the real flow does, without Prefect, with stages that are
over as soon as they are told. The process kills itself; nothing in the program knows of it.
"""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from flows import stage as stages_of_flow
from flows.run import Request, Run
from pipeline import launch, queue, slurm, submission
from pipeline.progress import ProgressWriter
from pipeline.stop import check_stop
from pipeline.storage import sha256
from stages.contract import (
    TRAINING_KINDS,
    CheckpointRef,
    StageResult,
    read_result,
    read_spec,
    write_result,
)

STEPS = (
    "before the intent",
    "after the intent",
    "during the submission",
    "before the handle",
    "after the handle",
    "while it runs",
    "before the result is read",
)
SLOWLY = "slowly"
"""No death, but time between the look for a job and the submission of one."""
HOLD, LIVES = "hold", "lives"


def stand_in(spec_path: str) -> None:
    """What runs as the job: one line for every life, then wait until nothing holds it."""
    spec = read_spec(spec_path)
    folder = Path(spec.folder)
    if read_result(folder, spec.key) is not None:
        return
    with open(folder.parent / LIVES, "a") as file:
        file.write(f"{spec.name} {os.getpid()}\n")
    progress = ProgressWriter(folder, total=100)
    while (folder.parent / HOLD).exists():
        progress.update(1)
        check_stop()
        time.sleep(0.05)
    file = folder / "made.txt"
    file.write_text(spec.key)
    trained = spec.kind in TRAINING_KINDS
    result = StageResult(
        stage=spec.name,
        key=spec.key,
        digest=sha256(file),
        checkpoint=CheckpointRef(str(file), sha256(file), spec.name, 1, "") if trained else None,
        files={"made": str(file)},
    )
    write_result(folder, result)


def die(*_: Any, **__: Any) -> Any:
    """kill -9, by our own hand."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def before(module: Any, name: str) -> None:
    """Die instead of calling it."""
    setattr(module, name, die)


def after(module: Any, name: str) -> None:
    """Die once it has returned."""
    real = getattr(module, name)
    setattr(module, name, lambda *words, **named: (real(*words, **named), die()))


def arm(step: str) -> None:
    """Lay the trap."""
    from submitit.core.utils import JobPaths

    if step == "before the intent":
        before(submission, "write_intent")
    elif step == "after the intent":
        after(submission, "write_intent")
    elif step == "during the submission":
        before(JobPaths, "move_temporary_file")  # the process runs, its pickle has no name yet
    elif step == "before the handle":
        before(submission, "write_handle")
    elif step == "after the handle":
        after(submission, "write_handle")
    elif step == SLOWLY:
        real = launch.submit
        launch.submit = lambda *words: (time.sleep(2.0), real(*words))[1]
    elif step == "while it runs":
        after(launch, "read_progress")
    elif step == "before the result is read":
        before(stages_of_flow, "read_result")
    elif step:
        raise SystemExit(f"no step {step!r}")


def go(request: Request) -> Run:
    """The flow, less Prefect."""
    run = Run.of(request)
    run.require_earlier()
    for stage in run.wanted:
        run.results[stage.name] = stages_of_flow.perform(run, stage, ())
    return run


def main() -> None:
    """Go through the stages, and die on the way if so asked."""
    step, *settings = sys.argv[1:]
    stages_of_flow.run_stage = stand_in
    queue.SLURM_SECONDS, slurm.SlurmBackend.least_pause = 0.2, 0.1
    submission.LOOK_UP_SECONDS, submission.LOOK_PAUSE = 5.0, 0.2
    os.environ["FAKE_LAUNCHER"] = str(os.getpid())
    named = dict(word.split("=", 1) for word in settings if word.startswith("stop_after="))
    rest = tuple(word for word in settings if word.split("=")[0] not in named)
    arm(step)
    run = go(Request(overrides=rest, **named))
    print("done:", *run.results)


if __name__ == "__main__":
    main()

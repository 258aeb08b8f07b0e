"""Faults that a rank meets, as the test has planned them: patches, made in its process only.

The plan lies in the JSON file that FAULT_PLAN names: a list of faults, each `{"fault": …, "rank": r,
"phase": …, "step": s, "mark": file}`. A fault strikes rank r when it comes to `phase` of step s, and
with a `mark` only once, over all lives of the job.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

STEP_PHASES = ("data", "forward", "backward", "reduce", "optimiser")
PHASES = (*STEP_PHASES, "agreement", "read", "save", "rename", "upload", "validation")
SIGNALS = {
    name: signal.Signals[name] for name in ("SIGTERM", "SIGUSR2", "SIGKILL", "SIGSTOP")
}  # fmt: skip
FULL_BYTES = 20_000
"""On a full disk a file can have this size, and no more: enough for heartbeats and logs, not for a
checkpoint."""


def install() -> None:
    """Make this process meet what is planned for its rank."""
    from pipeline.environment import env_rank

    path = os.environ.get("FAULT_PLAN")
    if not path:
        return
    for fault in json.loads(Path(path).read_text()):
        if fault["rank"] in (env_rank(), "all"):
            _arm(_Fault(fault))


class _Fault:
    """One line of the plan."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.kind, self.phase, self.step = values["fault"], values["phase"], values["step"]
        self.mark = Path(values["mark"]) if values.get("mark") else None

    def due(self, phase: str, step: int) -> bool:
        """Whether it strikes here; it is marked before, because after it there may be nobody."""
        if phase != self.phase or (self.step is not None and step != self.step):
            return False
        if self.mark is not None:
            try:
                self.mark.touch(exist_ok=False)
            except FileExistsError:
                return False
        return True

    def strike(self) -> None:
        """What happens to the process."""
        if self.kind in SIGNALS:
            os.kill(os.getpid(), SIGNALS[self.kind])
        elif self.kind == "hang":
            time.sleep(600)
        elif self.kind == "frozen":
            ctypes.PyDLL(None).sleep(600)  # with Python's lock held: no thread of Python runs
        elif self.kind == "error":
            raise RuntimeError(f"planned for {self.phase}")
        elif self.kind == "disk full":
            if self.phase in ("rename", "upload"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            resource.setrlimit(resource.RLIMIT_FSIZE, (FULL_BYTES, resource.RLIM_INFINITY))
        elif self.kind == "S3":
            raise ConnectionError("503 Slow Down")
        elif self.kind == "MLflow":
            _without_mlflow()
        else:
            raise AssertionError(f"nobody knows the fault {self.kind}")


def _arm(fault: _Fault) -> None:
    if fault.kind == "NaN":
        _spoil(fault)
    elif fault.phase == "rename":
        _before_rename(fault)
    elif fault.phase == "upload":
        _before_upload(fault)
    else:
        _before_phase(fault)


def _before_phase(fault: _Fault) -> None:
    from pipeline.heartbeat import Pulse

    inner = Pulse.phase

    def phase(self: Pulse, name: str, step: int | None = None, detail: str = "") -> None:
        inner(self, name, step, detail)
        if fault.due(name, self._beat.step):
            fault.strike()

    Pulse.phase = phase  # type: ignore[method-assign]


def _before_rename(fault: _Fault) -> None:
    """Between the checkpoint's last byte and its name."""
    from pipeline.heartbeat import pulse

    inner = os.replace

    def replace(source: Any, target: Any, **options: Any) -> None:
        is_checkpoint = Path(target).name.startswith("step-")
        if is_checkpoint and fault.due("rename", pulse._beat.step):
            fault.strike()
        inner(source, target, **options)

    os.replace = replace  # type: ignore[assignment]


def _before_upload(fault: _Fault) -> None:
    from pipeline import storage

    _wrap(storage, "put", lambda: fault.due("upload", 0) and fault.strike())


def _wrap(place: Any, name: str, before: Callable[[], Any]) -> None:
    inner = getattr(place, name)

    def wrapped(*given: Any, **named: Any) -> Any:
        before()
        return inner(*given, **named)

    setattr(place, name, wrapped)


def _spoil(fault: _Fault) -> None:
    """A number of this rank is not one: the loss (forward), a gradient (backward, reduce), a weight
    after the update (optimiser), a weight while its checkpoint is made (save) or at the end
    (upload)."""
    from pipeline.heartbeat import Pulse
    from tests.faults import work

    if fault.phase == "forward":
        inner = work.Task.losses

        def losses(self: Any, batch: Any, step: int, whole: float) -> Any:
            found = inner(self, batch, step, whole)
            return found.spoilt() if fault.due("forward", step) else found

        work.Task.losses = losses  # type: ignore[method-assign]
        return
    before = Pulse.phase

    def phase(self: Pulse, name: str, step: int | None = None, detail: str = "") -> None:
        before(self, name, step, detail)
        at = {"backward": "reduce", "optimiser": "agreement"}.get(fault.phase, fault.phase)
        if name == at and fault.due(fault.phase, self._beat.step - (at == "agreement")):
            weight = work.state_of_this_process().model.head.weight
            target = weight.grad if fault.phase == "backward" else weight.data
            target.view(-1)[0] = float("nan")

    Pulse.phase = phase  # type: ignore[method-assign]


def _without_mlflow() -> None:
    from mlflow.tracking import MlflowClient

    def refuse(self: Any, *_: Any, **__: Any) -> None:
        raise ConnectionError("connection refused")

    for name in dir(MlflowClient):
        if not name.startswith("_") and callable(getattr(MlflowClient, name)):
            setattr(MlflowClient, name, refuse)

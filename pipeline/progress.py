"""How far a stage is: a small file in its folder that anyone may read, and a bar for a person at a
terminal."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.heartbeat import pulse
from pipeline.storage import read_json, write_json

PROGRESS_FILE = "progress.json"


@dataclass(frozen=True)
class Progress:
    """A stage at one moment."""

    step: int
    total: int
    unit: str = "step"
    """What is counted: step, video, picture."""
    rate: float = 0.0
    """Units a second; 0 where it is not known yet."""
    eta: float | None = None
    """Seconds to the end, where a rate is known."""
    loss: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    time: float = 0.0
    """When this was written, seconds since 1970."""
    pid: int = 0

    @property
    def text(self) -> str:
        """One line for a log: `step 120/900, loss 0.413, 4.9 step/s, 2:39 left`."""
        parts = [f"{self.unit} {self.step}/{self.total}"]
        if self.loss is not None:
            parts.append(f"loss {self.loss:.3f}")
        if self.rate:
            parts.append(f"{self.rate:.3g} {self.unit}/s")
        if self.eta is not None:
            parts.append(f"{duration_text(self.eta)} left")
        return ", ".join(parts)


def read_progress(folder: str | Path) -> Progress | None:
    """The last word of the stage in `folder`, or None before its first."""
    values = read_json(Path(folder) / PROGRESS_FILE)
    try:
        return Progress(**values) if values else None
    except TypeError:  # written by another version
        return None


class ProgressWriter:
    """Keeps the progress file of a stage current, at most once a second, and a bar where there is a
    terminal."""

    def __init__(self, folder: str | Path, total: int, unit: str = "step", start: int = 0) -> None:
        self.path, self.total, self.unit = Path(folder) / PROGRESS_FILE, total, unit
        self.began, self.start, self.step, self.written = time.monotonic(), start, start, 0.0
        self.update(start)

    def update(
        self, step: int, loss: float | None = None, metrics: Mapping[str, float] | None = None
    ) -> None:
        """Say that `step` units are done."""
        self.step = step
        if self.unit != "step":  # the training loop says more of itself
            pulse.phase(f"{self.unit}s", step)
        now = time.monotonic()
        if now - self.written < 1.0 and 0 < step < self.total:
            return
        self.written = now
        rate = (step - self.start) / max(now - self.began, 1e-9)
        eta = (self.total - step) / rate if rate > 0 else None
        progress = Progress(
            step=step,
            total=self.total,
            unit=self.unit,
            rate=rate,
            eta=eta,
            loss=loss,
            metrics=dict(metrics or {}),
            time=time.time(),
            pid=os.getpid(),
        )
        write_json(self.path, asdict(progress))


class ProgressBar:
    """A bar on stderr for whoever watches a stage; silent where stderr is not a terminal."""

    def __init__(self, name: str) -> None:
        self.name, self.visible = name, sys.stderr.isatty()
        self.bar: Any = None

    def show(self, progress: Progress | None) -> None:
        """Move the bar to `progress`."""
        if progress is None or not self.visible:
            return
        if self.bar is None:
            self.bar = _make_bar(self.name, progress)
        self.bar.n, self.bar.total = progress.step, progress.total
        self.bar.set_postfix_str(f"loss {progress.loss:.3f}" if progress.loss is not None else "")

    def close(self) -> None:
        """Leave the bar as it is and go to the next line."""
        if self.bar is not None:
            self.bar.close()


def _make_bar(name: str, progress: Progress) -> Any:
    from tqdm import tqdm

    return tqdm(total=progress.total, desc=name, unit=f" {progress.unit}", leave=False)


def duration_text(seconds: float) -> str:
    """`2:39` or `1:02:39`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"

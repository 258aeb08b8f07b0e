"""What a rank is at: step, phase, sample and collective, for whoever looks from outside.

The work says `phase("forward", step)` as it goes along, which costs some microseconds. The watcher
of the job (`pipeline.watcher`) writes it to `heartbeat` (rank 0) and `heartbeat-N` in the stage's
folder every few seconds and compares it with what phases took before: `Pulse.limit` says when one
is overdue. A collective is numbered, so that of several ranks that wait the one that is missing can
be named.
"""

from __future__ import annotations

import json
import math
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType

from pipeline.storage import atomic_file, read_json

HEARTBEAT_FILE = "heartbeat"
SLOWER = 10.0
"""A phase may take so many times the longest one before."""
WARM = 2
"""The first so many times of a phase do not count: they compile, connect and fill buffers."""
FIRST_DATA = 0.2
"""What the first waits for data count: workers that start, but also the longest that a batch takes
where all of them are made at the same time, and then come in bursts."""
SETTLED = WARM + 3
"""So many times a phase has to have ended before it is known how long it takes."""
BEAT_SECONDS = 20.0
"""A job that nobody vouches for is dead when its heartbeat rests for so long, and"""
REST_SECONDS = 3600.0
"""without a look when it is so old: no two clocks differ by that."""
STEP_PHASES = ("data", "forward", "backward", "reduce", "optimiser", "agreement", "read")
"""Those that come in every step and take about the same time in each."""
TRACER = f"{os.sep}_dynamo{os.sep}convert_frame.py"
COMPILERS = (f"{os.sep}_inductor{os.sep}", f"{os.sep}triton{os.sep}")
COMPILE = ("compile", "autotune")
"""In the names of functions of the compilers; others of theirs run what was compiled."""


@dataclass(frozen=True)
class Beat:
    """A rank at one moment."""

    rank: int = 0
    step: int = 0
    """Steps done."""
    phase: str = "start"
    """One of a step's (`data`, `forward` …), `save`, `validation`, or what a stage calls it."""
    seconds: float = 0.0
    """In this phase so far."""
    detail: str = ""
    """Which sample, video or picture."""
    collective: str = ""
    """What this rank waits for the others in; empty outside."""
    number: int = 0
    """Collectives begun; the same on all ranks that do the same."""
    needs: float = 0.0
    """Seconds to stop cleanly from here, measured; 0 where nothing was."""
    limit: float = 0.0
    """Seconds this phase may take; 0 any."""
    time: float = 0.0
    """When this was written, seconds since 1970."""
    pid: int = 0
    host: str = ""

    @property
    def overdue(self) -> bool:
        """Whether the phase takes longer than it may."""
        return self.limit > 0 and self.seconds > self.limit

    @property
    def text(self) -> str:
        """`step 12, forward for 47 s (davis/cows)`."""
        inside = f", {self.collective} (collective {self.number})" if self.collective else ""
        detail = f" ({self.detail})" if self.detail else ""
        return f"step {self.step}, {self.phase}{inside} for {self.seconds:.0f} s{detail}"


class Pulse:
    """What this process is at, and how long its phases take."""

    def __init__(self) -> None:
        self.hang_seconds = self.start_seconds = self.save_seconds = math.inf
        self.needs = 0.0
        self._beat, self._since = Beat(), time.monotonic()
        self._longest: dict[str, float] = {}
        self._ended: dict[str, int] = {}
        self._details: dict[str, Callable[[], str]] = {}

    @contextmanager
    def watched(
        self, hang_seconds: float, start_seconds: float, save_seconds: float
    ) -> Iterator[None]:
        """Inside the block a phase that takes longer than this hangs; otherwise it may take any
        time. save_seconds: how long slow storage is waited for, besides, while saving."""
        self.hang_seconds, self.start_seconds = hang_seconds, start_seconds
        self.save_seconds = save_seconds
        try:
            yield
        finally:
            self.hang_seconds = self.start_seconds = self.save_seconds = math.inf
            self.phase("other work")

    def phase(self, name: str, step: int | None = None, detail: str = "") -> None:
        """A phase begins, and with it ends the one before."""
        now, before = time.monotonic(), self._beat
        count = self._ended[before.phase] = self._ended.get(before.phase, 0) + 1
        share = 1.0 if count > WARM else FIRST_DATA if before.phase == "data" else 0.0
        took = share * (now - self._since)
        self._longest[before.phase] = max(took, self._longest.get(before.phase, 0.0))
        step = before.step if step is None else step
        self._since = now
        self._beat = replace(before, step=step, phase=name, detail=detail, collective="")

    @contextmanager
    def collective(self, name: str) -> Iterator[None]:
        """Around what all ranks have to come to. Only those of the main thread are numbered: they
        come in the same order everywhere."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._beat = replace(self._beat, collective=name, number=self._beat.number + 1)
        yield  # after an error the rank still counts as one that came
        self._beat = replace(self._beat, collective="")

    def explain(self, phase: str, detail: Callable[[], str]) -> None:
        """Ask `detail` what exactly the process is at while it is in `phase`."""
        self._details[phase] = detail

    def forgive(self, seconds: float) -> None:
        """The process did not run for so long (suspended); that is nobody's fault."""
        self._since += seconds

    def now(self, rank: int) -> Beat:
        """The moment, for a file."""
        beat, seconds, limit = self._beat, time.monotonic() - self._since, self.limit()
        detail = beat.detail
        if not detail and beat.phase in self._details:
            detail = self._details[beat.phase]()
        return replace(
            beat, rank=rank, seconds=round(seconds, 1), detail=detail, needs=round(self.needs, 1),
            limit=round(limit, 1) if limit < math.inf else 0.0, time=time.time(), pid=os.getpid(),
            host=socket.gethostname(),
        )  # fmt: skip

    def waits_for_others(self, seconds: float) -> bool:
        """Whether the process is in a collective, and in its phase for longer than that."""
        return bool(self._beat.collective) and time.monotonic() - self._since > seconds

    def limit(self) -> float:
        """Seconds the present phase may take: `hang_seconds`, more where it took long before, and
        `start_seconds` the first times and while torch compiles."""
        phase = self._beat.phase
        settled = phase in STEP_PHASES and self._ended.get(phase, 0) >= SETTLED
        least = self.hang_seconds if settled and not _compiling() else self.start_seconds
        if phase == "save":
            least += self.save_seconds
        return max(least, SLOWER * self._longest.get(phase, 0.0))


pulse = Pulse()
"""That of this process."""


def reset_pulse() -> None:
    """Begin anew, in a process that runs another job."""
    pulse.__init__()  # type: ignore[misc]


def beat_path(folder: str | Path, rank: int) -> Path:
    """Where rank `rank` writes; rank 0's is the stage's."""
    return Path(folder) / (f"{HEARTBEAT_FILE}-{rank}" if rank else HEARTBEAT_FILE)


def write_beat(folder: str | Path, beat: Beat) -> None:
    """Put `beat` where others find it; whole, but not synced: it is old in a few seconds. A disk
    that does not take it is no reason to end."""
    try:
        with atomic_file(beat_path(folder, beat.rank), "w", sync=False) as file:
            json.dump(asdict(beat), file)
    except OSError:
        return


def read_beat(folder: str | Path, rank: int = 0) -> Beat | None:
    """The last word of a rank, or None before its first."""
    values = read_json(beat_path(folder, rank))
    try:
        return Beat(**values) if values else None
    except TypeError:  # written by another version
        return None


def beats(folder: str | Path) -> bool:
    """Whether the heart of the job in `folder` beats: its file changes while we watch. When it was
    written says little, as clocks differ."""
    before, until = _written(folder), time.monotonic() + BEAT_SECONDS
    if time.time() - before / 1e9 > REST_SECONDS:
        return False
    while time.monotonic() < until:
        if _written(folder) != before:
            return True
        time.sleep(0.5)
    return False


def _written(folder: str | Path) -> int:
    """When rank 0's was written last, ns since 1970; 0 when it never was."""
    try:
        return beat_path(folder, 0).stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _compiling() -> bool:
    """Whether any thread is inside torch's compilers: the backward pass has one of its own."""
    for frame in sys._current_frames().values():
        inner: FrameType | None = frame
        while inner is not None:
            file, name = inner.f_code.co_filename, inner.f_code.co_name
            if file.endswith(TRACER) or (
                any(part in file for part in COMPILERS) and any(word in name for word in COMPILE)
            ):
                return True
            inner = inner.f_back
    return False

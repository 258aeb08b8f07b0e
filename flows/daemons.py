"""Background programs of one state folder: started detached, remembered by pid and start time,
stopped exactly.

Each program has `<state>/<name>.json` while it is meant to run and `<state>/logs/<name>.log`. A pid
alone is not trusted: the number may belong to somebody else by now, so the start time must agree as
well.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from pipeline.errors import ConfigError, StageError
from pipeline.storage import write_json

ANSWER_SECONDS = 10.0
START_TIME_TOLERANCE = 1.0
"""Seconds two readings of one process's start time may differ (clock ticks)."""


@dataclass(frozen=True)
class Daemon:
    """A program that was started here."""

    name: str
    pid: int
    started: float
    """Start time of the process in seconds since 1970, as the system reports it."""
    url: str
    """For people; empty when it listens nowhere."""
    health: str
    """Page that answers when it is well; empty when it has none."""
    log: str

    @property
    def healthy(self) -> bool:
        """Does it run and, if it has a page for that, say it is well?"""
        return self.process() is not None and (not self.health or answers(self.health))

    def process(self) -> psutil.Process | None:
        """The running process, or None when it has ended (or its number now means another one)."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < START_TIME_TOLERANCE
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


def remembered(state: Path, name: str) -> Daemon | None:
    """The program `name` as it was started last, running or not."""
    try:
        return Daemon(**json.loads((state / f"{name}.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def running(state: Path, name: str) -> Daemon | None:
    """The program `name` if it runs now."""
    daemon = remembered(state, name)
    return daemon if daemon is not None and daemon.process() is not None else None


def start(
    state: Path,
    name: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    url: str = "",
    health: str = "",
) -> Daemon:
    """Start `command` in its own session with its output in a log file, and remember it."""
    log = state / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    # A child inherits "ignore SIGINT" from a shell that put us in the background, and would then
    # never stop (Prefect's worker and submitit both rely on it); a Python handler is reset to the
    # default by exec.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with log.open("ab") as output:
            process = subprocess.Popen(
                list(command),
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except OSError as error:
        raise ConfigError(
            f"{name} cannot be started ({error}); is it installed? command: {' '.join(command)}"
        ) from error
    finally:
        signal.signal(signal.SIGINT, before)
    started = psutil.Process(process.pid).create_time()
    daemon = Daemon(name, process.pid, started, url, url + health if health else "", str(log))
    write_json(state / f"{name}.json", asdict(daemon))
    return daemon


def wait_for(daemon: Daemon, seconds: float, ready: Callable[[], bool] | None = None) -> None:
    """Wait until a started program is well (or `ready`).

    Raises StageError with the end of its log when it dies or takes too long.
    """
    deadline = time.monotonic() + seconds
    while not (ready() if ready else daemon.healthy):
        ended = daemon.process() is None
        if ended or time.monotonic() > deadline:
            what = "ended while starting" if ended else f"gave no sign of life in {seconds:.0f} s"
            raise StageError(
                f"{daemon.name} {what}; the end of {daemon.log}:\n{log_tail(daemon.log)}"
            )
        time.sleep(0.2)


def stop(state: Path, name: str, *, children_first: bool = False, patience: float = 20.0) -> bool:
    """End the program `name` and everything it started; says whether it was running.

    With `children_first` its children are asked before it: a Prefect worker that is told to stop
    drops its flows without a word, while a flow that is told to stop ends its jobs and reports.
    """
    daemon = running(state, name)
    process = daemon.process() if daemon is not None else None
    if process is not None:
        family = _family(process)
        if children_first:
            _ask(_family(process, recursive=False))
            psutil.wait_procs(family, timeout=patience)
        _ask([process])
        _, alive = psutil.wait_procs(
            [process, *family], timeout=patience if not children_first else 5
        )
        for survivor in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                survivor.kill()
        psutil.wait_procs(alive, timeout=5)
    with contextlib.suppress(FileNotFoundError):
        (state / f"{name}.json").unlink()
    return process is not None


def answers(url: str) -> bool:
    """Does `url` answer with success? A busy machine is given time; where nobody listens, the answer comes at once."""
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_SECONDS) as response:
            return bool(response.status < 400)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def log_tail(path: str, lines: int = 12) -> str:
    """The last lines of a log file, or a word about why there are none."""
    try:
        return "\n".join(Path(path).read_text(errors="replace").strip().splitlines()[-lines:])
    except OSError as error:
        return f"({error})"


def _family(process: psutil.Process, *, recursive: bool = True) -> list[psutil.Process]:
    try:
        return process.children(recursive=recursive)
    except psutil.NoSuchProcess:
        return []


def _ask(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()

"""A thread beside the work of every rank: it notices that the job should end, and sees to it that
it does.

It sets the stop flag when there is a stop file, when the job's controller or the process that
launched it has died. It writes the heartbeat. And it ends the rank, with the stacks of all its
threads in `stacks-N.txt`, when the work hangs (`pipeline.hang`), when another rank has failed and
this one does not notice, or when a stop takes too long.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
import threading
import time
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import TextIO

from pipeline.errors import StageError, StorageError
from pipeline.failure import note_failure, noted_failures
from pipeline.hang import Peers, find_hang
from pipeline.heartbeat import beat_path, pulse, write_beat
from pipeline.owner import Owner, process_identity
from pipeline.stop import request_stop, stop_reason
from pipeline.storage import read_json, write_json

STOP_FILE, LEASE_FILE = "stop", "lease.json"
LOOK_SECONDS, LEASE_SECONDS, HEARTBEAT_SECONDS, GRACE_SECONDS = 0.3, 2.0, 5.0, 30.0
ABSENT_SECONDS = 900.0
"""How long a launcher on another machine may keep silent before it counts as gone."""
PEER_SECONDS = 10.0
"""How long a rank may go on after another one has failed, to fail by itself and say of what."""
STACKS_SECONDS = 5.0
"""How long the ranks of a job that hangs wait until all have left their stacks."""
logger = logging.getLogger(__name__)


class Watcher(threading.Thread):
    """Looks several times a second whether this task should end."""

    def __init__(
        self, folder: Path, logs: Path, rank: int, size: int, *, local: bool, leased: bool
    ) -> None:
        """folder: the stage's. logs: the attempt's. local: the job is a session of processes on
        this machine. leased: end with the process that launched it."""
        super().__init__(name="watcher", daemon=True)
        self.folder, self.logs, self.rank, self.size = folder, logs, rank, size
        self.local, self.leased = local, leased
        self.parent, self.ended = os.getppid(), threading.Event()
        self.next_lease = self.next_beat = 0.0
        self.renewed, self.renewed_at = 0, time.monotonic()
        self.end_at = self.peer_end_at = float("inf")
        beat_path(folder, rank).unlink(missing_ok=True)
        self.peers, self.earlier_failures = Peers(folder, rank, size), noted_failures(logs)

    def close(self) -> None:
        """The work is done; stop looking, and finish the heartbeat that is being written: a process
        that ends meanwhile leaves half of it."""
        self.ended.set()
        self.join(HEARTBEAT_SECONDS)
        faulthandler.cancel_dump_traceback_later()

    def run(self) -> None:
        """Look until the work is done. Nothing keeps it from looking: not a disk that is full or
        away, nor a mistake in what tells of the work."""
        with suppress(StorageError):
            write_json(self.folder / f"task-{self.rank}.json", process_identity(os.getpid()))
        write_beat(self.folder, pulse.now(self.rank))
        with self._open_stacks() as stacks:
            looked = time.monotonic()
            while not self.ended.wait(LOOK_SECONDS):
                now = time.monotonic()
                if now - looked > HEARTBEAT_SECONDS:  # suspended, or the machine is swapping
                    pulse.forgive(now - looked)
                looked = now
                try:
                    self._look(now, stacks)
                except Exception as error:
                    logger.warning(
                        "the watcher could not look: %s: %s", type(error).__name__, error
                    )
        with suppress(OSError):
            if not self.stacks.stat().st_size:
                self.stacks.unlink()

    def _look(self, now: float, stacks: TextIO) -> None:
        self._look_for_stop(now)
        if now >= self.next_beat:
            self.next_beat = now + HEARTBEAT_SECONDS
            write_beat(self.folder, pulse.now(self.rank))
            self._guard(stacks)
            self._look_at_failures(now)
            if pulse.waits_for_others(HEARTBEAT_SECONDS):
                self.peers.look()  # when it comes to blame, it is known who is silent since when
        self._look_for_hang()
        if now > self.peer_end_at:
            self._end()

    def _guard(self, stacks: TextIO) -> None:
        """For the case that something keeps Python from running, this thread included."""
        seconds = pulse.limit() + 2 * HEARTBEAT_SECONDS
        if seconds < float("inf"):
            faulthandler.dump_traceback_later(seconds, exit=True, file=stacks)
        else:
            faulthandler.cancel_dump_traceback_later()

    def _open_stacks(self) -> AbstractContextManager[TextIO]:
        try:
            return open(self.stacks, "w", encoding="utf-8")
        except OSError:
            return nullcontext(sys.stderr)

    @property
    def stacks(self) -> Path:
        """Where the stacks of this rank go."""
        return self.logs / f"stacks-{self.rank}.txt"

    def _look_for_stop(self, now: float) -> None:
        reason = "asked to stop" if (self.folder / STOP_FILE).exists() else ""
        if self.local and os.getppid() != self.parent:
            reason = "the job's controller is gone"
        if self.leased and now >= self.next_lease:
            self.next_lease = now + LEASE_SECONDS
            reason = reason or self._lease_trouble()
        if reason:
            request_stop(reason)
        if stop_reason():
            self.end_at = min(self.end_at, now + max(GRACE_SECONDS, pulse.needs))
        if now > self.end_at and self.local:
            self._end()

    def _look_at_failures(self, now: float) -> None:
        """Give this rank some seconds when another one has failed in this life of the job."""
        if self.size == 1:
            return
        for rank, failure in noted_failures(self.logs).items():
            earlier = failure == self.earlier_failures.get(rank)
            if rank != self.rank and not failure.stopped and not earlier:
                self.peer_end_at = min(self.peer_end_at, now + PEER_SECONDS)

    def _look_for_hang(self) -> None:
        own = pulse.now(self.rank)
        if not own.overdue:
            return
        hang = find_hang(own, self.peers.look(), self.size)
        if hang is None:
            return
        write_beat(self.folder, own)
        error = StageError(f"{hang.message}; stacks of all ranks: {self.logs}/stacks-*.txt")
        with suppress(StorageError):
            note_failure(self.logs, hang.rank, error, noted_by=self.rank)
        self._end()

    def _end(self) -> None:
        """Leave the stacks, let the other ranks leave theirs, and end everything."""
        faulthandler.cancel_dump_traceback_later()
        with suppress(OSError), self._open_stacks() as file:
            file.write(f"rank {self.rank}: {pulse.now(self.rank).text}\n\n")
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)
        until = time.monotonic() + STACKS_SECONDS
        while time.monotonic() < until and not self._all_left_stacks():
            time.sleep(0.1)
        if self.local:
            os.killpg(os.getpgrp(), signal.SIGKILL)
        os._exit(1)

    def _all_left_stacks(self) -> bool:
        with suppress(OSError):
            sizes = [path.stat().st_size for path in self.logs.glob("stacks-*.txt")]
            return sum(size > 0 for size in sizes) >= self.size
        return False

    def _lease_trouble(self) -> str:
        """Why nobody seems to wait for this job. A launcher on this machine is seen; one on another
        renews the lease, and its clock may differ, so that only changes count."""
        launcher = Owner.from_record(read_json(self.folder / LEASE_FILE))
        if launcher is None or launcher.state == "alive":
            return ""
        if launcher.state == "gone":
            return "the process that launched it is gone"
        renewed, now = (self.folder / LEASE_FILE).stat().st_mtime_ns, time.monotonic()
        if renewed != self.renewed:
            self.renewed, self.renewed_at = renewed, now
        if now - self.renewed_at < ABSENT_SECONDS:
            return ""
        return (
            f"no sign of life from {launcher}, which launched it, for {ABSENT_SECONDS / 60:.0f} min"
        )

"""Which process: told apart from a later one of the same number, from one before a reboot, and from
one on another machine."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import psutil

BOOT_FILE = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Owner:
    """A process that something belongs to, as it is written into a file."""

    pid: int
    start: float
    """When the process began, seconds since 1970."""
    host: str
    boot: str
    """The boot of that machine in which it runs."""

    @classmethod
    def me(cls) -> Owner:
        """This process."""
        return cls.of(os.getpid())

    @classmethod
    def of(cls, pid: int) -> Owner:
        """A process of this machine. Raises psutil.NoSuchProcess when it has ended."""
        start = process_identity(pid)["start"]
        return cls(pid, start, socket.gethostname(), boot_id())

    @classmethod
    def from_record(cls, values: Mapping[str, Any] | None) -> Owner | None:
        """The owner named in a file's values, or None when they name none."""
        try:
            return (
                cls(
                    int(values["pid"]),
                    float(values["start"]),
                    str(values["host"]),
                    str(values["boot"]),
                )
                if values
                else None
            )
        except (KeyError, TypeError, ValueError):
            return None

    @property
    def state(self) -> Literal["alive", "gone", "elsewhere"]:
        """Whether it still runs; of a process on another machine only its files can tell."""
        if self.host != socket.gethostname():
            return "elsewhere"
        same_boot = self.boot == boot_id()
        return "alive" if same_boot and is_alive(asdict(self)) else "gone"

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@cache
def boot_id() -> str:
    """What this machine calls the time since it was switched on."""
    try:
        return BOOT_FILE.read_text(encoding="ascii").strip()
    except OSError:  # not Linux
        return f"{psutil.boot_time():.0f}"


def process_identity(pid: int) -> dict[str, float]:
    """What tells a process of this machine from a later one of the same number: {pid, start}."""
    return {"pid": pid, "start": psutil.Process(pid).create_time()}


def is_alive(identity: Mapping[str, Any]) -> bool:
    """Whether that very process still runs; a zombie does not."""
    try:
        process = psutil.Process(int(identity["pid"]))
        same = abs(process.create_time() - float(identity["start"])) < 1.0
        return same and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, KeyError, ValueError):
        return False

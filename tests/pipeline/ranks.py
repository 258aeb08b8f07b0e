"""Ranks of a job without a launcher: plain processes that find each other."""

import os
import socket
import subprocess
import sys
from pathlib import Path

HOUSE = Path(__file__).resolve().parents[2]
SECONDS = 120


def start(count: int, call: str, *arguments: object) -> list[subprocess.Popen[str]]:
    """`call`, as `module:function`, in `count` gloo ranks; the arguments arrive as texts."""
    module, _, function = call.partition(":")
    code = f"import sys; from {module} import {function}; {function}(*sys.argv[1:])"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            cwd=HOUSE,
            env={**os.environ, **common, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in range(count)
    ]


def run(count: int, call: str, *arguments: object) -> list[str]:
    """What each of the ranks said on stderr; they all have to end well."""
    processes = start(count, call, *arguments)
    try:
        said = [process.communicate(timeout=SECONDS)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for rank, process in enumerate(processes):
        assert process.returncode == 0, f"rank {rank}: {said[rank]}"
    return said

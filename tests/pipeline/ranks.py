"""Ranks of a job without a launcher: forked processes that find each other."""

import os
import time
from pathlib import Path

from pipeline.environment import free_port
from tests.zygote import Zygote

SECONDS = 120


def run(zygote: Zygote, folder: Path, count: int, call: str, *arguments: object) -> list[str]:
    """`call`, as `module:function`, in `count` gloo ranks, which all have to end well; the arguments
    arrive as texts. What each of the ranks said; it is written to `folder`."""
    port = free_port()
    common = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    outputs = [folder / f"{port}-{rank}.log" for rank in range(count)]
    given = [str(argument) for argument in arguments]
    processes = [
        zygote.call(
            call, given, {**os.environ, **common, "RANK": str(rank)}, output,
            output.with_suffix(".done"),
        )
        for rank, output in enumerate(outputs)
    ]  # fmt: skip
    until = time.monotonic() + SECONDS
    while any(process.poll() is None for process in processes) and time.monotonic() < until:
        time.sleep(0.02)
    for process in processes:
        process.kill()
    said = [output.read_text() for output in outputs]
    for output, text in zip(outputs, said, strict=True):
        assert output.with_suffix(".done").exists(), text
    return said

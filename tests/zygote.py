"""Real jobs that start in tens of milliseconds: their processes are forked from one that has
imported everything, in place of new interpreters.

All else is as in production: the launcher, submitit's controller in a session of its own, its
pickles and signals, one process a rank. `Popen` stands in for `subprocess.Popen` in
`pipeline.local`, and in the controller for that of submitit. Ranks without a launcher can be forked
as well.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import psutil
import pytest

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGCHLD, signal.SIGCONT)


class Zygote:
    """The process to fork from, as seen by the test."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "zygote.sock"
        root = Path(__file__).resolve().parents[1]
        environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
        with open(folder / "zygote.log", "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.zygote", str(self.path)],
                cwd=root,
                env=environment,
                stdout=log,
                stderr=log,
            )
        until = time.monotonic() + 120
        while not self.path.exists():
            assert self.process.poll() is None, (folder / "zygote.log").read_text()
            assert time.monotonic() < until, "the zygote does not come up"
            time.sleep(0.05)

    def popen(self, command: list[str], *, env: dict[str, str], stdout: Any, **_: Any) -> Forked:
        """Start submitit's controller, as `subprocess.Popen` would."""
        return self._order(logs=command[-1], env=env, output=stdout.name)

    def call(
        self, function: str, arguments: list[str], env: dict[str, str], output: Path, done: Path
    ) -> Forked:
        """Call `function`, as `module:function`, in a process that leaves `done` when it ends well."""
        work = {"function": function, "arguments": arguments, "done": str(done)}
        return self._order(**work, env=env, output=str(output))

    def _order(self, **order: Any) -> Forked:
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(str(self.path))
            line.sendall(json.dumps(order).encode())
            line.shutdown(socket.SHUT_WR)
            return Forked(int(line.recv(100)))

    def close(self) -> None:
        """End it; its children have ended."""
        self.process.terminate()
        self.process.wait(10)


class Forked:
    """A process that somebody else started and waits for."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def poll(self) -> int | None:
        """None while it runs."""
        try:
            return 0 if psutil.Process(self.pid).status() == psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return 0

    def kill(self) -> None:
        """End it, if it runs."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


class Child:
    """A child of this process, with what submitit asks of a `Popen`."""

    def __init__(
        self, command: list[str], *, env: dict[str, str], stdout: Any, stderr: Any, **_: Any
    ) -> None:
        self.returncode: int | None = None
        self.pid = fork(lambda: run_rank(Path(command[-1])), env, stdout.fileno(), stderr.fileno())

    def poll(self) -> int | None:
        """The exit status once it has ended."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """As `Popen` does: not to one that has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


def fork(work: Callable[[], None], env: dict[str, str], stdout: int, stderr: int) -> int:
    """The id of a child that does `work`, with this environment and these outputs, and ends."""
    pid = os.fork()
    if not pid:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.clear()
        os.environ.update(env)
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        finish(work)
    return pid


def finish(work: Callable[[], None]) -> NoReturn:
    """Do `work` and end as an interpreter does: non-daemon threads are waited for."""
    code = 1
    try:
        work()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def run_rank(logs: Path) -> None:
    """What `python -m pipeline.entry LOGS` does, with the faults that the test has planned."""
    from pipeline import entry
    from tests.faults import plan

    sys.argv = ["entry", str(logs)]
    plan.install()
    entry.main(logs)


def run_controller(logs: Path) -> None:
    """What `python -m submitit.local._local LOGS` does."""
    from submitit.local import local

    os.setsid()
    local.subprocess = SimpleNamespace(Popen=Child)
    local.Controller(logs).run()


def main(path: Path) -> None:
    """Fork controllers on demand."""
    for module in WARM:
        __import__(module)
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for controllers
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(path.with_suffix(".new")))
        door.listen()
        os.rename(path.with_suffix(".new"), path)
        while True:
            line, _ = door.accept()
            with line:
                order = json.loads(b"".join(received(line)))
                with open(order["output"], "ab") as log:
                    pid = fork(partial(obey, order), order["env"], log.fileno(), log.fileno())
                line.sendall(str(pid).encode())


def obey(order: dict[str, Any]) -> None:
    """What the test has asked for, in the new process."""
    if "logs" in order:
        run_controller(Path(order["logs"]))
        return
    module, _, function = order["function"].partition(":")
    getattr(importlib.import_module(module), function)(*order["arguments"])
    Path(order["done"]).touch()


@contextlib.contextmanager
def forked_jobs(zygote: Zygote) -> Iterator[None]:
    """Local jobs are forked from it inside the block."""
    with pytest.MonkeyPatch.context() as patch:
        shim = SimpleNamespace(Popen=zygote.popen, DEVNULL=subprocess.DEVNULL)
        patch.setattr("pipeline.local.subprocess", shim)
        yield


def received(line: socket.socket) -> Iterator[bytes]:
    """All that comes until the other side has said everything."""
    while block := line.recv(1 << 16):
        yield block


WARM = (
    *("torch", "torch.distributed", "torch.utils.data", "torch._dynamo", "submitit", "psutil"),
    *("torch.distributed.fsdp", "torch.distributed.checkpoint", "pipeline.sharding"),
    *("pipeline.entry", "pipeline.job", "pipeline.loop", "pipeline.tracking", "pipeline.optim"),
    *("mlflow.tracking", "mlflow.store.tracking.sqlalchemy_store", "submitit.helpers"),
    *("submitit.local.local",),
    *(
        "tests.faults.work",
        "tests.faults.plan",
        "tests.pipeline.jobs",
        "tests.pipeline.sharded_jobs",
    ),
)

if __name__ == "__main__":
    main(Path(sys.argv[1]))

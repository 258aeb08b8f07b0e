"""The plumbing of a command line: errors as one line, exit codes, clean ends, and ports that are
free."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType

from pipeline.environment import quiet
from pipeline.errors import ConfigError, PipelineError
from pipeline.redaction import redact, redact_logs
from pipeline.stop import StopRequested

MISUSE = 2
INTERRUPTED = 130


class Terminated(BaseException):
    """The process was told to end (SIGTERM, SIGHUP); clean-up runs on the way out, as with
    Ctrl-C."""


def run_cli(main: Callable[[], int | None]) -> int:
    """Run `main` and turn what escapes into an exit code: `sys.exit(run_cli(main))`.

    0 or what `main` returns; 2 with one line a problem for a PipelineError; 130 for Ctrl-C, 143 for
    SIGTERM. Anything else is a defect and keeps its traceback.
    """
    quiet()
    redact_logs()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _terminate)
        if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # started with & from a script
            signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return main() or 0
    except PipelineError as error:
        for line in str(error).splitlines():
            print(f"error: {redact(line)}", file=sys.stderr)
        return MISUSE
    except BrokenPipeError:  # whoever read our words, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (KeyboardInterrupt, StopRequested):
        print("\nstopped; run the same command again to continue", file=sys.stderr)
        return INTERRUPTED
    except Terminated as end:
        print("\nterminated; run the same command again to continue", file=sys.stderr)
        return 128 + int(end.args[0])


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise Terminated(signum)


def require_free_port(port: int, what: str, host: str = "127.0.0.1") -> None:
    """Check that nothing listens on `port`. Raises ConfigError naming the process where it can be
    seen."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"port {port} for {what} cannot be used on {host} "
                f"({error.strerror}{_listener(port)}); "
                "stop what holds it or choose another port"
            ) from error


def _listener(port: int) -> str:
    """`, held by process 123 (name)`, where the system tells."""
    import psutil

    try:
        for item in psutil.net_connections(kind="tcp"):
            listens = item.status == psutil.CONN_LISTEN and item.laddr and item.laddr.port == port
            if listens and item.pid:
                return f", held by process {item.pid} ({psutil.Process(item.pid).name()})"
    except (psutil.Error, OSError):
        pass
    return ""

"""A flow in this process, for whoever has no Prefect server running.

Prefect cannot run a flow without a server. Where the environment names one, or `up` has started
one, that one keeps the record; otherwise a server of our own runs for as long as the flow, on the
same database, so that `up` shows the run later. It has a session of its own: Ctrl-C must reach us
and not the server that is to take down how the run ended.
"""

from __future__ import annotations

import atexit
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows import daemons, services
from flows.home import prefect_settings, state_folder
from flows.orphans import dead_servers
from flows.run import Request
from flows.terminal import Terminal
from pipeline.cli import Terminated
from pipeline.environment import free_port
from pipeline.errors import ConfigError
from pipeline.storage import require_writable

QUIET_CONSOLE = {
    # What a person should read is printed by our own watcher; Prefect's lines go to its page.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}


def conduct(request: Request) -> int:
    """Run the flow that `request` asks for and show it on the terminal; 0 when it is done.

    Raises what ended it otherwise: a PipelineError, KeyboardInterrupt or Terminated.
    """
    terminal = Terminal()
    with _server(terminal):
        # Prefect reads its settings when it is imported, so not before the server is chosen.
        from prefect.exceptions import CancelledRun, TerminationSignal

        try:
            _flow(request, terminal)
        except CancelledRun as error:
            raise KeyboardInterrupt from error
        except TerminationSignal as error:
            raise Terminated(signal.SIGTERM) from error
        finally:
            terminal.close()
    return 0


def _flow(request: Request, terminal: Terminal) -> None:
    from flows.recipe import sam2, sam2_stage, watched_by

    given: dict[str, Any] = {
        "recipe": request.recipe,
        "overrides": list(request.overrides),
        "checkpoint": request.checkpoint or "",
        "run_name": request.run_name or "",
    }
    with watched_by(terminal):
        if request.stage is not None:
            sam2_stage(stage=request.stage, **given)
        else:
            sam2(start_at=request.start_at or "", stop_after=request.stop_after or "", **given)


@contextmanager
def _server(terminal: Terminal) -> Iterator[None]:
    """Point this process at a Prefect server, for the time of the block."""
    state = require_writable(state_folder(), "state folder")
    given, started = os.environ.get("PREFECT_API_URL"), services.prefect_api()
    name = f"server-{os.getpid()}"
    os.environ.update(QUIET_CONSOLE)
    if given and not daemons.answers(f"{given.rstrip('/')}/health"):
        raise ConfigError(
            f"PREFECT_API_URL={given} does not answer; start that server, "
            "or unset the variable to run without one"
        )
    if given or started:
        url = given or str(started)
        os.environ.update(prefect_settings(state, url))
        terminal.say(f"[dim]on the Prefect server {url.removesuffix('/api')}[/]")
        yield
        return
    _sweep(state, terminal)
    port = free_port()
    os.environ.update(prefect_settings(state, f"http://127.0.0.1:{port}/api"))
    server = services.start_prefect_server(
        state, name, port, "--no-scheduler", "--no-late-runs", "--no-ui"
    )
    # The server goes last of all, after what Prefect still sends when the interpreter ends: exit
    # handlers run in reverse order, so ours is registered before Prefect is imported.
    atexit.register(daemons.stop, state, name)
    with terminal.console.status("starting Prefect …"):
        import prefect.main  # noqa: F401 - takes seconds, in which the server comes up

        daemons.wait_for(server, services.PATIENCE)
    yield


def _sweep(state: Path, terminal: Terminal) -> None:
    """End servers whose flow was killed before it could do so."""
    for name in dead_servers(state):
        daemons.stop(state, name)
        owner = name.removeprefix("server-")
        terminal.say(f"[dim]stopped the Prefect server of process {owner}, which was killed[/]")

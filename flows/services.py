"""`up`, `down` and `status`: Prefect server and worker with all deployments, MLflow and
TensorBoard, on loopback.

MLFLOW_TRACKING_URI names another store, or a server that runs already; SAM2_ARTIFACTS a bucket for
its files, in which case runs talk to MLflow over HTTP. Both are read by the recipes, too.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flows import daemons
from flows.daemons import Daemon
from flows.deployments import POOL, make_pool, register, worker_online
from flows.home import prefect_settings, program, state_folder, tracking_store
from pipeline.cli import require_free_port
from pipeline.errors import ConfigError, StageError
from pipeline.remote import is_remote
from pipeline.storage import local_path, require_writable

NAMES = ("prefect", "mlflow", "tensorboard", "worker")
"""In the order they start; they stop in the reverse order."""
PATIENCE = 180.0
"""Seconds that a service may take to come up on a busy machine; one that dies is noticed at once."""
SETTINGS_MARK = "# written by `sam2-pipeline up`, removed by `sam2-pipeline down`"


@dataclass(frozen=True)
class Ports:
    """Where the services listen on 127.0.0.1."""

    prefect: int = 4200
    mlflow: int = 5050
    tensorboard: int = 6006

    @classmethod
    def chosen(
        cls, prefect: int | None = None, mlflow: int | None = None, tensorboard: int | None = None
    ) -> Ports:
        """Given ports, else those of the environment (SAM2_PREFECT_PORT …), else the defaults."""
        given = {"prefect": prefect, "mlflow": mlflow, "tensorboard": tensorboard}
        ports = {name: _port_of(name) if port is None else port for name, port in given.items()}
        for name, port in ports.items():
            if not 0 < port < 65536:
                raise ConfigError(f"{port} is no port for {name}; expected 1 to 65535")
        return cls(**ports)


@dataclass(frozen=True)
class Status:
    """One service as it is now."""

    name: str
    daemon: Daemon | None
    healthy: bool
    elsewhere: str = ""
    """Its address, where it is not ours to start and stop."""


def up(ports: Ports, runs: Path, note: Callable[[str], None]) -> list[Status]:
    """Start what is not running yet, wait until all of it answers, and register the deployments.

    note: takes what a person should know. Raises ConfigError for a busy port before anything is
    started, StageError when a service does not come up.
    """
    state = require_writable(state_folder(), "state folder")
    runs = require_writable(runs, "runs folder")
    ours = [name for name in NAMES if name != "mlflow" or not _mlflow_elsewhere()]
    missing = [name for name in ours if daemons.running(state, name) is None]
    for name in missing:
        if name != "worker":
            what = f"{name} (choose one with --{name}-port or SAM2_{name.upper()}_PORT)"
            require_free_port(getattr(ports, name), what)
    _prepare_tracking(runs)
    for name in missing:
        if name != "worker":
            _start(state, name, ports, runs)
    for name in ours[:-1]:
        daemons.wait_for(_remembered(state, name), PATIENCE)
    api_url = f"{_remembered(state, 'prefect').url}/api"
    make_pool(state, api_url)
    if "worker" in missing:
        _start_worker(state, api_url)
    register(state, api_url, note)
    daemons.wait_for(_remembered(state, "worker"), PATIENCE, lambda: worker_online(api_url))
    _write_prefect_toml(state, api_url)
    return status()


def down() -> list[str]:
    """Stop what `up` started, in this state folder and nothing else; the names of what was
    running."""
    state = state_folder()
    _remove_prefect_toml()
    return [
        name
        for name in reversed(NAMES)
        if daemons.stop(state, name, children_first=name == "worker")
    ]


def status() -> list[Status]:
    """Every service: running or not, answering or not."""
    state = state_folder()
    found = [(name, daemons.running(state, name)) for name in NAMES]
    listed = [Status(name, daemon, daemon is not None and daemon.healthy) for name, daemon in found]
    other = _mlflow_elsewhere()
    if other:
        listed[NAMES.index("mlflow")] = Status(
            "mlflow", None, daemons.answers(f"{other}/health"), elsewhere=other
        )
    return listed


def prefect_api() -> str | None:
    """The API of the running Prefect server of this state folder, or None."""
    daemon = daemons.running(state_folder(), "prefect")
    return f"{daemon.url}/api" if daemon is not None and daemon.healthy else None


def start_prefect_server(state: Path, name: str, port: int, *options: str) -> Daemon:
    """A Prefect server whose database lies in `state`; it answers some seconds later."""
    command = [program("prefect"), "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    return daemons.start(
        state,
        name,
        [*command, "--analytics-off", *options],
        prefect_settings(state, f"http://127.0.0.1:{port}/api"),
        f"http://127.0.0.1:{port}",
        health="/api/health",
    )


def _start(state: Path, name: str, ports: Ports, runs: Path) -> None:
    if name == "prefect":
        start_prefect_server(state, name, ports.prefect)
        return
    port = getattr(ports, name)
    where = ["--host", "127.0.0.1", "--port", str(port)]
    if name == "mlflow":
        # The defaults are four server and eight job processes, 1.6 GB for one reader.
        command = [program("mlflow"), "server", "--workers", "1", *where]
        command += ["--backend-store-uri", tracking_store(runs)]
        command += ["--default-artifact-root", _artifacts(runs)]
    else:
        command = [program("tensorboard"), "--logdir", str(runs), *where]
    environment = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    health = "/health" if name == "mlflow" else "/"
    daemons.start(state, name, command, environment, f"http://127.0.0.1:{port}", health)


def _start_worker(state: Path, api_url: str) -> None:
    command = [program("prefect"), "worker", "start", "--pool", POOL, "--type", "process"]
    environment = {**prefect_settings(state, api_url), "SAM2_STATE": str(state)}
    mlflow = daemons.remembered(state, "mlflow")
    if mlflow is not None and os.environ.get("SAM2_ARTIFACTS"):
        environment["MLFLOW_TRACKING_URI"] = mlflow.url
    daemons.start(state, "worker", [*command, "--name", "sam2-worker"], environment)


def _prepare_tracking(runs: Path) -> None:
    """Create the MLflow database once, before several processes open it."""
    from pipeline.tracking import prepare_store

    if not _mlflow_elsewhere():
        prepare_store(tracking_store(runs), "sam2", _artifacts(runs))


def _mlflow_elsewhere() -> str:
    """The address of a tracking server that is not ours, or nothing."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    return uri.rstrip("/") if uri.startswith("http") else ""


def _artifacts(runs: Path) -> str:
    place = os.environ.get("SAM2_ARTIFACTS") or str(runs / "artifacts")
    return place if is_remote(place) else str(local_path(place).absolute())


def _remembered(state: Path, name: str) -> Daemon:
    daemon = daemons.remembered(state, name)
    if daemon is None:
        raise StageError(f"{name} vanished while starting; see {state / 'logs'}")
    return daemon


def _write_prefect_toml(state: Path, api_url: str) -> None:
    """Let a plain `prefect` in this folder find the server; a prefect.toml of the user's own
    stays."""
    path = Path("prefect.toml")
    if path.exists() and SETTINGS_MARK not in path.read_text(encoding="utf-8"):
        return
    path.write_text(
        f'{SETTINGS_MARK}\nhome = "{state / "prefect"}"\n\n[api]\nurl = "{api_url}"\n',
        encoding="utf-8",
    )


def _remove_prefect_toml() -> None:
    path = Path("prefect.toml")
    if path.exists() and SETTINGS_MARK in path.read_text(encoding="utf-8"):
        path.unlink()


def _port_of(name: str) -> int:
    variable = f"SAM2_{name.upper()}_PORT"
    text = os.environ.get(variable)
    if text is None:
        return int(getattr(Ports, name))
    if not text.isdigit():
        raise ConfigError(f"{variable}={text} is no port; expected 1 to 65535")
    return int(text)

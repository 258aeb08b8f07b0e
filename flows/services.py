"""`up`, `down` and `status`: Prefect server and worker with all deployments, MLflow and
TensorBoard, on loopback.

MLFLOW_TRACKING_URI names another store, or a server that runs already; SAM2_ARTIFACTS a bucket for
its files, in which case runs talk to MLflow over HTTP. Both are read by the recipes, too.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flows
from flows import daemons
from flows.daemons import Daemon
from flows.home import api_secret, prefect_settings, state_folder, tracking_store
from pipeline.cli import require_free_port
from pipeline.errors import ConfigError, StageError
from pipeline.remote import is_remote
from pipeline.storage import local_path, require_writable, sha256

POOL = "sam2-local"
NAMES = ("prefect", "mlflow", "tensorboard", "worker")
"""In the order they start; they stop in the reverse order."""
PROJECT = Path(flows.__file__).resolve().parent.parent
"""The checkout; prefect.yaml with the deployments lies here."""
SCHEDULE_FIELDS = ("schedule", "active", "max_scheduled_runs", "parameters", "slug")
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


def up(ports: Ports, runs: Path) -> list[Status]:
    """Start what is not running yet, wait until all of it answers, and register the deployments.

    Raises ConfigError for a busy port before anything is started, StageError when a service does
    not come up.
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
        daemons.wait_for(_remembered(state, name), 90)
    api_url = f"{_remembered(state, 'prefect').url}/api"
    _prefect(state, api_url, "work-pool", "create", POOL, "--type", "process", "--overwrite")
    if "worker" in missing:
        _start_worker(state, api_url)
    _deploy(state, api_url)
    daemons.wait_for(_remembered(state, "worker"), 60, lambda: _worker_online(api_url))
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
    command = [_program("prefect"), "server", "start", "--host", "127.0.0.1", "--port", str(port)]
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
        command = [_program("mlflow"), "server", "--workers", "1", *where]
        command += ["--backend-store-uri", tracking_store(runs)]
        command += ["--default-artifact-root", _artifacts(runs)]
    else:
        command = [_program("tensorboard"), "--logdir", str(runs), *where]
    environment = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    health = "/health" if name == "mlflow" else "/"
    daemons.start(state, name, command, environment, f"http://127.0.0.1:{port}", health)


def _start_worker(state: Path, api_url: str) -> None:
    command = [_program("prefect"), "worker", "start", "--pool", POOL, "--type", "process"]
    environment = {**prefect_settings(state, api_url), "SAM2_STATE": str(state)}
    mlflow = daemons.remembered(state, "mlflow")
    if mlflow is not None and os.environ.get("SAM2_ARTIFACTS"):
        environment["MLFLOW_TRACKING_URI"] = mlflow.url
    daemons.start(state, "worker", [*command, "--name", "sam2-worker"], environment)


def _prefect(state: Path, api_url: str, *words: str) -> None:
    """Call the `prefect` command. Raises StageError with what it said when it fails."""
    answer = subprocess.run(
        [_program("prefect"), "--no-prompt", *words],
        env={**os.environ, **prefect_settings(state, api_url)},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if answer.returncode != 0:
        log = state / "logs" / "prefect-command.log"
        log.write_text(answer.stdout + answer.stderr, encoding="utf-8")
        said = " ".join(answer.stderr.split() or answer.stdout.split())[:400]
        raise StageError(f"`prefect {words[0]}` failed ({said} …); all of it is in {log}")


def _deploy(state: Path, api_url: str) -> None:
    """Register the deployments. Parameters and schedules that were changed on the server stay as
    they are there, unless prefect.yaml has changed since it was registered last."""
    file, mark = PROJECT / "prefect.yaml", state / "prefect" / "deployed"
    known = mark.is_file() and mark.read_text(encoding="utf-8") == sha256(file)
    ours = {"work_pools": {"name": {"any_": [POOL]}}}
    before = _ask(api_url, "deployments/filter", ours) if known else []
    _prefect(state, api_url, "deploy", "--all", "--prefect-file", str(file))
    for found in before:
        schedules = [{key: one[key] for key in SCHEDULE_FIELDS} for one in found["schedules"]]
        kept = {"parameters": found["parameters"], "schedules": schedules}
        with suppress(urllib.error.HTTPError):  # a parameter that the flow no longer has
            _ask(api_url, f"deployments/{found['id']}", kept, "PATCH")
    mark.write_text(sha256(file), encoding="utf-8")


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


def _worker_online(api_url: str) -> bool:
    try:
        workers = _ask(api_url, f"work_pools/{POOL}/workers/filter", {})
    except (OSError, ValueError):
        return False
    return any(worker.get("status") == "ONLINE" for worker in workers)


def _ask(api_url: str, path: str, body: Mapping[str, Any], method: str = "POST") -> Any:
    """What Prefect's API answers. Raises OSError when it does not, or with an error."""
    headers = {"content-type": "application/json"}
    secret = api_secret()
    if secret:
        headers["authorization"] = f"Basic {base64.b64encode(secret.encode()).decode()}"
    request = urllib.request.Request(
        f"{api_url}/{path}", data=json.dumps(body).encode(), headers=headers, method=method
    )
    with urllib.request.urlopen(request, timeout=5) as response:
        return json.loads(response.read() or b"null")


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


def _program(name: str) -> str:
    """A command of this Python environment, which need not be on PATH."""
    path = Path(sys.executable).parent / name
    return str(path) if path.exists() else name


def _port_of(name: str) -> int:
    variable = f"SAM2_{name.upper()}_PORT"
    text = os.environ.get(variable)
    if text is None:
        return int(getattr(Ports, name))
    if not text.isdigit():
        raise ConfigError(f"{variable}={text} is no port; expected 1 to 65535")
    return int(text)

"""Where Prefect, MLflow and the background services keep their state, and the environment they run
in.

Everything lies below one folder of the project (`.state`, or where SAM2_STATE says), nothing in the
user's home, and nothing is sent to the outside.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def state_folder() -> Path:
    """The folder for databases, logs and pid files; absolute, not necessarily there yet."""
    return Path(os.environ.get("SAM2_STATE", ".state")).expanduser().absolute()


def tracking_store(runs: Path) -> str:
    """Where the runs of a runs folder are recorded: the MLflow store that MLFLOW_TRACKING_URI names, as
    in their recipes, or the database in the folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{runs / 'mlflow.db'}"


def prefect_settings(state: Path, api_url: str | None = None) -> dict[str, str]:
    """Environment of every Prefect process of this project: the server, the worker, the flow,
    `prefect` itself."""
    home = state / "prefect"
    home.mkdir(parents=True, exist_ok=True)
    settings = {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_CLI_PROMPT": "false",
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # A run should start within seconds of being asked for; the default looks every 10 seconds.
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "PREFECT_RUNNER_POLL_FREQUENCY": "2",
    }
    if api_url is not None:
        settings["PREFECT_API_URL"] = api_url
    if api_secret():
        settings["PREFECT_API_AUTH_STRING"] = api_secret()
    return settings


def api_secret() -> str:
    """`user:password` for Prefect's API, from the environment only; a server that asks for one is
    ours if clients were given none."""
    names = ("PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING")
    return next((os.environ[name] for name in names if os.environ.get(name)), "")


def program(name: str) -> str:
    """A command of this Python environment, which need not be on PATH."""
    path = Path(sys.executable).parent / name
    return str(path) if path.exists() else name

"""A real MLflow server over HTTP, in a process of its own that can be stopped and started again."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from pipeline.environment import free_port


class MlflowServer:
    """The store lies in `folder` and survives a stop; the address stays the same."""

    def __init__(self, folder: Path, artifacts: str | None = None) -> None:
        """artifacts: where files go; by default through the server itself (`mlflow-artifacts:`)."""
        self.folder, self.process = folder, None
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        where = ["--default-artifact-root", artifacts] if artifacts else []
        self.command = [
            *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
            *("--host", "127.0.0.1", "--port", str(self.port)),
            *("--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", *where),
            *([] if artifacts else ["--artifacts-destination", str(folder / "files")]),
        ]

    def start(self) -> "MlflowServer":
        """Start it and wait until it answers."""
        environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "DO_NOT_TRACK": "true"}
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen(
                self.command,
                env={**os.environ, **environment, "MLFLOW_DISABLE_TELEMETRY": "true"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        for _ in range(2000):
            try:
                urllib.request.urlopen(f"{self.address}/health", timeout=1).close()
                return self
            except OSError:
                assert self.process.poll() is None, (self.folder / "server.log").read_text()
                time.sleep(0.1)
        raise TimeoutError("the MLflow server does not answer")

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it and all it started."""
        if self.process is not None:
            os.killpg(self.process.pid, number)
            self.process.wait(20)
            self.process = None

"""docker/: linted, and every service of the compose file run natively with its own command and health check.

No Docker engine is needed; what only an engine can show (that the images build, networks, volumes, GPUs) is not
tested here.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.environment import free_port
from tests.postgres import postgres_server, why_no_postgres

HOUSE = Path(__file__).resolve().parent.parent
COMPOSE = HOUSE / "docker" / "compose.yaml"
BIN = Path(sys.executable).parent
SECRETS = {
    "PREFECT_DB_PASSWORD": "prefect-db-word",
    "MLFLOW_DB_PASSWORD": "mlflow-db-word",
    "STORE_KEY": "store-key",
    "STORE_SECRET": "store-secret-word",
    "PREFECT_AUTH": "lab:prefect-word",
}
DATABASES = ("prefect-db", "mlflow-db")
LONG_RUNNING = ("prefect", "store", "mlflow", "worker", "tensorboard")
VARIABLE = re.compile(r"\$\{(\w+)(?::([?-])([^}]*))?\}")


def composed(environment: dict[str, str]) -> dict[str, Any]:
    """The services, with variables filled in as compose does it. Raises KeyError for a missing one."""

    def fill(match: re.Match[str]) -> str:
        name, kind, rest = match.groups()
        value = environment.get(name, "")
        if not value and kind == "?":
            raise KeyError(name)
        return value or (rest if kind == "-" else "")

    return yaml.safe_load(VARIABLE.sub(fill, COMPOSE.read_text(encoding="utf-8")))["services"]


def test_the_dockerfile_is_clean() -> None:
    subprocess.run([BIN / "hadolint", HOUSE / "docker" / "Dockerfile"], check=True)


def test_the_compose_file_is_one() -> None:
    command = [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def test_what_the_image_copies_is_let_through() -> None:
    let_through = {
        line[1:].split("/")[0]
        for line in (HOUSE / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    packages = {path.parent.name for path in HOUSE.glob("*/__init__.py")} - {"tests", "benchmarks"}
    assert packages <= let_through
    assert {"pyproject.toml", "README.md", "LICENSE", "prefect.yaml", "requirements"} <= let_through
    assert all((HOUSE / name).exists() for name in let_through)


@pytest.mark.parametrize("name", [name for name in SECRETS if name != "PREFECT_AUTH"])
def test_no_secret_has_a_default(name: str) -> None:
    with pytest.raises(KeyError, match=name):
        composed({key: value for key, value in SECRETS.items() if key != name})
    example = (HOUSE / "docker" / "env.example").read_text()
    assert f"\n{name}=\n" in example


def test_every_service_is_guarded() -> None:
    for name, service in composed(SECRETS).items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        once = service["restart"] == "no"
        assert once or "healthcheck" in service, name
        assert not any("0.0.0.0" in str(port) for port in service.get("ports", ())), name
    lines = (HOUSE / "docker" / "Dockerfile").read_text().splitlines()
    assert [line for line in lines if line.startswith("USER")][-1] == "USER 1000:1000"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """All of the compose file's services, on this machine, healthy."""
    missing = why_no_postgres()
    if missing:
        pytest.skip(missing)
    with ExitStack() as everything:
        yield Stack.started(tmp_path_factory.mktemp("stack"), everything)


class Stack:
    """The services as processes: what is a host, port or folder in a container is one of this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.services = folder, composed(SECRETS)
        ports = {
            "prefect": 4200,
            "mlflow": 5050,
            "store": 9000,
            "tensorboard": 6006,
            "worker": 8080,
        }
        self.ports = {name: free_port() for name in (*ports, *DATABASES)}
        self.changes = [(f"{name}:5432", f"127.0.0.1:{self.ports[name]}") for name in DATABASES]
        for name, port in ports.items():
            own = str(self.ports[name])
            self.changes += [(f"//{name}:{port}", f"//127.0.0.1:{own}"), (str(port), own)]
        self.changes += [("0.0.0.0", "127.0.0.1"), ("/srv/", f"{folder}/srv/")]

    @classmethod
    def started(cls, folder: Path, everything: ExitStack) -> Stack:
        """Start all in the order of their dependencies."""
        stack = cls(folder)
        for name in ("runs", "store", "data"):
            (folder / "srv" / name).mkdir(parents=True)
        for name in DATABASES:
            given = stack.services[name]["environment"]
            user, password = given["POSTGRES_USER"], given["POSTGRES_PASSWORD"]
            everything.enter_context(postgres_server(stack.ports[name], user, password))
        for name in ("store", "bucket", "mlflow", "prefect", "deploy", "worker", "tensorboard"):
            if name in LONG_RUNNING:
                everything.enter_context(stack.running(name))
            else:
                stack.call(name, stack.services[name]["command"])
        return stack

    def here(self, text: str) -> str:
        """`text` of the compose file, for this machine."""
        for container, machine in self.changes:
            text = text.replace(container, machine)
        return text

    def environment(self, name: str) -> dict[str, str]:
        """What a service is given, and nothing of the store or server of whoever runs the tests."""
        ours = ("AWS_", "PREFECT_", "MLFLOW_", "SAM2_", "MINIO_")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
        given = {key: self.here(str(v)) for key, v in self.services[name]["environment"].items()}
        home = {"PREFECT_HOME": str(self.folder / name), "PATH": f"{BIN}:{os.environ['PATH']}"}
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
        return {**kept, **quiet, **given, **home}

    def call(self, name: str, command: list[str], **other: str) -> str:
        """Run a command as the service `name` would, with `other` variables; what it said."""
        words = [self.here(word) for word in command]
        done = subprocess.run(
            words,
            env={**self.environment(name), **other},
            cwd=HOUSE,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, f"{name}: {done.stdout}\n{done.stderr}"
        return done.stdout

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        """The service's own command, until its own health check passes."""
        service = self.services[name]
        service.setdefault("environment", {})
        log = self.folder / f"{name}.log"
        with open(log, "wb") as out:
            process = subprocess.Popen(
                [self.here(word) for word in service["command"]],
                env=self.environment(name),
                cwd=HOUSE,
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        try:
            check = [self.here(word) for word in service["healthcheck"]["test"][1:]]
            until = time.monotonic() + 300
            while subprocess.run(
                check, env=self.environment(name), capture_output=True, check=False
            ).returncode:
                assert process.poll() is None, f"{name} ended: {log.read_text()}"
                assert time.monotonic() < until, f"{name} is not healthy: {log.read_text()}"
                time.sleep(0.5)
            yield
        finally:
            with_children_ended(process)


def with_children_ended(process: subprocess.Popen[bytes]) -> None:
    """End a process and its session."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(20)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_service_runs_and_they_know_each_other(stack: Stack) -> None:
    deployments = stack.call("deploy", ["prefect", "deployment", "ls"])
    assert "sam2/full-recipe" in deployments.replace("\n", "")
    code = (
        "import mlflow, pathlib, sys;"
        "mlflow.set_experiment('containers'); run = mlflow.start_run();"
        "pathlib.Path(sys.argv[1]).write_text('kept'); mlflow.log_artifact(sys.argv[1]);"
        "print(run.info.artifact_uri)"
    )
    note = stack.folder / "note.txt"
    said = stack.call("worker", ["python", "-c", code, str(note)])
    (uri,) = (line for line in said.splitlines() if line.startswith("s3://sam2/mlflow/"))
    read = f"import s3fs; print(s3fs.S3FileSystem().cat('{uri}/note.txt').decode())"
    assert stack.call("worker", ["python", "-c", read]).strip() == "kept"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nobody_gets_in_without_the_words(stack: Stack) -> None:
    listing = ["python", "-c", "import s3fs; print(s3fs.S3FileSystem().ls('sam2'))"]
    with pytest.raises(AssertionError, match=r"SignatureDoesNotMatch|Forbidden|signature"):
        stack.call("worker", listing, AWS_SECRET_ACCESS_KEY="another-secret")
    with pytest.raises(AssertionError, match=r"401|[Uu]nauthorized"):
        stack.call("deploy", ["prefect", "deployment", "ls"], PREFECT_API_AUTH_STRING="lab:guess")


def test_the_page_says_what_is_published() -> None:
    page = (HOUSE / "docs" / "containers.md").read_text(encoding="utf-8")
    for name, service in composed(SECRETS).items():
        assert f"`{name}`" in page
        for port in service.get("ports", ()):
            assert port.split(":")[1] in page, name
    assert shutil.which("docker") is None or "docker compose" in page

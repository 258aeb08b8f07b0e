"""What made a result: the version of the code, and the kind of machine and libraries it ran on. No host names, no
users, no paths of this machine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGE = "sam2-pipeline"
LIBRARIES = (
    "torch", "numpy", "pillow", "opencv-python-headless", "av", "pycocotools", "scipy",
    "mlflow", "prefect", "submitit", "hydra-core", "fsspec", "s3fs",
)  # fmt: skip
GIT_SECONDS = 5.0


@cache
def code_version() -> dict[str, str]:
    """`code.version` of the package, and of a checkout `code.commit` and `code.dirty` (true: files were changed
    since). MLflow shows the commit in its own column."""
    found = {"code.version": _version(PACKAGE)}
    commit = _git("rev-parse", "HEAD")
    if commit:
        changes = _git("status", "--porcelain", "--untracked-files=no")
        found |= {"code.commit": commit, "code.dirty": str(changes != "").lower()}
        found["mlflow.source.git.commit"] = commit
    found |= {"mlflow.source.name": PACKAGE, "mlflow.source.type": "PROJECT"}
    return found


def environment() -> dict[str, str]:
    """What a reader asks for first, as `env.NAME`: Python, torch, the class of machine."""
    found = {"env.python": platform.python_version(), "env.machine": _machine()}
    return found | ({"env.torch": _version("torch")} if _version("torch") else {})


def packages() -> dict[str, str]:
    """The version of every library that may change a result."""
    return {name: _version(name) for name in LIBRARIES if _version(name)}


def _machine() -> str:
    """`Linux x86_64, 16 CPUs, 8 x NVIDIA H100`; GPUs where torch is loaded and sees some."""
    parts = [f"{platform.system()} {platform.machine()}", f"{os.cpu_count() or 1} CPUs"]
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        parts.append(f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}")
    return ", ".join(parts)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _git(*words: str) -> str | None:
    """What git says of the checkout this file lies in; None where there is no git or no checkout of ours."""
    home = Path(__file__).resolve().parents[1]
    if not (home / ".git").exists():
        return None
    try:
        answer = subprocess.run(
            ["git", "-C", str(home), *words],
            capture_output=True,
            text=True,
            timeout=GIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None

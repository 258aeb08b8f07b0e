"""The floor of the flows: nothing on it needs torch, and the command line starts at once."""

import subprocess
import sys

import pytest

MODULES = [
    "recipe",
    "cli",
    "commands",
    "local",
    "memory",
    "services",
    "stage",
    "watch",
    "terminal",
    "results",
    "preflight",
    "parts",
    "predict",
]


@pytest.mark.parametrize(
    ("modules", "forbidden"),
    [
        ([f"flows.{name}" for name in MODULES], ["torch", "mlflow", "torchvision"]),
        (["flows.cli"], ["torch", "mlflow", "prefect", "submitit", "hydra", "rich"]),
    ],
    ids=["all", "cli"],
)
def test_importing_flows_loads_nothing_heavy(modules: list[str], forbidden: list[str]):
    code = f"import sys, {', '.join(modules)}; print([m for m in {forbidden} if m in sys.modules])"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert answer.stdout.strip() == "[]", answer.stdout + answer.stderr

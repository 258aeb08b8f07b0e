"""The laws of the house that no single part can keep: floors, versions, and what may stand in a file."""

import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

HOUSE = Path(__file__).resolve().parents[1]
PACKAGES = ("pipeline", "model", "data", "stages", "flows", "configs", "tests", "benchmarks")
TEXTS = (".md", ".yaml", ".toml", ".txt", ".py", ".css", ".j2", ".cfg")
MOST_LINES = 450

HEAVY = ["torch", "torchvision", "mlflow"]
ORCHESTRATION = ["prefect", "mlflow", "submitit", "hydra"]
TRAINING_PARTS = [
    *("errors", "settings", "schema", "config", "storage", "stop", "progress", "environment"),
    *("distributed", "optim", "checkpoint", "loop", "board", "tracking", "journal"),
]
BLOCKER = """
import importlib, pkgutil, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"{{name}} is not installed", name=name)
sys.meta_path.insert(0, Blocker())
for package in {packages}:
    module = importlib.import_module(package)
    for found in pkgutil.walk_packages(module.__path__, package + "."):
        importlib.import_module(found.name)
for name in {modules}:
    importlib.import_module(name)
print("all imported")
"""


def python(code: str) -> str:
    """What a fresh interpreter in the house prints."""
    answer = subprocess.run(
        [sys.executable, "-c", code],
        cwd=HOUSE,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.strip()


def files(*endings: str) -> list[Path]:
    """The files of the repository with one of these endings."""
    found = [path for path in HOUSE.iterdir() if path.is_file()]
    for name in (*PACKAGES, "requirements", "docs", "docker", ".ci"):
        found += [path for path in (HOUSE / name).rglob("*") if path.is_file()]
    return [path for path in found if path.suffix in endings or path.name in endings]


def lines_with(pattern: str, *endings: str) -> list[str]:
    """`file:line` of every line that matches."""
    wanted = re.compile(pattern)
    return [
        f"{path.relative_to(HOUSE)}:{number}: {line.strip()[:80]}"
        for path in files(*endings)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if wanted.search(line)
    ]


# -- floors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "module",
    [
        "flows.recipe",
        "flows.cli",
        "stages.recipe",
        "stages.contract",
        "stages.job",
        "pipeline.launch",
    ],
)
def test_what_decides_loads_nothing_that_computes(module: str):
    code = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"
    assert python(code) == "[]"


def test_model_data_and_training_need_no_orchestration():
    """A GPU job trains with a plain torch installation."""
    modules = [f"pipeline.{name}" for name in TRAINING_PARTS] + ["stages.training"]
    code = BLOCKER.format(blocked=set(ORCHESTRATION), packages=["model", "data"], modules=modules)
    assert python(code) == "all imported"


# -- versions -------------------------------------------------------------------------------------


def requirements() -> list[Requirement]:
    project = tomllib.loads((HOUSE / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    return [Requirement(line) for line in wanted]


def locked() -> dict[str, Version]:
    lines = (HOUSE / "requirements" / "lock.txt").read_text().splitlines()
    pins = [line.split("#")[0].strip() for line in lines]
    pairs = [pin.split("==") for pin in pins if pin]
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def test_the_lock_holds_every_dependency_within_its_range():
    lock = locked()
    for requirement in requirements():
        version = lock.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not in requirements/lock.txt"
        assert version in requirement.specifier, f"{requirement} but the lock has {version}"


def test_the_lock_pins_torch_exactly_and_itself_only():
    assert "torch" in locked()
    for line in (HOUSE / "requirements" / "lock.txt").read_text().splitlines():
        pin = line.split("#")[0].strip()
        assert not pin or re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.!+]*", pin), line


def test_build_tools_the_makefile_needs_are_locked():
    """`pip install --no-build-isolation` takes setuptools from the lock."""
    assert "--no-build-isolation" in (HOUSE / "Makefile").read_text()
    assert locked()["setuptools"] >= Version("77")


def test_setup_takes_the_chosen_build_of_torch_and_an_error_is_one_line():
    """torch goes in first, from the index that was asked for; the lock then finds it there."""
    index = "https://torch.example/cu1"
    command = ["make", "--silent", "--just-print", "--always-make", "setup", f"TORCH_INDEX={index}"]
    lines = subprocess.run(command, cwd=HOUSE, capture_output=True, text=True, check=True).stdout
    torch, lock = lines.index(f"--extra-index-url {index} torch"), lines.index("--requirement")
    assert torch < lock < lines.index("--constraint requirements/lock.txt torch")
    old = "import sys; sys.version_info = (3, 10); exec(sys.argv[1])"
    check = re.search(r"-c '(.*?)'", lines.replace("\\\n", ""))
    assert check, lines
    answer = subprocess.run(
        [sys.executable, "-c", old, check[1]], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 1 and answer.stderr.startswith("error: python3 is 3.10, expected")
    assert answer.stderr.count("\n") == 1


def test_the_citation_is_of_this_version():
    project = tomllib.loads((HOUSE / "pyproject.toml").read_text())["project"]
    cited = yaml.safe_load((HOUSE / "CITATION.cff").read_text(encoding="utf-8"))
    assert (cited["title"], cited["version"]) == (project["name"], project["version"])
    assert (cited["abstract"], cited["license"]) == (project["description"], project["license"])


# -- what stands in files -------------------------------------------------------------------------


def test_no_paths_of_somebodys_machine():
    places = "|".join(("work", "home/[a-z]", "Users", "root", "mnt"))
    assert lines_with(rf"(?<![\w.}}])/({places})/", *TEXTS, "Makefile", "run") == []


def test_nothing_is_left_to_do():
    words = "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X", "NotImplemented" + "Error"))
    assert lines_with(rf"\b({words})\b", ".py", ".yaml", ".md", ".toml") == []


@pytest.mark.parametrize("package", PACKAGES)
def test_files_are_short(package: str):
    long = {
        str(path.relative_to(HOUSE)): count
        for path in (HOUSE / package).rglob("*.py")
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > MOST_LINES
    }
    assert long == {}


def test_readme_names_only_targets_and_commands_that_exist():
    makefile = (HOUSE / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    readme = (HOUSE / "README.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", readme, re.DOTALL))
    named = set(re.findall(r"\bmake ([a-z][a-z-]*)", code))
    assert named and named <= targets, f"README names {sorted(named - targets)}"
    listed = python("from flows.cli import _parser; print(*_parser().commands)").split()
    commands = set(re.findall(r"\bsam2-pipeline ([a-z][a-z-]*)\b", code))
    assert commands and commands <= set(listed), f"README names {sorted(commands - set(listed))}"


def test_what_the_readme_links_to_is_there():
    readme = (HOUSE / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#\s]+)", readme)
    local = [link for link in links if not link.startswith(("http:", "https:", "mailto:"))]
    assert [link for link in local if not (HOUSE / link).exists()] == []


def test_the_benchmarks_of_the_makefile_exist():
    assert "-m benchmarks" in (HOUSE / "Makefile").read_text()
    assert find_spec("benchmarks.__main__") is not None

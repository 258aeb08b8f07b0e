"""docs/slurm.md shows what works: its blocks are launch settings, its table the options there are."""

import re
import shutil
from pathlib import Path

import pytest
import yaml

from flows.jobs import TRAINER
from flows.stage import _resources
from pipeline import slurm
from pipeline.config import parse
from pipeline.settings import LaunchConfig
from stages import recipe as recipes
from stages.contract import StageSpec

PAGE = Path(__file__).resolve().parents[2] / "docs" / "slurm.md"
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def script(block: str) -> str:
    """What sbatch would be given for a block of the page."""
    config = parse(LaunchConfig, yaml.safe_load(block)["launch"], where="launch")
    executor = slurm.submitit.SlurmExecutor("logs", python=slurm.python_command(config))
    executor.update_parameters(**slurm.parameters(config, "s2-0"))
    return str(executor._make_submission_file_text(executor._submitit_command_str, "x"))


@pytest.fixture(autouse=True)
def a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm.submitit.SlurmExecutor, "affinity", classmethod(lambda cls: 2))


def test_the_recipe_loads_and_asks_for_what_it_says(tmp_path: Path, monkeypatch) -> None:
    shutil.copytree(recipes.CONFIG_DIR, tmp_path / "configs")
    (tmp_path / "configs/recipe/lab.yaml").write_text(BLOCKS[0])
    monkeypatch.setattr(recipes, "CONFIG_DIR", tmp_path / "configs")
    loaded = recipes.load_recipe(["recipe=lab"])
    assert loaded.name == "lab" and len(loaded.stages) == 4
    assert (loaded.launch.shards, loaded.launch.parallel) == (32, 16)
    text = script(BLOCKS[0])
    for line in (
        *("nodes=4", "ntasks-per-node=8", "gpus-per-node=8", "cpus-per-task=14", "mem=900G"),
        *("time=1440", "signal=USR2@300", "partition=gpu", "account=vision", "qos=long"),
        *("constraint=h100", "exclude='gpu[03,07]'", "exclusive", "mail-type=FAIL", "requeue"),
    ):
        assert f"#SBATCH --{line}\n" in text
    assert "srun" in text and " --cpus-per-task=14 " in text
    assert "export OMP_NUM_THREADS=4" in text


def test_what_needs_no_gpu_asks_for_none() -> None:
    config = parse(LaunchConfig, yaml.safe_load(BLOCKS[0])["launch"], where="launch")

    def asked(kind: str) -> tuple:
        found = _resources(config, StageSpec("x", kind, {}, "x"))
        nodes, tasks = found.nodes, found.tasks_per_node
        return nodes, tasks, found.gpus_per_node, found.ram_gb, found.partition, found.constraint

    assert asked("video_train") == (4, 8, 8, 900, "gpu", "h100")
    assert asked("evaluate") == (1, 1, 1, 112, "gpu", "h100")
    assert asked("extract_frames") == asked("report") == (1, 1, None, 112, "cpu", None)


def test_conda_apptainer_and_pyxis() -> None:
    conda, apptainer, pyxis = (script(block) for block in BLOCKS[1:])
    assert conda.index("conda activate sam2") < conda.index("srun") < conda.index(" python -u -m ")
    assert (
        "apptainer exec --bind /work:/work --bind /data:/data /images/sam2.sif python" in apptainer
    )
    assert "--container-image=lab/sam2:1.4 --container-mounts=/work:/work,/data:/data" in pyxis
    assert pyxis.index("--container-image") < pyxis.index(" python -u -m ")


def test_the_table_of_options_is_whole() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for option, keys in TRAINER.items():
        row = next(
            line for line in page.splitlines() if f"| `--{option.replace('_', '-')} " in line
        )
        assert all(f"launch.{key}=" in row for key in keys)

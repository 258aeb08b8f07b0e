"""What a person at the terminal gets to see."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli import require_free_port, run_cli
from pipeline.environment import env_rank, free_port
from pipeline.errors import ConfigError, DataError
from pipeline.progress import Progress, ProgressWriter, duration_text, read_progress


def test_a_mistake_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    def misuse() -> None:
        raise DataError("data/davis: no folder JPEGImages; give the folder that holds it")

    assert run_cli(misuse) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["error: data/davis: no folder JPEGImages; give the folder that holds it"]


def test_other_ends(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    assert run_cli(lambda: None) == 0
    assert run_cli(lambda: 3) == 3
    assert run_cli(interrupted) == 130
    assert "run the same command again to continue" in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError):
        run_cli(lambda: 1 // 0)


def test_a_busy_port_is_named_with_its_holder() -> None:
    port = free_port()
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", port))
        busy.listen()
        with pytest.raises(ConfigError, match=rf"port {port} for MLflow cannot be used.*in use"):
            require_free_port(port, "MLflow")
    require_free_port(port, "MLflow")


def test_a_free_port_is_none_that_the_system_gives_to_connections() -> None:
    given = Path("/proc/sys/net/ipv4/ip_local_port_range")
    if not given.exists():
        pytest.skip("not Linux")
    first = int(given.read_text().split()[0])
    assert max(free_port() for _ in range(50)) < first


def test_progress_is_written_and_read(tmp_path: Path) -> None:
    assert read_progress(tmp_path) is None
    writer = ProgressWriter(tmp_path, total=10, unit="video")
    writer.update(4, loss=0.25)  # within the same second as the first: not written
    writer.update(10, loss=0.125, metrics={"jf": 71.0})
    found = read_progress(tmp_path)
    assert found is not None
    assert (found.step, found.total, found.loss, found.metrics) == (10, 10, 0.125, {"jf": 71.0})
    assert "video 10/10, loss 0.125" in found.text
    (tmp_path / "progress.json").write_text('{"other": 1}')
    assert read_progress(tmp_path) is None


def test_texts() -> None:
    assert duration_text(159) == "2:39"
    assert duration_text(3759) == "1:02:39"
    progress = Progress(step=120, total=900, rate=4.9, eta=159.0, loss=0.4131)
    assert progress.text == "step 120/900, loss 0.413, 4.9 step/s, 2:39 left"


def test_the_rank_is_known_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SUBMITIT_LOCAL_GLOBALID", "RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    assert env_rank() == 0
    monkeypatch.setenv("SLURM_PROCID", "3")
    assert env_rank() == 3


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        (
            "settings config schema storage progress stop job cli tracking errors environment",
            "torch",
        ),
        ("launch", "torch"),
        (
            "loop optim checkpoint distributed",
            "mlflow submitit hydra omegaconf prefect tensorboard pydantic",
        ),
    ],
)
def test_what_is_imported_with_what(modules: str, absent: str) -> None:
    code = "import sys\n" + "".join(f"import pipeline.{name}\n" for name in modules.split())
    code += f"print([name for name in {absent.split()} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"

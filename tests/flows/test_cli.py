"""What a person types wrongly ends in one clear line and exit code 2."""

import errno
import os
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows.cli import main
from pipeline.environment import free_port


def said(capsys: pytest.CaptureFixture[str], code: int, expected: int = 2) -> str:
    """The one line of an error; fails when there are more, or a traceback."""
    output = capsys.readouterr()
    assert code == expected, output.err
    lines = [line for line in output.err.splitlines() if line.strip()]
    assert len(lines) == 1, output.err
    assert lines[0].startswith("error: ") and "Traceback" not in output.err
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run", "recipe=smok"], "did you mean 'smoke'"),
        (["run", "smoke"], "did you mean recipe=smoke"),
        (["run", "stages.video_train.step=5"], "did you mean 'steps'"),
        (["run", "stages.video_train.steps=many"], "expected a whole number"),
        (["run", "sed=5"], "did you mean 'seed'"),
        (["run", "start_at=video_trian"], "did you mean 'video_train"),
        (["run", "start_at=joint_train", "stop_after=image_pretrain"], "comes after"),
        (["run", "--seed", "x"], "--seed"),
        (["stage", "video_trian"], "did you mean 'video_train"),
        (["stage", "video_train", "start_at=video_train"], "start_at and stop_after belong to"),
        (["plan", "recipe=smok"], "did you mean 'smoke'"),
        (["rnu"], "did you mean 'run'"),
        ([], "COMMAND"),
        (["synth"], "--out"),
        (["synth", "--out", "x", "--images", "-1"], "expected 0 or more"),
        (["extract-frames", "--videos", "nowhere", "--out", "x"], "nowhere"),
        (["evaluate"], "--pred with --gt"),
        (["evaluate", "--predictions", "nowhere", "--truth", "."], "nowhere"),
        (["evaluate", "--checkpoint", "nowhere.pt", "--videos", "."], "nowhere.pt"),
        (["export", "nowhere.pt", "--out", "x.pt"], "nowhere.pt"),
        (["up", "--prefect-port", "99999"], "65535"),
        (["plan", "--memory", "-3"], "--memory: found -3, expected more than 0"),
        (
            ["predict", "x.jpg", "--checkpoint", "x.pt", "--out", "o", "--pont", "1,2"],
            "did you mean --point?",
        ),
        (["stage"], "required: NAME (see"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_misuse_is_one_line(arguments, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert told in said(capsys, main(arguments))


def test_an_unknown_nested_key_gets_one_hint(capsys):
    line = said(capsys, main(["plan", "stages.video_train.optm.lr=5"]))
    assert "did you mean 'optim'" in line and line.count("did you mean") == 1


def test_settings_and_options_come_in_any_order(words, capsys):
    assert main(["plan", words[0], "--seed", "3", *words[1:]]) == 0
    output = capsys.readouterr().out
    assert "seed=3" in output and words[-1] in output
    line = said(capsys, main(["clips", "video_train", "--rows", "4", "recipe=smok"]))
    assert "did you mean 'smoke'" in line
    assert "unrecognized arguments: --rosw" in said(capsys, main(["plan", "--rosw", "4"]))


def test_a_missing_earlier_stage_is_named_before_anything_starts(words, capsys, tmp_path):
    line = said(capsys, main(["run", *words, "start_at=joint_train"]))
    assert "video_train" in line and "stop_after=video_train" in line
    assert not (tmp_path / "state").exists(), "no server was started for it"


def test_a_missing_data_folder(words, capsys, tmp_path):
    root = tmp_path / "not there"
    line = said(capsys, main(["run", *words, f"datasets.pictures.root='{root}'"]))
    assert str(root) in line and "datasets.pictures.root=" in line


def test_missing_weights(words, capsys):
    assert "no file" in said(capsys, main(["run", *words, "checkpoint=nowhere.pt"]))


def test_weights_that_are_none_are_noticed_before_anything_is_made(words, capsys, tmp_path):
    (tmp_path / "page.pt").write_text("# Notes … and more\n" * 200, encoding="utf-8")
    line = said(capsys, main(["run", *words, f"checkpoint={tmp_path / 'page.pt'}"]))
    assert "page.pt is text, not a checkpoint" in line


def test_a_runs_folder_that_cannot_be_written(capsys, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert str(tmp_path / "file") in said(capsys, main(["run", f"runs={tmp_path / 'file'}"]))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_runs_folder_without_permission(capsys, tmp_path):
    tmp_path.chmod(0o500)
    try:
        assert "Permission denied" in said(capsys, main(["run", f"runs={tmp_path / 'runs'}"]))
    finally:
        tmp_path.chmod(0o700)


def test_a_full_disk_is_noticed_before_the_world_is_drawn(words, capsys, monkeypatch):
    usage = SimpleNamespace(total=10**9, used=10**9, free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    assert "free" in said(capsys, main(["run", *words]))


def test_a_disk_that_fills_up_later_is_one_line_too(capsys, monkeypatch, tmp_path):
    def full(*arguments, **named):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "x"))

    monkeypatch.setattr("flows.commands.recipe_names", full)
    assert "No space left on device" in said(capsys, main(["recipes"]))


def test_a_busy_port(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        others = [f"--{name}-port={free_port()}" for name in ("prefect", "tensorboard")]
        line = said(capsys, main(["up", *others, "--mlflow-port", str(port)]))
    assert str(port) in line and "SAM2_MLFLOW_PORT" in line
    assert not list((tmp_path / "state").glob("*.json")), "nothing was started"


def test_a_port_of_the_environment_that_is_none(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAM2_PREFECT_PORT", "web")
    assert "SAM2_PREFECT_PORT=web" in said(capsys, main(["up"]))


def test_a_prefect_server_that_does_not_answer(words, capsys, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    assert "PREFECT_API_URL=http://127.0.0.1:9/api" in said(capsys, main(["run", *words]))


def test_nothing_runs_at_first(capsys):
    assert main(["status"]) == 1
    assert capsys.readouterr().out.count("not running") == 4
    assert main(["down"]) == 0


@pytest.mark.parametrize(
    "command",
    [
        "run",
        "stage",
        "plan",
        "recipes",
        "synth",
        "extract-frames",
        "evaluate",
        "predict",
        "export",
        "up",
        "down",
        "status",
    ],
)
def test_every_command_explains_itself(command, capsys):
    assert main([command, "--help"]) == 0
    assert command in capsys.readouterr().out


def test_recipes_and_plan(words, capsys):
    assert main(["recipes"]) == 0
    assert "smoke" in capsys.readouterr().out
    assert main(["plan", *words]) == 0
    assert "joint_train.evaluate" in capsys.readouterr().out


def test_synth_draws_a_world_once(tmp_path, capsys):
    arguments = [
        "--images",
        "2",
        "--videos",
        "1",
        "--val-images",
        "1",
        "--val-videos",
        "1",
        "--workers",
        "1",
    ]
    out: Path = tmp_path / "world"
    assert main(["synth", "--out", str(out), *arguments]) == 0
    assert (out / "world.json").is_file()
    assert main(["synth", "--out", str(out), *arguments]) == 0
    assert "was there already" in capsys.readouterr().out

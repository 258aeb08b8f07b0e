"""`convert` as a person types it."""

import pytest

from flows.cli import main
from tests.data import labels


def test_convert_and_what_it_says(tmp_path, capsys):
    root, out = labels.coco(tmp_path / "in"), tmp_path / "out"
    words = ["convert", "coco", str(root), "--out", str(out), "--workers", "1"]
    assert main([*words, "--to", "sa1b"]) == 0
    said = capsys.readouterr().out
    assert "1 item, 1 frame, 2 objects (cat 1, dog 1)" in said
    assert f"format=sa1b root={out}" in said
    assert main([*words, "--to", "folder"]) == 2
    assert "--again" in capsys.readouterr().err
    assert main([*words, "--to", "folder", "--again"]) == 0
    assert (
        main(
            ["doctor", "data=folder", f"root={out}", "--workers", "1", "--out", str(tmp_path / "d")]
        )
        == 0
    )


def test_malformed_items_are_listed(tmp_path, capsys):
    for name in ("a", "b", "c"):
        labels.labelme(tmp_path / "in", name)
    for name in ("a", "b"):
        (tmp_path / "in" / f"{name}.jpg").unlink()
    words = ["convert", "labelme", str(tmp_path / "in"), "--to", "folder", "--workers", "1"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all(line.startswith("error: ") for line in lines)
    assert main([*words, "--out", str(tmp_path / "out"), "--skip-broken"]) == 0
    assert capsys.readouterr().out.count("left out: ") == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["cvat", "x", "--to", "davis"], "cvat"),
        (["coco", "nowhere", "--to", "davis"], "nowhere"),
        (["coco", "in", "--to", "mose"], "mose"),
        (["coco", "in"], "--to"),
        (["masks", "in", "--to", "davis", "--split", "val"], "--split"),
        (["coco", "in", "--to", "davis", "--videos"], "--videos"),
        (
            ["coco", "in", "--to", "davis", "--workers", "0"],
            "--workers: found 0, expected 1 or more",
        ),
        (["coco", "in", "--to", "davis"], "holds 0 such json files"),
        (["yolo", "in", "--to", "davis"], "data.yaml"),
        (["labelme", "in", "--to", "davis"], "holds no json"),
        (["masks", "in", "--to", "davis"], "images: found no such folder"),
    ],
)
def test_misuse_is_one_line(tmp_path, words, told, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    assert main(["convert", *words, "--out", "out"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and told in lines[0]

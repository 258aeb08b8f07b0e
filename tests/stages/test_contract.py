"""A key says what work it is; a folder says whether that work is done."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import StageError
from stages.contract import (
    CheckpointRef,
    StageResult,
    StageSpec,
    read_result,
    read_spec,
    write_result,
    write_spec,
)

WEIGHTS = CheckpointRef("runs:/1/checkpoints/model.pt", "ab" * 32, "image_pretrain", 900, "1")
SPEC = StageSpec(
    name="video_train",
    kind="video_train",
    settings={"seed": 0, "stage": {"steps": 9, "optim": {"lr": 0.1}}},
    folder="/runs/a/video_train",
    tracking={"uri": "sqlite:///a.db"},
    input=WEIGHTS,
    upstream={"world": "11", "extract_frames": "22"},
)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "video_train_2"},
        {"kind": "finetune"},
        {"settings": {"seed": 1, "stage": {"steps": 9, "optim": {"lr": 0.1}}}},
        {"settings": {"seed": 0, "stage": {"steps": 9, "optim": {"lr": 0.2}}}},
        {"input": replace(WEIGHTS, sha256="cd" * 32)},
        {"input": None},
        {"upstream": {"world": "11", "extract_frames": "23"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_decides_the_result_decides_the_key(change):
    assert replace(SPEC, **change).key != SPEC.key


@pytest.mark.parametrize(
    "change",
    [
        {"folder": "/elsewhere"},
        {"tracking": {}},
        {"input": replace(WEIGHTS, uri="/a/copy.pt", run_id="2", step=3)},
        {"settings": {"stage": {"optim": {"lr": 0.1}, "steps": 9}, "seed": 0}},
        {"upstream": {"extract_frames": "22", "world": "11"}},
    ],
    ids=["folder", "tracking", "place of the input", "order of settings", "order of upstream"],
)
def test_where_it_happens_does_not(change):
    assert replace(SPEC, **change).key == SPEC.key


def test_spec_and_result_survive_the_disk(tmp_path: Path):
    spec = replace(SPEC, folder=str(tmp_path))
    assert read_spec(write_spec(spec)) == spec and read_spec(write_spec(spec)).key == spec.key
    result = StageResult("video_train", spec.key, "ef", {"loss": 1.5}, WEIGHTS, {"a": "/b"}, "3", 9)
    write_result(tmp_path, result)
    assert read_result(tmp_path) == read_result(tmp_path, spec.key) == result
    without = replace(SPEC, folder=str(tmp_path), input=None)
    assert read_spec(write_spec(without)).input is None


def test_a_sequence_in_the_settings_keeps_its_key(tmp_path: Path):
    spec = replace(SPEC, folder=str(tmp_path), settings={"betas": (0.9, 0.99)})
    assert read_spec(write_spec(spec)).key == spec.key


def test_work_of_another_key_is_not_taken(tmp_path: Path):
    assert read_result(tmp_path, SPEC.key) is None, "nothing was done yet"
    write_result(tmp_path, StageResult("video_train", SPEC.key, "ef"))
    other = replace(SPEC, settings={"seed": 5})
    assert read_result(tmp_path, other.key) is None
    assert read_result(tmp_path, SPEC.key) is not None


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "cannot be read"),
        ("", "cannot be read"),
        ("[1]", "holds list"),
        ('{"stage": "x"}', "not a stage result"),
        (json.dumps({"stage": "x", "key": "k", "digest": "d", "extra": 1}), "extra"),
        (json.dumps({"stage": "x", "key": "k", "digest": "d", "checkpoint": {"uri": 1}}), "sha256"),
    ],
)
def test_a_broken_result_is_named(tmp_path: Path, content: str, told: str):
    (tmp_path / "done.json").write_text(content)
    with pytest.raises(StageError, match=told) as caught:
        read_result(tmp_path)
    assert str(tmp_path / "done.json") in str(caught.value) and "delete" in str(caught.value)


def test_a_broken_or_missing_spec_is_named(tmp_path: Path):
    with pytest.raises(StageError, match=r"spec\.json cannot be read"):
        read_spec(tmp_path / "spec.json")
    (tmp_path / "spec.json").write_text('{"name": "x"}')
    with pytest.raises(StageError, match="not a stage spec"):
        read_spec(tmp_path / "spec.json")

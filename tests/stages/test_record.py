"""The MLflow run of a stage says what it does, with what, and nothing secret."""

from dataclasses import asdict
from pathlib import Path

import yaml

from data.sources import open_listing
from data.spec import DatasetSpec
from pipeline.journal import RECORD, read_lines
from stages.contract import CheckpointRef, StageSpec
from stages.record import open_stage_run
from tests.data import lookalikes as like


def test_a_stage_is_recorded_whole_and_without_secrets(tmp_path: Path):
    root = like.davis(tmp_path / "davis")
    clips = asdict(DatasetSpec(format="davis", root=str(root)))
    settings = {
        "seed": 3,
        "stage": {
            "validation": {"max_images": 5, "max_videos": 2},
            "note": "s3://me:secret@host/x",
        },
        "data": {"clips": clips},
        "validation": {"videos": clips},
        "store": {"secret_key": "abc"},
    }
    given = CheckpointRef("https://me:secret@host/m.pt", "e" * 64, "image", 4, "")
    spec = StageSpec(
        "joint", "joint_train", settings, str(tmp_path / "run" / "joint"), {"uri": ""}, given
    )
    open_stage_run(spec).close()
    entries = list(read_lines(tmp_path / "run" / "joint" / RECORD))
    opened = entries[0]
    assert opened["params"]["seed"] == "3" and opened["params"]["store.secret_key"] == "***"
    tags = opened["tags"]
    assert tags["stage"] == "joint" and tags["input.sha256"] == "e" * 64
    assert tags["input.uri"] == "https://***@host/m.pt" and tags["env.python"]
    assert "first 5 pictures and 2 videos" in tags["validation.protocol"]
    assert "SA-V" in tags["validation.protocol"] and tags["code.version"]
    found = {entry["name"]: entry["digest"] for entry in entries if entry["kind"] == "data"}
    assert set(found) == {"clips", "validation.videos"}
    assert found["clips"] == open_listing(DatasetSpec(**clips)).digest
    config = (tmp_path / "run" / "joint" / "config.yaml").read_text()
    assert yaml.safe_load(config)["stage"]["note"] == "s3://***@host/x"
    for file in (tmp_path / "run" / "joint").iterdir():
        assert "me:secret" not in file.read_text() and '"abc"' not in file.read_text()
    assert entries[-1]["kind"] == "end"

"""Versions and aliases of checkpoints, in a real store."""

from pathlib import Path

import pytest

from pipeline.errors import StorageError
from pipeline.registry import (
    move_alias,
    register,
    tag_version,
    version_at,
    version_numbered,
    version_of,
)
from pipeline.tracking import open_run, publish_checkpoint

MODEL = "sam2-micro"


@pytest.fixture
def uri(store: str) -> str:
    return store


def test_a_checkpoint_is_registered_once_and_an_alias_points_at_one(uri: str, tmp_path: Path):
    run = open_run(uri, "sam2", "image", "key", tmp_path / "stage")
    (tmp_path / "model.pt").write_bytes(b"weights")
    source, digest = publish_checkpoint(run, tmp_path / "model.pt")
    run.close()
    assert version_at(uri, MODEL, "joint") is None
    assert version_of(uri, MODEL, digest) is None
    tags = {"stage": "image", "password": "x"}
    first = register(uri, MODEL, source, sha256=digest, run_id=run.run_id, tags=tags)
    again = register(uri, MODEL, source, sha256=digest, run_id=run.run_id, tags={"stage": "joint"})
    assert again == first
    other = register(uri, MODEL, "s3://bucket/x.pt", sha256="0" * 64, run_id="", tags={})
    assert other != first
    for number in (first, other, other):
        move_alias(uri, MODEL, "joint", number)
    held = version_at(uri, MODEL, "joint")
    assert held is not None and (held.version, held.source) == (other, "s3://bucket/x.pt")
    assert held.run_id == "" and held.sha256 == "0" * 64
    found = version_of(uri, MODEL, digest, run.run_id)
    assert found is not None and found == version_numbered(uri, MODEL, first)
    assert (found.source, found.run_id, found.sha256) == (source, run.run_id, digest)
    assert (found.tags["stage"], found.tags["password"]) == ("joint", "***")
    tag_version(uri, found, {"judged.joint": "kept"})
    assert version_numbered(uri, MODEL, first).tags["judged.joint"] == "kept"
    assert version_numbered(uri, MODEL, 99) is None


def test_equal_content_of_two_runs_is_two_versions(uri: str, tmp_path: Path):
    numbers = []
    for name in ("a", "b"):
        run = open_run(uri, "sam2", "image", "same key", tmp_path / name)
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "model.pt").write_bytes(b"equal")
        source, digest = publish_checkpoint(run, tmp_path / name / "model.pt")
        run.close()
        numbers.append(register(uri, MODEL, source, sha256=digest, run_id=run.run_id, tags={}))
    assert len(set(numbers)) == 2
    # where the run is not known, the content decides
    assert register(uri, MODEL, source, sha256=digest, run_id="", tags={}) == min(numbers)


def test_a_local_path_is_a_source_too(uri: str, tmp_path: Path):
    number = register(uri, MODEL, str(tmp_path / "m.pt"), sha256="1" * 64, run_id="", tags={})
    assert version_numbered(uri, MODEL, number).source == str(tmp_path / "m.pt")


def test_a_store_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    down = "http://127.0.0.1:9"
    with pytest.raises(StorageError, match=r"sam2-micro at http://127.0.0.1:9"):
        register(down, MODEL, "s3://b/x", sha256="2" * 64, run_id="", tags={})
    with pytest.raises(StorageError, match="joint could not be moved"):
        move_alias(down, MODEL, "joint", 1)
    with pytest.raises(StorageError, match="cannot be read"):
        version_at(down, MODEL, "joint")

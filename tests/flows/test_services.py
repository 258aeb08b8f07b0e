"""What `up` tells the services it starts."""

from pathlib import Path

import pytest

from flows import services
from flows.deployments import worker_online
from pipeline.errors import StageError


def test_files_of_runs_lie_beside_the_database_or_where_they_are_wanted(tmp_path, monkeypatch):
    for given, found in {
        "": str(tmp_path / "artifacts"),
        "kept": str(Path("kept").absolute()),
        "file:///data/kept": "/data/kept",
        "s3://bucket/sam2": "s3://bucket/sam2",
    }.items():
        monkeypatch.setenv("SAM2_ARTIFACTS", given)
        assert services._artifacts(tmp_path) == found


def test_a_prefect_server_that_falls_silent_is_one_line():
    with pytest.raises(StageError, match=r"127\.0\.0\.1:9/api .*run `sam2-pipeline up` again"):
        worker_online("http://127.0.0.1:9/api")

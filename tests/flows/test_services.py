"""What `up` tells the services it starts."""

from pathlib import Path

from flows import services


def test_files_of_runs_lie_beside_the_database_or_where_they_are_wanted(tmp_path, monkeypatch):
    for given, found in {
        "": str(tmp_path / "artifacts"),
        "kept": str(Path("kept").absolute()),
        "file:///data/kept": "/data/kept",
        "s3://bucket/sam2": "s3://bucket/sam2",
    }.items():
        monkeypatch.setenv("SAM2_ARTIFACTS", given)
        assert services._artifacts(tmp_path) == found

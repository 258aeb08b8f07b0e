"""Weights by the names that people give them."""

import pytest

from flows.weights import local_weights
from pipeline import registry
from pipeline.errors import CheckpointError, ConfigError
from pipeline.storage import sha256


def test_files_folders_and_the_registry(tmp_path, monkeypatch):
    file = tmp_path / "a.pt"
    file.write_bytes(b"weights")
    assert local_weights(str(file), tmp_path) == file
    assert local_weights(str(tmp_path), tmp_path) == tmp_path
    version = registry.Version("sam2-tiny", 3, str(file), sha256(file), "")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://lab:5000")
    asked = {"http://lab:5000": version}
    monkeypatch.setattr(registry, "version_at", lambda uri, model, alias: asked[uri])
    monkeypatch.setattr(registry, "version_numbered", lambda uri, model, number: None)
    assert local_weights("models:/sam2-tiny@joint", tmp_path) == file
    with pytest.raises(CheckpointError, match="no such version"):
        local_weights("models:/sam2-tiny/7", tmp_path)
    with pytest.raises(ConfigError, match="models:/NAME@ALIAS"):
        local_weights("models:/sam2-tiny", tmp_path)
    file.write_bytes(b"others")
    with pytest.raises(CheckpointError, match="sha256"):
        local_weights("models:/sam2-tiny@joint", tmp_path)

"""What tests of the pipeline share: one MLflow database, which takes seconds to make."""

import pytest

from pipeline.tracking import prepare_store


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a store with the experiment `sam2`."""
    folder = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{folder / 'deep' / 'mlflow.db'}"
    first = prepare_store(uri, "sam2", folder / "artifacts")
    assert prepare_store(uri, "sam2", folder / "artifacts") == first
    return uri

"""What all tests share: the folder of real data, where there is one, and what takes seconds to make."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.environment import quiet
from tests.cluster import cluster, slurm_daemons  # noqa: F401 - fixtures of several folders
from tests.zygote import Zygote

quiet()  # as every entry point does, before anything large is imported


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Real frames, masklets and clips that are not part of the repository; skips where they are absent."""
    path = Path(os.environ.get("SAM2_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not (path / "data").is_dir():
        pytest.skip(
            f"no real data at {path}: set SAM2_SHARED to the folder that holds data/davis and data/sav"
        )
    return path


@pytest.fixture(scope="session")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    """The warm process that jobs of several ranks are forked from."""
    found = Zygote(tmp_path_factory.mktemp("zygote"))
    yield found
    found.close()


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of an MLflow store with the experiment `sam2`; it takes seconds to make."""
    from pipeline.tracking import prepare_store  # imports MLflow, which few tests need

    folder = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{folder / 'deep' / 'mlflow.db'}"
    first = prepare_store(uri, "sam2", folder / "artifacts")
    assert prepare_store(uri, "sam2", folder / "artifacts") == first
    return uri


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Manifests and cached files of the tests, and of the processes they start, stay apart from the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAM2_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield

"""A world just large enough to read every format from it."""

from pathlib import Path

import pytest

from data.sources import open_dataset
from data.spec import DatasetSpec
from data.world.spec import WorldSpec
from data.world.world import make_world
from pipeline.cache import SHARED

SPEC = WorldSpec(
    train_images=7,
    val_images=3,
    train_videos=3,
    val_videos=2,
    davis_train_videos=1,
    frames=28,
    width=96,
    height=64,
)


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory) -> Path:
    return make_world(SPEC, tmp_path_factory.mktemp("tiny") / "world", workers=1).root


@pytest.fixture(autouse=True)
def _cold_cache():
    SHARED.clear()


@pytest.fixture
def pictures(tiny_world):
    return open_dataset(DatasetSpec(format="sa1b", root=str(tiny_world / "sa1b/train")))


@pytest.fixture
def videos(tiny_world):
    return open_dataset(DatasetSpec(format="sav", root=str(tiny_world / "sav/train")))

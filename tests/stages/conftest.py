"""One tiny world and one chain of tiny stages, made once and looked at by many tests."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.stop import reset_stop
from pipeline.tracking import prepare_store
from stages.contract import CheckpointRef, StageResult, StageSpec, read_result, write_spec
from stages.job import run_stage
from stages.recipe import PlannedStage, load_recipe, plan

TINY = [
    "recipe=smoke",
    "world.train_images=8",
    "world.val_images=3",
    "world.train_videos=3",
    "world.val_videos=2",
    "world.davis_train_videos=0",
    "world.frames=16",
    "world.width=96",
    "world.height=64",
    *(f"stages.{name}.steps=4" for name in ("image_pretrain", "video_train", "joint_train")),
    *(f"stages.{name}.loop.log_every=2" for name in ("image_pretrain", "video_train")),
    *(f"stages.{name}.mixture.image_batch=4" for name in ("image_pretrain", "joint_train")),
    *(f"stages.{name}.mixture.video_batch=2" for name in ("video_train", "joint_train")),
    *(f"stages.{name}.sampling.frames=3" for name in ("video_train", "joint_train")),
]


@dataclass(frozen=True)
class Workshop:
    """A planned recipe whose stages a test runs one by one, in this process."""

    folder: Path
    planned: Mapping[str, PlannedStage]
    uri: str

    def spec(
        self,
        name: str,
        given: CheckpointRef | None = None,
        *,
        place: str = "",
        experiment: str = "tests",
        **settings: Any,
    ) -> StageSpec:
        """The stage `name` of the recipe. place: its folder in the run, by default its name."""
        stage = self.planned[name]
        return StageSpec(
            name=name,
            kind=stage.kind,
            settings={**deepcopy(dict(stage.settings)), **settings},
            folder=str(self.folder / (place or name)),
            tracking={"uri": self.uri, "experiment": experiment},
            input=given,
        )

    def run(self, spec: StageSpec) -> StageResult:
        """Run `spec` as its job would."""
        run_stage(str(write_spec(spec)))
        result = read_result(spec.folder, spec.key)
        assert result is not None
        return result


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Also for what is made once a session: sums over another number of threads differ in their last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def quiet_process() -> Iterator[None]:
    """No request to stop from another test."""
    reset_stop()
    yield
    reset_stop()


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """The world is drawn and its frames are extracted."""
    runs = tmp_path_factory.mktemp("runs")
    recipe = load_recipe([*TINY, f"runs={runs}", "run_name=tiny"])
    uri = recipe.tracking_uri
    prepare_store(uri, "tests", runs / "artifacts")
    prepare_store(uri, "others", runs / "artifacts")
    shop = Workshop(recipe.folder, {stage.name: stage for stage in plan(recipe)}, uri)
    for name in ("world", "extract_frames"):
        shop.run(shop.spec(name))
    return shop


@pytest.fixture(scope="session")
def pretrained(workshop: Workshop) -> StageResult:
    """The first training stage, done."""
    return workshop.run(workshop.spec("image_pretrain"))


@pytest.fixture(scope="session")
def tracked(workshop: Workshop, pretrained: StageResult) -> StageResult:
    """The second one, from the weights of the first."""
    return workshop.run(workshop.spec("video_train", pretrained.checkpoint))

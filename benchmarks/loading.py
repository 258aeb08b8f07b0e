"""Batches from disk without worker processes: extracted frames against videos, and both against a step."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from benchmarks.measure import Row, compare, threads
from data.extract_many import extract_many
from data.mixture import TrainingClips, loader
from data.sources import open_dataset
from data.sources.sav import list_videos
from data.spec import DatasetSpec
from data.world.spec import WorldSpec
from data.world.world import make_world
from pipeline.cache import SHARED
from stages.recipe import Recipe, load_recipe
from stages.settings import TrainStage

BATCHES = 4
WORLD = WorldSpec(
    train_images=24, val_images=0, train_videos=6, val_videos=0, davis_train_videos=0, frames=40
)


def loader_rows() -> list[Row]:
    """Draw a small world and read batches of the smoke recipe from it."""
    recipe = load_recipe(["recipe=smoke"])
    with tempfile.TemporaryDirectory() as folder, threads(1):
        world = make_world(WORLD, Path(folder) / "world", workers=1)
        videos = DatasetSpec(format="sav", root=str(world.path("sav")))
        frames = Path(folder) / "frames"
        extract_many(list_videos(videos), frames)
        extracted = DatasetSpec(format="sav", root=videos.root, frames=str(frames))
        pictures = DatasetSpec(format="sa1b", root=str(world.path("sa1b")))
        image_stage, clip_stage = _stage(recipe, "image_pretrain"), _stage(recipe, "video_train")
        return [
            compare(
                f"batch of {clip_stage.mixture.video_batch} clips",
                ("extracted frames", _reader(recipe, clip_stage, extracted)),
                ("decoding the mp4", _reader(recipe, clip_stage, videos)),
                pairs=5,
                note=f"{BATCHES} batches a turn, 192x128 to 96 px, 0 workers, nothing cached",
            ),
            compare(
                f"batch of {image_stage.mixture.image_batch} pictures",
                ("decoded before", _reader(recipe, image_stage, pictures, keep=True)),
                ("first time", _reader(recipe, image_stage, pictures)),
                pairs=5,
                note=f"{BATCHES} batches a turn, 0 workers",
            ),
        ]


def _reader(
    recipe: Recipe, stage: TrainStage, data: DatasetSpec, *, keep: bool = False
) -> Callable[[], None]:
    """Reads BATCHES batches. keep: what was decoded the last time may still be there."""
    dataset = open_dataset(data)

    def read() -> None:
        if not keep:
            SHARED.clear()
        clips = TrainingClips(
            {"data": dataset},
            mixture=stage.mixture,
            sampling=stage.sampling,
            augment=stage.augment,
            image_size=recipe.model.image_size,
            seed=0,
        )
        batches = loader(clips, start_step=0, stop_step=BATCHES)
        for _ in islice(batches, BATCHES):
            pass

    return read


def _stage(recipe: Recipe, name: str) -> TrainStage:
    stage = recipe.stages[name]
    assert isinstance(stage, TrainStage)
    return stage

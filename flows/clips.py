"""`clips`: what a training stage will see, as a picture."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from flows.recipe_data import spec_as_it_is
from pipeline.errors import ConfigError
from pipeline.storage import require_writable

if TYPE_CHECKING:
    from data.mixture import TrainingClips

SUFFIXES = (".jpg", ".jpeg", ".png")


def clips(arguments: argparse.Namespace) -> int:
    """`clips`: draw the samples of a step, or one sample under each change of its stage."""
    from PIL import Image

    from data.clip_sheet import clip_sheet, ways

    out: Path = arguments.out
    if out.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--out {out}: expected a name that ends in {', '.join(SUFFIXES)}")
    for name, least in (("step", 0), ("rows", 1), ("tile", 32)):
        if getattr(arguments, name) < least:
            raise ConfigError(f"--{name} {getattr(arguments, name)}: expected {least} or more")
    source, step = _source(arguments.stage, arguments.settings), arguments.step
    if arguments.ways:
        found = []
        for text, augment in ways(source.augment).items():
            source.augment = augment
            found.append((text, source.sample(step, 0)))
    else:
        found = [
            (
                f"step {step} slot {slot}\n{clip.dataset}\n{clip.name}\nframes {_numbers(clip.frame_numbers)}",
                clip,
            )
            for slot in range(min(arguments.rows, source.batch_size(step)))
            for clip in [source.sample(step, slot)]
        ]
    require_writable(out.parent, "folder of the picture")
    Image.fromarray(clip_sheet(found, arguments.tile)).save(out, quality=82)
    print(out)
    return 0


def _source(stage: str, settings: list[str]) -> TrainingClips:
    """The samples of a training stage of a recipe."""
    from data.mixture import TrainingClips
    from data.sources import open_dataset
    from pipeline.config import did_you_mean
    from stages.recipe import load_recipe
    from stages.settings import TrainStage

    recipe = load_recipe(settings)
    training = {name: s for name, s in recipe.stages.items() if isinstance(s, TrainStage)}
    if stage not in training:
        raise ConfigError(
            f"{recipe.name} has no training stage {stage!r}{did_you_mean(stage, training)}"
        )
    chosen = training[stage]
    return TrainingClips(
        {name: open_dataset(spec_as_it_is(recipe, name), name) for name in chosen.datasets},
        mixture=chosen.mixture,
        sampling=chosen.sampling,
        augment=chosen.augment,
        image_size=recipe.model.image_size,
        seed=recipe.seed,
    )


def _numbers(numbers: tuple[int, ...]) -> str:
    return f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else str(numbers[0])

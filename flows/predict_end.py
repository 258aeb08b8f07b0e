"""What follows when every video of a data set is predicted: its score, and a file for a server."""

from __future__ import annotations

from pathlib import Path

from flows.evaluate import print_scores
from flows.parts import progress_bar
from pipeline.errors import ConfigError, DataError
from stages.evaluation_settings import ZipStyle
from stages.prediction.spec import PredictSpec


def check_wishes(spec: PredictSpec, style: ZipStyle | None) -> None:
    """Raise ConfigError, before hours of work, where a score or a zip cannot follow."""
    from stages.predict import settled
    from stages.prediction.sources import find_items

    source = find_items(spec)
    if source.format is None:
        raise ConfigError(f"{spec.source} is no data set; --score and --zip are about its videos")
    layouts = settled(spec, source).layouts
    if style is not None and "palette" not in layouts:
        raise ConfigError("--zip packs palette pictures; add --format palette")
    if not (spec.masks and {"palette", "objects"} & set(layouts)):
        raise ConfigError("--score and --zip read pictures of masks; write palette or objects")


def conclude(spec: PredictSpec, *, score: bool, style: ZipStyle | None) -> None:
    """Score and pack what was predicted with `spec`, and say so."""
    from stages.evaluation.jf import Protocol
    from stages.evaluation.score_files import clear_scores
    from stages.evaluation.vos import SCORES, pack_dataset, score_dataset, write_dataset_scores
    from stages.predict import settled
    from stages.prediction.sources import find_items

    source = find_items(spec)
    dataset = source.dataset
    out = Path(spec.out)
    if score:
        clear_scores(out / SCORES)
        objects = "palette" not in settled(spec, source).layouts
        with progress_bar("J&F") as (bar, task):
            bar.update(task, total=len(dataset))
            scores = score_dataset(
                dataset, out, Protocol(), objects=objects, tell=lambda: bar.advance(task)
            )
        if scores is None:
            raise DataError(
                f"{spec.source} shows no more than the first mask of each object, so there is "
                "nothing to score against; its server has the rest (--zip)"
            )
        places = write_dataset_scores(scores, out)
        print_scores(scores)
        print(f"{out / SCORES}: {', '.join(Path(place).name for place in places.values())}")
    if style is not None:
        print(pack_dataset(dataset, out, style))

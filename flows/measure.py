"""A checkpoint on pictures and videos, outside of any recipe: by the usual measures, or by the protocols that are
named."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.jobs import launch_config
from flows.weights import local_weights
from pipeline.errors import ConfigError, DataError, StorageError
from pipeline.storage import read_json, require_writable, sha256

if TYPE_CHECKING:
    from pipeline.progress import Progress
    from pipeline.settings import LaunchConfig
    from stages.contract import StageResult
    from stages.evaluation_settings import Measurement

OF_PICTURES = ("clicks", "coco")
"""Protocols that read --images; the others read --videos."""


def measure_checkpoint(arguments: argparse.Namespace) -> int:
    """Measure what the words ask for; print every figure, how it was made, and where the files are."""
    config, more = launch_config(arguments), protocols_of(arguments)
    if arguments.split and arguments.images and arguments.videos:
        raise ConfigError("--split is a list of pictures or of videos; measure one at a time")
    result = measure(
        str(local_weights(arguments.checkpoint, arguments.runs)),
        arguments.out,
        images=arguments.images,
        videos=arguments.videos,
        split=arguments.split,
        preset=arguments.preset,
        image_size=arguments.image_size,
        device=arguments.device,
        more=more,
        config=config and replace(config, tasks_per_node=arguments.jobs),
    )
    width = max(map(len, (*result.metrics, *result.files)), default=0)
    for name, value in result.metrics.items():
        print(f"{name:<{width}}  {value:.4g}")
    for name, place in result.files.items():
        print(f"{name:<{width}}  {place}")
    for name, protocol in _protocols(result.files).items():
        print(f"{name}: {protocol}")
    return 0


def protocols_of(arguments: argparse.Namespace) -> Mapping[str, Measurement]:
    """The protocols of `--protocol KIND key=value …` by name: their kind, numbered where it is asked for again.

    Raises ConfigError for one that does not exist, a setting that does not fit, or missing data.
    """
    from pipeline.config import parse
    from stages.settings import Evaluation

    values: dict[str, Any] = {}
    for kind, *words in arguments.protocol:
        data = "images" if kind in OF_PICTURES else "videos"
        again = sum(one["kind"] == kind for one in values.values())
        name = f"{kind}{again + 1}" if again else kind
        values[name] = {**_settings(words, kind), "kind": kind, "dataset": data}
    found = parse(Evaluation, {"more": values}, where="--protocol").more
    for name, one in found.items():
        if getattr(arguments, one.dataset) is None:
            raise ConfigError(f"--protocol {name}: --{one.dataset} is missing, which it measures")
    return found


def _settings(words: Sequence[str], kind: str) -> dict[str, Any]:
    """`key=value` words as values."""
    import yaml

    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key or key in ("kind", "dataset"):
            raise ConfigError(f"--protocol {kind} {word}: expected a setting as key=value")
        try:
            found[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--protocol {kind} {word}: {value!r} is not a value") from error
    return found


def _protocols(files: Mapping[str, str]) -> dict[str, str]:
    """How the figures in an evaluation's files were made, by the name they begin with."""
    found = read_json(files["summary"]) or {}
    if "more" in files:
        found |= read_json(files["more"]) or {}
    return {
        name: f"{one['protocol']}; split {one['split'][:12]}" for name, one in found.items() if one
    }


def measure(
    checkpoint: str,
    out: Path,
    *,
    images: Path | None,
    videos: Path | None,
    split: Path | None = None,
    preset: str | None = None,
    image_size: int | None = None,
    device: str | None = None,
    more: Mapping[str, Measurement] | None = None,
    config: LaunchConfig | None = None,
) -> StageResult:
    """Run the evaluation stage on a checkpoint outside of any recipe; its results lie in `out`.

    split: a list of names, or COCO's word for a part. preset: what the weights must be; their size is told by
    themselves. more: protocols that are measured in place of the usual; their `dataset` is `images` or `videos`.
    config: where it runs; by default in a process of its own. What was measured there before, of the same weights on
    the same data, is not measured again; after an interruption neither are the pictures and videos that were finished.
    """
    from flows.parts import progress_bar
    from pipeline.launch import launch
    from pipeline.settings import LaunchConfig
    from pipeline.tracking import fetch_checkpoint, prepare_store
    from stages.contract import CheckpointRef, StageSpec, read_result, write_spec
    from stages.data_identity import data_digests
    from stages.evaluation.kept import done_before
    from stages.job import run_stage
    from stages.settings import Evaluation

    data = {
        "images": _dataset(images, "images", split),
        "videos": _dataset(videos, "videos", split),
    }
    folder = require_writable(out, "output folder")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    weights = fetch_checkpoint(checkpoint, "", folder / "cache", uri)
    settings = {
        "model": None,
        "weights": {"expect": preset, "image_size": image_size},
        "seed": 0,
        "evaluation": asdict(Evaluation(device=device, more=more or {})),
        **({"images": None, "videos": None} if more else data),
        "more": {name: data[one.dataset] for name, one in (more or {}).items()},
    }
    spec = StageSpec(
        name="evaluate",
        kind="evaluate",
        settings=settings,
        folder=str(folder),
        tracking={"uri": uri, "experiment": "evaluate"},
        input=CheckpointRef(str(weights.resolve()), sha256(weights), "", 0, ""),
        upstream=data_digests(settings, []),
    )
    result = read_result(folder, spec.key)
    if result is None:
        for line in done_before(folder, spec.key):
            print(line)
        prepare_store(uri, "evaluate", folder / "artifacts")
        place, path = config or LaunchConfig(), str(write_spec(spec))
        with progress_bar("evaluating") as (bar, task):

            def look(progress: Progress | None) -> None:
                if progress:
                    bar.update(task, completed=progress.step, total=progress.total)

            launch(run_stage, path, folder, place, name="evaluate", key=spec.key, on_poll=look)
        result = read_result(folder, spec.key)
    if result is None:
        raise StorageError(f"the evaluation left no result in {folder}; see {folder / 'logs'}")
    return result


def _dataset(root: Path | None, option: str, split: Path | None) -> dict[str, Any] | None:
    """The data set in a folder, told by its layout."""
    from data.layout import video_layout
    from data.spec import DatasetSpec

    if root is None:
        return None
    folder = root.expanduser().absolute()
    if not folder.is_dir():
        raise DataError(f"--{option} {root}: there is no such folder")
    if option == "videos":
        kind = video_layout(folder) or "davis"
    else:
        kind = "coco" if (folder / "annotations").is_dir() else "sa1b"
    part = split and str(split.absolute() if split.is_file() else split)
    return asdict(DatasetSpec(format=kind, root=str(folder), split=part))  # type: ignore[arg-type]

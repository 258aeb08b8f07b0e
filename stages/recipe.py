"""A recipe: the whole of a run in one value, read from configs/ and checked before anything starts.

`Recipe` says what is trained on what, in which stages; `plan` turns it into the ordered list of stages a flow runs.
Importing this file loads no torch, so a wrong key is reported in a second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePath
from typing import Any

import configs
from data.spec import DatasetSpec
from data.world.spec import WorldSpec
from pipeline.config import compose, did_you_mean, parse
from pipeline.errors import ConfigError
from pipeline.redaction import require_no_secrets
from pipeline.settings import LaunchConfig
from pipeline.storage import is_remote, local_path
from stages.contract import TRAINING_KINDS, StageKind
from stages.settings import Evaluation, ExtractStage, ModelChoice, TrainStage

CONFIG_DIR = Path(configs.__file__).parent


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """Where runs are recorded."""

    uri: str | None = None
    """MLflow tracking URI; none means an SQLite file in the runs folder."""
    experiment: str = "sam2"
    artifacts: str | None = None
    """Folder or URL (`s3://bucket/sam2`) that takes checkpoints, past a server's proxy, and all
    files of a new experiment; none leaves it to the server, or takes the runs folder."""
    tolerance: float = 0.0
    """How much worse than the holder of a registry alias a checkpoint may be and still take it over:
    points of J&F, or hundredths of mIoU."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run from data to report."""

    name: str
    description: str = ""
    seed: int = 0
    runs: str = "runs"
    """Folder that holds every run, the worlds and the MLflow store."""
    run_name: str | None = None
    """Folder of this run below `runs`; by default the recipe's name and, when it is not 0, the seed."""
    checkpoint: str | None = None
    """Weights the first training stage starts from (file, URL or `runs:/…`); none starts from scratch."""
    model: ModelChoice = field(default_factory=ModelChoice)
    world: WorldSpec | None = None
    """A synthetic world to build first; data sets below it have a root that starts with `world:`."""
    datasets: Mapping[str, DatasetSpec] = field(default_factory=dict)
    stages: Mapping[str, ExtractStage | TrainStage] = field(default_factory=dict)
    evaluation: Evaluation | None = field(default_factory=Evaluation)
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    tracking: Tracking = field(default_factory=Tracking)

    def __post_init__(self) -> None:
        path = PurePath(self.run_name or "")
        if path.is_absolute() or ".." in path.parts:
            raise ConfigError(
                f"run_name={self.run_name} leaves the runs folder; give a name (for another place add runs=FOLDER)"
            )

    @property
    def runs_folder(self) -> Path:
        """Absolute folder of all runs."""
        return Path(self.runs).expanduser().resolve()

    @property
    def folder(self) -> Path:
        """Absolute folder of this run."""
        default = self.name if self.seed == 0 else f"{self.name}-seed{self.seed}"
        return self.runs_folder / (self.run_name or default)

    @property
    def tracking_uri(self) -> str:
        """The MLflow store this run writes to."""
        return self.tracking.uri or f"sqlite:///{self.runs_folder / 'mlflow.db'}"

    @property
    def world_folder(self) -> Path:
        """Where the synthetic world of this recipe lies; worlds of equal spec are shared between runs."""
        if self.world is None:
            raise ConfigError(
                f"recipe {self.name}: a data set's root starts with 'world:' but the recipe has no `world`; "
                "give a folder instead, or add a world"
            )
        return self.runs_folder / "worlds" / self.world.digest[:12]


@dataclass(frozen=True)
class PlannedStage:
    """A stage before it is known what earlier ones hand in."""

    name: str
    kind: StageKind
    settings: Mapping[str, Any]
    after: tuple[str, ...] = ()
    """Stages whose result digests enter this one's key."""
    checkpoint_from: str | None = None
    """The training stage whose checkpoint this one starts from or evaluates."""


def recipe_names() -> list[str]:
    """Every recipe that can be named on the command line."""
    return sorted(path.stem for path in (CONFIG_DIR / "recipe").glob("*.yaml"))


def load_recipe(overrides: Sequence[str]) -> Recipe:
    """Compose configs/config.yaml with `recipe=NAME key=value …` and check every value.

    Raises ConfigError naming the key, what was found and what was expected.
    """
    values = compose(CONFIG_DIR, "config", list(overrides))
    require_no_secrets(values)
    recipe = parse(Recipe, values, where="recipe")
    _check(recipe)
    return recipe


def resolve_dataset(recipe: Recipe, name: str) -> dict[str, Any]:
    """The data set `name` as plain values, its folders absolute."""
    values = asdict(recipe.datasets[name])
    for key in ("root", "frames"):
        if values.get(key):
            values[key] = str(_place(recipe, values[key]))
    return values


def plan(recipe: Recipe) -> list[PlannedStage]:
    """The stages of `recipe` in the order they run; each training stage is followed by its evaluation."""
    planned: list[PlannedStage] = []
    data_stages: list[str] = []
    if recipe.world is not None:
        settings = {"world": asdict(recipe.world), "folder": str(recipe.world_folder)}
        planned.append(PlannedStage("world", "make_world", settings))
        data_stages.append("world")

    trained: str | None = None
    measured: list[str] = []
    first_training = True
    for name, stage in recipe.stages.items():
        if isinstance(stage, ExtractStage):
            settings = {**asdict(stage), "data": resolve_dataset(recipe, stage.dataset)}
            planned.append(PlannedStage(name, "extract_frames", settings, after=tuple(data_stages)))
            data_stages.append(name)
            continue
        if first_training and recipe.evaluation is not None:
            planned.append(_evaluation(recipe, "start", None, data_stages))
            measured.append(planned[-1].name)
        first_training = False
        planned.append(
            PlannedStage(
                name, stage.kind, _train_settings(recipe, stage), tuple(data_stages), trained
            )
        )
        trained = name
        if recipe.evaluation is not None:
            planned.append(_evaluation(recipe, name, name, data_stages))
            measured.append(planned[-1].name)
    if measured:
        planned.append(
            PlannedStage("report", "report", _report_settings(recipe, measured), tuple(measured))
        )
    return planned


def select(
    planned: Sequence[PlannedStage], start_at: str | None, stop_after: str | None
) -> tuple[int, int]:
    """Positions [first, last) of the stages to run; evaluation belongs to the stage it follows.

    Raises ConfigError for an unknown name, or when the first lies after the last.
    """
    names = [stage.name for stage in planned]

    def position(name: str, argument: str) -> int:
        if name not in names:
            raise ConfigError(f"{argument}={name}: no such stage{did_you_mean(name, names)}")
        return names.index(name)

    first = position(start_at, "start_at") if start_at else 0
    last = len(names)
    if stop_after:
        last = position(stop_after, "stop_after") + 1
        if last < len(names) and names[last] == f"{stop_after}.evaluate":
            last += 1
    if first >= last:
        raise ConfigError(
            f"start_at={start_at} comes after stop_after={stop_after}; the order is {', '.join(names)}"
        )
    return first, last


def _evaluation(
    recipe: Recipe, name: str, trained: str | None, data_stages: list[str]
) -> PlannedStage:
    assert recipe.evaluation is not None
    settings = {
        "model": asdict(recipe.model),
        "seed": recipe.seed,
        "evaluation": asdict(recipe.evaluation),
        "images": resolve_dataset(recipe, recipe.evaluation.images)
        if recipe.evaluation.images
        else None,
        "videos": resolve_dataset(recipe, recipe.evaluation.videos)
        if recipe.evaluation.videos
        else None,
        "more": {
            key: resolve_dataset(recipe, one.dataset) for key, one in recipe.evaluation.more.items()
        },
    }
    return PlannedStage(f"{name}.evaluate", "evaluate", settings, tuple(data_stages), trained)


def _report_settings(recipe: Recipe, evaluations: list[str]) -> dict[str, Any]:
    assert recipe.evaluation is not None
    videos = recipe.evaluation.videos
    return {
        "run": recipe.folder.name,
        "recipe": recipe.name,
        "description": recipe.description,
        "seed": recipe.seed,
        "model": asdict(recipe.model),
        "evaluations": evaluations,
        "videos": resolve_dataset(recipe, videos) if videos else None,
    }


def _train_settings(recipe: Recipe, stage: TrainStage) -> dict[str, Any]:
    return {
        "model": asdict(recipe.model),
        "seed": recipe.seed,
        "stage": asdict(stage),
        "data": {name: resolve_dataset(recipe, name) for name in stage.datasets},
        "validation": {
            kind: resolve_dataset(recipe, name)
            for kind, name in (stage.validation.datasets if stage.validation else {}).items()
        },
    }


def _place(recipe: Recipe, path: str) -> Path | str:
    """`world:x` lies in the synthetic world, `run:x` in the folder of this run, anything else (also a URL) where it
    says."""
    if path.startswith("world:"):
        return recipe.world_folder / path.removeprefix("world:")
    if path.startswith("run:"):
        return recipe.folder / path.removeprefix("run:")
    return path if is_remote(path) else local_path(path).resolve()


def _check(recipe: Recipe) -> None:
    """What no single field can know."""
    known = list(recipe.datasets)
    wanted = [
        (f"stages.{name}", dataset)
        for name, stage in recipe.stages.items()
        for dataset in _datasets(stage)
    ]
    wanted += [
        (f"stages.{name}.validation.{kind}", dataset)
        for name, stage in recipe.stages.items()
        if isinstance(stage, TrainStage) and stage.validation is not None
        for kind, dataset in stage.validation.datasets.items()
    ]
    if recipe.evaluation is not None:
        wanted += [
            (f"evaluation.{kind}", dataset) for kind, dataset in recipe.evaluation.datasets.items()
        ]
    for where, dataset in wanted:
        if dataset not in recipe.datasets:
            raise ConfigError(
                f"{where} names the data set {dataset!r}, which is not in `datasets`{did_you_mean(dataset, known)}"
            )
    if not any(stage.kind in TRAINING_KINDS for stage in recipe.stages.values()):
        raise ConfigError(
            f"recipe {recipe.name}: no training stage in `stages`; expected one of {', '.join(TRAINING_KINDS)}"
        )


def _datasets(stage: ExtractStage | TrainStage) -> tuple[str, ...]:
    return (stage.dataset,) if isinstance(stage, ExtractStage) else stage.datasets

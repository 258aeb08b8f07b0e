"""What all training stages share: build the parts, train, record, hand the weights over.

`train` reads as the stage: network, data, optimiser, loop. Its checkpoints live in the stage's folder and continue
where they stopped; what travels to the next stage is one file of weights in the released format, published in MLflow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from data.mixture import TrainingClips, loader
from data.quarantine import Quarantine
from data.sources import open_dataset
from data.spec import DatasetSpec
from data.types import ClipBatch
from model.compile import compile_training
from model.lora import add_lora, merged
from model.losses import AREAS
from model.sam2 import SAM2, build_sam2
from model.weights import load_checkpoint, save_checkpoint
from pipeline import checkpoint, distributed
from pipeline.average import WeightAverage
from pipeline.board import Board
from pipeline.checkpoint import TrainState
from pipeline.config import parse
from pipeline.distributed import World
from pipeline.errors import ConfigError
from pipeline.loop import Hooks, StepLog, fit
from pipeline.optim import build_optimizer, freeze, parameter_table
from pipeline.precision import LossScale
from pipeline.progress import ProgressWriter
from pipeline.stop import StopRequested
from pipeline.storage import atomic_file
from pipeline.tracking import Run, fetch_checkpoint, publish_checkpoint
from stages.clip_task import ClipTask
from stages.contract import CheckpointRef, StageResult, StageSpec
from stages.feature_cache import FeatureCache, feature_files
from stages.memory_plan import fit_stage
from stages.overlay import training_picture
from stages.record import open_stage_run
from stages.settings import ModelChoice, TrainStage
from stages.sharding import shard_trunk, whole
from stages.validation import Measure, Validator

PICTURES = 4
"""Overlay pictures drawn for TensorBoard over a stage."""


def train(spec: StageSpec) -> StageResult | None:
    """Run, or continue, the training stage `spec`; rank 0 returns its published weights."""
    stage = parse(TrainStage, spec.settings["stage"], where=spec.name)
    seed, folder = int(spec.settings["seed"]), Path(spec.folder)
    world = distributed.init()
    stage = mirrored(spec, fitted(spec, stage, world))
    clips = TrainingClips(
        {
            name: open_dataset(parse(DatasetSpec, values, where=name))
            for name, values in spec.settings["data"].items()
        },
        mixture=stage.mixture,
        sampling=stage.sampling,
        augment=stage.augment,
        image_size=spec.settings["model"]["image_size"],
        seed=seed,
    )
    quarantine = clips.quarantine(folder / "broken_samples", world.rank)
    model = build_model(spec, stage.drop_path, stage.dropout).to(world.device).train()
    freeze(model, stage.freeze)
    if stage.lora is not None:
        add_lora(model, stage.lora)
    if world.is_first:
        print(parameter_table(model, split=["image_encoder"]))
    features = kept_features(spec, stage, model)
    if stage.compile:
        compile_training(model, trunk=features is None, graphs=stage.compile == "graphs")
    sharding = shard_trunk(world, model) if stage.shard and world.size > 1 else None
    shards = sharding.shards if sharding else None
    optimizer, rates = build_optimizer(model, stage.optim, stage.steps, layers_above(model), shards)
    state = TrainState(
        model,
        optimizer,
        rates,
        scale=LossScale(world.device) if stage.precision == "fp16" else None,
        average=WeightAverage(model, stage.optim.average, shards) if stage.optim.average else None,
        sharding=sharding,
    )
    checkpoint.resume(state, folder / "checkpoints", world, mirror=stage.loop.mirror)

    task = ClipTask(
        model,
        stage.prompts,
        stage.loss,
        seed=seed,
        world=world,
        precision=stage.precision,
        savings=stage.memory,
        features=features,
        sharded=sharding is not None,
        graphs=stage.compile == "graphs",
    )
    batches = loader(
        clips,
        start_step=state.step * stage.loop.accumulate,
        stop_step=stage.steps * stage.loop.accumulate,
        rank=world.rank,
        world=world.size,
        workers=stage.workers,
        quarantine=quarantine,
    )
    log = StageLog(spec, world, quarantine, total=stage.steps, start=state.step)
    try:
        return run_to_end(spec, stage, task, clips, batches, state, world, log)
    finally:
        distributed.shutdown()


def run_to_end(
    spec: StageSpec,
    stage: TrainStage,
    task: ClipTask,
    clips: TrainingClips,
    batches: Iterable[ClipBatch],
    state: TrainState,
    world: World,
    log: StageLog,
) -> StageResult | None:
    """Train from where `state` stands to the stage's last step, validate on the way, hand over."""
    pictures = (max(1, stage.steps // PICTURES), log.picture_of(task, clips))
    status = "FAILED"
    try:
        validator = build_validator(spec, stage, world, log)
        validations = [(validator.config.every, validator)] if validator is not None else []
        if validator is not None and state.step == 0:
            validator(state)
        fit(
            task,
            batches,
            state,
            stage.loop,
            total=stage.steps,
            clip=stage.optim.clip,
            folder=Path(spec.folder) / "checkpoints",
            seed=task.seed,
            world=world,
            hooks=Hooks(log=log.step, every=[pictures, *validations]),
        )
        if validator is not None and state.step % validator.config.every:
            validator(state)
        chosen = validator.chosen(state) if validator is not None else None
        result = hand_over(spec, state, log.run, chosen)
        status = "FINISHED"
    except (StopRequested, KeyboardInterrupt):
        status = "KILLED"
        raise
    finally:
        log.close(status)
    return result


def fitted(spec: StageSpec, stage: TrainStage, world: World) -> TrainStage:
    """The stage as it fits into `memory_gb`; as it is where none is given. Raises ConfigError with
    numbers where nothing fits."""
    if stage.memory_gb is None:
        return stage
    plan, problem = None, ""
    if world.is_first:
        try:
            plan = fit_stage(spec.name, spec.settings, world.size, spec.folder)
            print(f"memory: {plan}")
        except ConfigError as error:
            problem = str(error)
    plan, problem = world.share((plan, problem))
    if plan is None:
        raise ConfigError(problem)
    return plan.applied(stage)


def mirrored(spec: StageSpec, stage: TrainStage) -> TrainStage:
    """The stage with a place of its own below `loop.mirror`, where that is given."""
    if not stage.loop.mirror:
        return stage
    place = f"{stage.loop.mirror.rstrip('/')}/{spec.name}-{spec.key[:12]}"
    return replace(stage, loop=replace(stage.loop, mirror=place))


def kept_features(spec: StageSpec, stage: TrainStage, model: SAM2) -> FeatureCache | None:
    """Where the stage keeps what its frozen image encoder says, if it does. Raises ConfigError
    when a part of the encoder is trained."""
    if not stage.cache_features:
        return None
    try:
        return FeatureCache(model, feature_files(), stage.precision)
    except ConfigError as error:
        raise ConfigError(f"stages.{spec.name}.{error}") from error


def build_validator(
    spec: StageSpec, stage: TrainStage, world: World, log: StageLog
) -> Validator | None:
    """What measures the stage while it trains, where the recipe asks for it."""
    if stage.validation is None:
        return None
    datasets = {
        kind: open_dataset(parse(DatasetSpec, values, where=kind))
        for kind, values in spec.settings["validation"].items()
    }
    measure = Measure(stage.validation, datasets, world)
    return Validator(measure, stage.validation, world, spec.folder, log.validation)


def build_model(spec: StageSpec, drop_path: float = 0.0, dropout: float | None = None) -> SAM2:
    """The network of the recipe with the weights of `spec.input`, or freshly initialised from the seed."""
    choice = parse(ModelChoice, spec.settings["model"], where="model")
    config = choice.config(drop_path, dropout)
    torch.manual_seed(int(spec.settings["seed"]))
    model = build_sam2(config)
    if spec.input is not None:
        cache = Path(spec.folder) / "input"
        file = fetch_checkpoint(
            spec.input.uri, spec.input.sha256, cache, str(spec.tracking.get("uri", ""))
        )
        load_checkpoint(file, model)
    return model


def layers_above(model: SAM2) -> Any:
    """For layer decay: how many trunk layers lie above a parameter; position maps and the rest count none.

    The reference counts the patch embedding as layer 0 and block k as layer k + 1 of blocks + 1.
    """
    blocks = sum(model.config.trunk.depths)

    def above(name: str) -> int:
        inner = name.removeprefix("image_encoder.trunk.")
        if inner == name or "pos_embed" in inner:
            return 0
        layer = int(inner.split(".")[1]) + 1 if inner.startswith("blocks.") else 0
        return blocks + 1 - layer

    return above


def require_kinds(spec: StageSpec, wanted: set[str]) -> None:
    """Raise ConfigError unless the data sets of `spec` are exactly of the `wanted` kinds."""
    kinds = {
        name: parse(DatasetSpec, values, where=name).kind
        for name, values in spec.settings["data"].items()
    }
    if set(kinds.values()) != wanted:
        found = ", ".join(f"{name} ({kind})" for name, kind in kinds.items()) or "none"
        raise ConfigError(
            f"stages.{spec.name}.datasets: found {found}; "
            f"a stage of kind {spec.kind} needs {' and '.join(sorted(wanted))} data"
        )


class StageLog:
    """Where a training stage says how it goes: progress file, TensorBoard, MLflow. Silent off rank 0."""

    def __init__(
        self, spec: StageSpec, world: World, quarantine: Quarantine, total: int, start: int
    ) -> None:
        self.spec, self.world, self.quarantine = spec, world, quarantine
        self.folder = Path(spec.folder)
        self.run: Run | None = None
        if not world.is_first:
            return
        self.progress = ProgressWriter(self.folder, total, start=start)
        self.board = Board(self.folder / "tensorboard", start)
        self.run = open_stage_run(spec)

    def step(self, log: StepLog) -> None:
        """Record what the loop says."""
        assert self.run is not None
        metrics = {**mean_by_area(log.metrics), "broken_samples": float(self.quarantine.count())}
        self.progress.update(log.step, metrics.get("loss"), metrics)
        self.board.scalars(log.step, metrics)
        self.run.log_metrics(log.step, metrics)

    def validation(self, step: int, found: Mapping[str, float]) -> None:
        """Record what a validation measured."""
        assert self.run is not None
        values = {f"validation/{name.replace('@', '_at_')}": v for name, v in found.items()}
        self.board.scalars(step, values)
        self.run.log_metrics(step, values, keep=True)

    def picture_of(self, task: ClipTask, clips: TrainingClips) -> Any:
        """A hook that draws the network's answers on one training batch."""

        def draw(state: TrainState) -> None:
            model = whole(state)
            if self.world.is_first:
                picture = training_picture(task.on(model), clips, state.step)
                self.board.image("training", picture, state.step)

        return draw

    def close(self, status: str) -> None:
        """End the MLflow run as `status` and flush the curves."""
        if self.run is not None:
            self.board.close()
            self.run.close(status)


def mean_by_area(metrics: Mapping[str, float]) -> dict[str, float]:
    """In place of `loss/area/SIZE` and `loss/answers/SIZE`, the loss of an answer about an object of
    that size; sizes that did not occur are left out."""
    found = dict(metrics)
    for size in AREAS:
        total, answers = (found.pop(f"loss/{what}/{size}", 0.0) for what in ("area", "answers"))
        if answers:
            found[f"loss/area/{size}"] = total / answers
    return found


def hand_over(
    spec: StageSpec, state: TrainState, run: Run | None, chosen: tuple[Path, int] | None = None
) -> StageResult | None:
    """Publish the weights, averaged ones where the stage keeps them, and describe them; every rank
    calls it, the one that has a `run` writes and answers.

    chosen: a file of weights and their step, in place of those of the end. Low-rank changes are
    merged. Raises CheckpointError for weights that are not finite.
    """
    file, step = Path(spec.folder) / "model.pt", state.step
    if chosen is not None and run is not None:
        step = chosen[1]
        with atomic_file(file) as copy:
            copy.write(chosen[0].read_bytes())
    elif chosen is None:
        with state.average.in_place() if state.average else nullcontext():
            model = whole(state)
            if run is not None:
                save_checkpoint(merged(model), file)
    if run is None:
        return None
    uri, digest = publish_checkpoint(run, file, spec.tracking.get("artifacts"))
    return StageResult(
        stage=spec.name,
        key=spec.key,
        digest=digest,
        checkpoint=CheckpointRef(uri, digest, spec.name, step, run.run_id),
        metrics={"steps": state.step, "skipped": state.skipped},
        files={"weights": str(file)},
        run_id=run.run_id,
        step=state.step,
    )

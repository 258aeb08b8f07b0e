"""Validation while a stage trains: measure on a fixed few items, remember the best, end in time.

Items are shared out over the ranks and put together again in their order, so the figures do not
depend on the number of ranks, and all ranks come to the same decision. Training is not touched:
modes are put back, and the loop draws all its randomness from the step.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from data.sources import Dataset
from model.image_predictor import ImagePredictor
from model.lora import merged
from model.sam2 import SAM2
from model.weights import save_checkpoint
from pipeline.checkpoint import TrainState
from pipeline.distributed import World
from pipeline.errors import StageError
from pipeline.staging import all_finite
from pipeline.storage import atomic_file, read_json, sha256, write_json
from stages.evaluation.image import ImageScores, evaluate_images
from stages.evaluation.jf import VideoScores
from stages.evaluation.summary import summarise
from stages.evaluation.video import evaluate_videos, sam2_tracker
from stages.sharding import whole
from stages.validation_settings import Validation

BEST_FILE, RECORD_FILE = "best.pt", "best.json"
GUARDED = "image/miou@1"
"""What the forgetting guard looks at."""
CLICKS = 3
logger = logging.getLogger(__name__)


class Measure:
    """The fixed items, and how they are scored."""

    def __init__(self, config: Validation, datasets: Mapping[str, Dataset], world: World) -> None:
        """datasets: opened, by `images`, `videos`, `occlusion`."""
        self.config, self.datasets, self.world = config, datasets, world

    def __call__(self, model: SAM2) -> dict[str, float]:
        """The figures by name, the same on every rank: `image/miou@1`, `video/jf` … and `seconds`.

        The model comes back as it was."""
        began = time.monotonic()
        found: dict[str, float] = {}
        with evaluating(model), torch.inference_mode():
            if pictures := self.datasets.get("images"):
                found |= summarise(images=self._pictures(model, pictures)).metrics()
            for kind, name in (("videos", "video"), ("occlusion", "occlusion")):
                if videos := self.datasets.get(kind):
                    scores = summarise(videos=self._videos(model, videos)).metrics()
                    found |= {key.replace("video/", f"{name}/"): v for key, v in scores.items()}
        return found | {"seconds": time.monotonic() - began}

    def _pictures(self, model: SAM2, dataset: Dataset) -> ImageScores:
        predictor = ImagePredictor(model)
        limit = self.config.max_images
        return evaluate_images(
            predictor, dataset, clicks=CLICKS, limit=limit, progress=False, world=self.world
        )

    def _videos(self, model: SAM2, dataset: Dataset) -> VideoScores:
        return evaluate_videos(
            sam2_tracker(model),
            dataset,
            limit=self.config.max_videos,
            every_frame=False,
            progress=False,
            world=self.world,
        )


@dataclass(frozen=True)
class Verdict:
    """What a validation means for the training."""

    better: bool
    """The best so far, among those that had not forgotten where that matters."""
    forgot: float = 0.0
    """How far the guarded metric lies under its start, as a share of it; 0 where it is allowed."""
    end: str = ""
    """Why training ends here; empty where it goes on."""


def judge(config: Validation, notes: dict[str, float], found: Mapping[str, float]) -> Verdict:
    """Compare `found` with what `notes` remember of earlier validations, and note it.

    notes: of the TrainState, so that a restart goes on counting where it stopped.
    """
    value = found.get(config.decisive, float("-inf"))
    forgot = 0.0
    if config.forgetting != "allow":
        start = notes.setdefault("validation/start", found[GUARDED])
        drop = 1 - found[GUARDED] / start if start > 0 else 0.0
        forgot = drop if drop > config.forgetting_drop else 0.0
    notes["validation/forgot"] = forgot
    allowed = not (forgot and config.forgetting == "roll_back")
    better = allowed and value > notes.get("validation/best", float("-inf"))
    if better:
        notes["validation/best"] = value
    notes["validation/waited"] = 0 if better else notes.get("validation/waited", 0) + 1
    end = ""
    if forgot and config.forgetting in ("stop", "roll_back"):
        end = f"{GUARDED} fell {forgot:.1%} under the stage's start"
    elif config.patience and notes["validation/waited"] >= config.patience:
        end = f"{config.decisive} has not improved for {config.patience} validations"
    return Verdict(better, forgot, end)


class Validator:
    """The hook of a training stage. Call it before the first step and after the last one, too."""

    def __init__(
        self,
        measure: Callable[[SAM2], dict[str, float]],
        config: Validation,
        world: World,
        folder: str | Path,
        log: Callable[[int, Mapping[str, float]], None] | None = None,
    ) -> None:
        """folder: the stage's, for the best weights. log: called on rank 0 with step and figures."""
        self.measure, self.config, self.world, self.log = measure, config, world, log
        self.folder = Path(folder)

    def __call__(self, state: TrainState) -> str:
        """Validate; returns why training should end, or nothing."""
        with state.average.in_place() if state.average else nullcontext():
            model = whole(state)
            if self.world.any(not all_finite(model.state_dict())):
                logger.warning("step %d: not validated, the weights are not finite", state.step)
                return ""  # the loop will go back to earlier ones
            found = self.measure(model)
            verdict = judge(self.config, state.notes, found)
            allowed = not (verdict.forgot and self.config.forgetting == "roll_back")
            if allowed and self.config.decisive in found:
                state.scored = (state.step, found[self.config.decisive])
            if verdict.better:
                state.notes["validation/best_step"] = state.step
                if self._keeps_best and self.world.is_first:
                    keep_best(model, self.folder, state.step, self.config.decisive, found)
        if self.world.is_first:
            if self.log is not None:
                self.log(state.step, found)
            if verdict.forgot:
                logger.warning(
                    "step %d: %s is %.4f, %.1f %% under the stage's start",
                    state.step, GUARDED, found[GUARDED], 100 * verdict.forgot,
                )  # fmt: skip
        return verdict.end

    def chosen(self, state: TrainState) -> tuple[Path, int] | None:
        """The weights to hand over and their step, where they are not those of the end. Raises
        StageError when they are gone."""
        rolls_back = self.config.forgetting == "roll_back" and state.notes.get("validation/forgot")
        if not (rolls_back or self.config.hand_over == "best"):
            return None
        path, step = (
            best_weights(self.folder, state.notes),
            int(state.notes["validation/best_step"]),
        )
        if path is None:
            raise StageError(
                f"{self.folder / BEST_FILE} should hold the weights of step {step}, the best "
                "validation; it is missing or damaged. Delete the stage's folder to train again"
            )
        return path, step

    @property
    def _keeps_best(self) -> bool:
        return self.config.hand_over == "best" or self.config.forgetting == "roll_back"


def keep_best(
    model: SAM2, folder: Path, step: int, metric: str, found: Mapping[str, float]
) -> None:
    """Put the weights of `model` in the place of the best so far; the record follows the file."""
    with atomic_file(folder / BEST_FILE) as file:
        save_checkpoint(merged(model), file)
    record = {"step": step, "metric": metric, "found": dict(found)}
    write_json(folder / RECORD_FILE, record | {"sha256": sha256(folder / BEST_FILE)})


def best_weights(folder: Path, notes: Mapping[str, float]) -> Path | None:
    """The kept weights, when they are those of the best validation that `notes` tell of."""
    record = read_json(folder / RECORD_FILE) or {}
    path = folder / BEST_FILE
    if record.get("step") != notes.get("validation/best_step") or not path.is_file():
        return None
    return path if sha256(path) == record["sha256"] else None


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Inside the block every module is in eval mode; afterwards each has its own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode

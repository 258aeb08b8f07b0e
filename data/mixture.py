"""Training samples as a function of (seed, step, slot), from several data sets.

A step has slots 0 .. batch-1. Which data set, which item, which frames and objects and how they
are changed follow from the three numbers alone, so neither the number of ranks or workers nor a
restart changes a byte.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from data.augment import augment_clip
from data.loader import loader
from data.order import Turns, sample_at
from data.sampling import choose
from data.sources.base import Dataset
from data.spec import Augment, ClipSampling, Kind, Mixture
from data.types import Clip
from pipeline.errors import ConfigError, DataError

__all__ = ["TrainingClips", "loader"]

log = logging.getLogger(__name__)

KIND_ORDER: tuple[Kind, Kind] = ("image", "video")


class TrainingClips:
    """The endless sequence of training samples of one stage.

    Broken samples are replaced by the next item of their data set and named in `broken`; more than
    the mixture's `max_broken` of a data set raises DataError.
    """

    def __init__(
        self,
        datasets: Mapping[str, Dataset],
        mixture: Mixture,
        sampling: ClipSampling,
        augment: Augment,
        image_size: int,
        seed: int,
    ) -> None:
        self.datasets = dict(datasets)
        self.mixture = mixture
        self.sampling = sampling
        self.augment = augment
        self.image_size = image_size
        self.seed = seed
        self.broken: dict[str, dict[int, str]] = {name: {} for name in datasets}
        """Per data set, what is wrong with each item that could not be read."""
        self._members = {
            kind: [name for name, dataset in self.datasets.items() if dataset.kind == kind]
            for kind in KIND_ORDER
        }
        self.kinds = [kind for kind in KIND_ORDER if self._members[kind]]
        weights = _weights(self.datasets, mixture)
        _check_mode(self.kinds, mixture)
        self._turns = {
            kind: Turns([weights[name] for name in self._members[kind]], seed, "data set", kind)
            for kind in self.kinds
        }
        self._kind_turns = Turns(
            [sum(weights[name] for name in self._members[kind]) for kind in self.kinds],
            seed,
            "kind",
        )

    def kind(self, step: int) -> Kind:
        """Whether a step trains on pictures or on clips."""
        return self._kind_and_count(step)[0]

    def batch_size(self, step: int) -> int:
        """Slots of a step, over all ranks."""
        return self.mixture.batch_size(self.kind(step))

    def sample(self, step: int, slot: int) -> Clip:
        """The clip in one slot of a step, at the model's size. Raises DataError when too much is
        broken."""
        kind, steps_before = self._kind_and_count(step)
        place = steps_before * self.mixture.batch_size(kind) + slot
        turn = self._turns[kind].turn(place)
        name = self._members[kind][turn.member]
        dataset = self.datasets[name]
        index = sample_at(turn.number, len(dataset), self.seed, "item", name)
        while True:
            if index not in self.broken[name]:
                try:
                    return self._make(dataset, index, step, slot)
                except DataError as error:
                    self.note_broken(name, index, str(error))
            index = (index + 1) % len(dataset)

    def note_broken(self, name: str, index: int, reason: str) -> None:
        """Set an item aside. Raises DataError when that makes too many of its data set."""
        broken, total = self.broken[name], len(self.datasets[name])
        if index in broken:
            return
        broken[index] = reason
        log.warning("%s: %s is left out: %s", name, self.datasets[name].names[index], reason)
        if len(broken) > self.mixture.max_broken * total:
            raise DataError(
                f"{name}: {len(broken)} of {total} samples are broken, more than "
                f"mixture.max_broken={self.mixture.max_broken:g} allows; the last: {reason}"
            )

    def _make(self, dataset: Dataset, index: int, step: int, slot: int) -> Clip:
        rng = np.random.default_rng([self.seed, step, slot])
        positions, objects = choose(dataset, index, self.sampling, rng)
        clip = dataset.load(index, positions, objects)
        return augment_clip(clip, self.augment, self.image_size, rng)

    def _kind_and_count(self, step: int) -> tuple[Kind, int]:
        """The kind of a step, and the number of that kind's steps counted before it."""
        if self.mixture.mode == "single":
            return self.kinds[0], step
        if self.mixture.mode == "alternate":
            return KIND_ORDER[step % 2], step // 2
        turn = self._kind_turns.turn(step)
        return self.kinds[turn.member], turn.number


def _weights(datasets: Mapping[str, Dataset], mixture: Mixture) -> dict[str, float]:
    if not datasets:
        raise ConfigError("no data set to train on; name at least one in `datasets`")
    if not mixture.weights:
        return {name: float(len(dataset)) for name, dataset in datasets.items()}
    if set(mixture.weights) != set(datasets):
        raise ConfigError(
            f"mixture.weights is for {_names(mixture.weights)}, the stage trains on "
            f"{_names(datasets)}; give every data set a weight, or none"
        )
    return dict(mixture.weights)


def _check_mode(kinds: Sequence[Kind], mixture: Mixture) -> None:
    if mixture.mode == "single" and len(kinds) > 1:
        raise ConfigError(
            "mixture.mode is single, but the stage trains on pictures and on videos; "
            "use alternate or probability"
        )
    if mixture.mode == "alternate" and len(kinds) < 2:
        raise ConfigError(
            f"mixture.mode is alternate, but every data set of the stage holds {kinds[0]}s; "
            "add the other kind, or use single"
        )


def _names(values: Mapping[str, object]) -> str:
    return ", ".join(sorted(values))

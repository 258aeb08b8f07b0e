"""Training samples as a function of (seed, step, slot), from several data sets.

A step has slots 0 .. batch-1. Which data set, which item, which frames and objects and how they
are changed follow from the three numbers alone, so neither the number of ranks or workers nor a
restart changes a byte.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.augment import augment_clip
from data.loader import loader
from data.order import Turns, sample_at
from data.quarantine import Broken, Quarantine
from data.sampling import choose
from data.settings import Augment, ClipSampling, Mixture
from data.sources.base import Dataset
from data.spec import Kind
from data.types import Clip
from pipeline.errors import ConfigError, DataError

__all__ = ["TrainingClips", "loader"]

BROKEN_IN_A_ROW = 100
"""So many broken items one after the other mean that more than files is wrong."""


class Group(NamedTuple):
    """Data sets that share steps: those of one kind, or one with a batch of its own."""

    kind: Kind
    members: tuple[str, ...]
    batch: int
    """Samples in a step, over all ranks."""


class TrainingClips:
    """The endless sequence of training samples of one stage."""

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
        weights = _weights(self.datasets, mixture)
        self.groups = _groups(self.datasets, mixture)
        shares = [sum(weights[name] for name in group.members) for group in self.groups]
        if not mixture.weights:  # by length: what counts is samples, not steps
            shares = [share / group.batch for share, group in zip(shares, self.groups, strict=True)]
        self._group_turns = Turns(shares, seed, "group")
        self._turns = [
            Turns([weights[name] for name in group.members], seed, "data set", *group.members)
            for group in self.groups
        ]

    def kind(self, step: int) -> Kind:
        """Whether a step trains on pictures or on clips."""
        return self.groups[self._group_and_count(step)[0]].kind

    def batch_size(self, step: int) -> int:
        """Slots of a step, over all ranks."""
        return self.groups[self._group_and_count(step)[0]].batch

    def sample(self, step: int, slot: int) -> Clip:
        """The clip in one slot of a step, at the model's size."""
        return self.make(step, slot)[0]

    def make(
        self, step: int, slot: int, begins: Callable[[str], None] | None = None
    ) -> tuple[Clip, list[Broken]]:
        """The clip in one slot of a step, and the items that could not be read on the way to it.

        begins: told the name of each item before it is read. A broken item is replaced by the next
        one of its data set, and so is one without objects.
        Raises DataError when nothing can be found.
        """
        which, steps_before = self._group_and_count(step)
        group = self.groups[which]
        turn = self._turns[which].turn(steps_before * group.batch + slot)
        name = group.members[turn.member]
        dataset = self.datasets[name]
        first = sample_at(turn.number, len(dataset), self.seed, "item", name)
        broken: list[Broken] = []
        for further in range(len(dataset)):
            index = (first + further) % len(dataset)
            if begins is not None:
                begins(f"{name}/{dataset.names[index]}")
            try:
                clip = self._clip(dataset, index, step, slot)
            except DataError as error:
                broken.append(Broken(name, dataset.names[index], str(error)))
                if len(broken) == BROKEN_IN_A_ROW:
                    break
                continue
            if clip is not None:
                return clip, broken
        raise DataError(
            f"{name}: no sample from {dataset.names[first]} on can be used: "
            f"{len(broken)} are broken, {further + 1 - len(broken)} show no object at "
            f"{self.image_size} px" + (f"; the last: {broken[-1].reason}" if broken else "")
        )

    def quarantine(self, folder: Path | None = None, rank: int = 0) -> Quarantine:
        """Where broken samples are counted; see `Quarantine`."""
        sizes = {name: len(dataset) for name, dataset in self.datasets.items()}
        return Quarantine(sizes, self.mixture.max_broken, folder, rank)

    def _clip(self, dataset: Dataset, index: int, step: int, slot: int) -> Clip | None:
        """One item drawn and changed; None when it shows no object."""
        rng = np.random.default_rng([self.seed, step, slot])
        positions, objects = choose(dataset, index, self.sampling.at(step), rng)
        if not objects:
            return None
        clip = dataset.load(index, positions, objects)
        changed = augment_clip(clip, self.augment, self.image_size, rng)
        return changed if changed.object_ids else None

    def _group_and_count(self, step: int) -> tuple[int, int]:
        """The group a step belongs to, and the number of that group's steps counted before it."""
        if self.mixture.mode == "single":
            return 0, step
        if self.mixture.mode == "alternate":
            count = len(self.groups)
            return step % count, step // count
        return self._group_turns.turn(step)


def _groups(datasets: Mapping[str, Dataset], mixture: Mixture) -> list[Group]:
    """Pictures, videos, then the data sets with steps of their own. Raises ConfigError where that
    does not fit the mixture's mode."""
    _known("batches", mixture.batches, datasets)
    groups = []
    sizes: dict[Kind, int] = {"image": mixture.image_batch, "video": mixture.video_batch}
    for kind, batch in sizes.items():
        members = [n for n, d in datasets.items() if d.kind == kind and n not in mixture.batches]
        if members:
            groups.append(Group(kind, tuple(members), batch))
    groups += [
        Group(datasets[name].kind, (name,), batch) for name, batch in mixture.batches.items()
    ]
    if mixture.mode == "single" and len(groups) > 1:
        raise ConfigError(
            f"mixture.mode is single, but the stage has {_described(groups)}; "
            "use alternate, probability or size"
        )
    if mixture.mode == "alternate" and len(groups) < 2:
        raise ConfigError(
            f"mixture.mode is alternate, but every data set of the stage holds {groups[0].kind}s; "
            "add the other kind, or use single"
        )
    return groups


def _weights(datasets: Mapping[str, Dataset], mixture: Mixture) -> dict[str, float]:
    if not datasets:
        raise ConfigError("no data set to train on; name at least one in `datasets`")
    _known("repeat", mixture.repeat, datasets)
    if not mixture.weights:
        return {
            name: len(dataset) * mixture.repeat.get(name, 1.0) for name, dataset in datasets.items()
        }
    if set(mixture.weights) != set(datasets):
        raise ConfigError(
            f"mixture.weights is for {_names(mixture.weights)}, the stage trains on "
            f"{_names(datasets)}; give every data set a weight, or none"
        )
    return dict(mixture.weights)


def _known(field: str, named: Mapping[str, object], datasets: Mapping[str, Dataset]) -> None:
    unknown = sorted(set(named) - set(datasets))
    if unknown:
        raise ConfigError(
            f"mixture.{field} names {', '.join(unknown)}; the stage trains on {_names(datasets)}"
        )


def _described(groups: Sequence[Group]) -> str:
    return " and ".join(
        f"steps of {group.batch} {group.kind}s ({', '.join(group.members)})" for group in groups
    )


def _names(values: Mapping[str, object]) -> str:
    return ", ".join(sorted(values))

"""Training checkpoints: everything that must survive a restart, written so that it is there or it
is not.

A folder holds `step-00001000.pt` files and the list of them (`pipeline.checkpoint_list`). A file is
written aside, synced, read back, renamed and only then listed; older ones are deleted after that.
Loading never executes anything. While training, `pipeline.saving` does it in the background.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pipeline import checkpoint_list
from pipeline.average import WeightAverage
from pipeline.checkpoint_list import Entry, Keep, damage, listed
from pipeline.distributed import World
from pipeline.errors import CheckpointError, StorageError
from pipeline.optim import Rates
from pipeline.plain_files import read_plain, write_plain
from pipeline.precision import LossScale
from pipeline.staging import all_finite
from pipeline.storage import sha256, sync_folder

if TYPE_CHECKING:
    from pipeline.sharding import Sharding  # loading it takes a second, few stages need it

FORMAT = 1
"""Of what a file holds; the list has a format of its own."""
logger = logging.getLogger(__name__)


@dataclass
class TrainState:
    """What training carries from step to step.

    Randomness and the place in the data are not in it: both follow from `step` (law 2). Learning
    rates are not saved either, they follow from `step` too.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    rates: Rates
    step: int = 0
    """Steps done, those left out for a non-finite loss included."""
    skipped: int = 0
    """Steps left out."""
    notes: dict[str, float] = field(default_factory=dict)
    """Small numbers a stage wants back after a restart, such as the best validation value."""
    ended: str = ""
    """Why training ended before its last step; empty otherwise."""
    scale: LossScale | None = None
    """With fp16."""
    average: WeightAverage | None = None
    """Where a stage asks for averaged weights."""
    sharding: Sharding | None = None
    """Where parameters are shared out over the ranks."""
    scored: tuple[int, float] = (-1, 0.0)
    """The last validation: step, and how good it was, larger being better. Not saved."""

    def extras(self) -> dict[str, LossScale | WeightAverage]:
        """What else there is to save, by name."""
        found = {"scale": self.scale, "average": self.average}
        return {name: item for name, item in found.items() if item is not None}


def save(state: TrainState, folder: str | Path, keep: int = 2) -> Path:
    """Write a checkpoint of `state`, one that is not shared out, and wait for it; keeps the newest
    `keep`. Raises as `write`."""
    return Path(folder) / write(pack(state), folder, Keep(last=keep)).name


def write(
    values: dict[str, Any],
    folder: str | Path,
    keep: Keep,
    *,
    score: float | None = None,
    world: int = 1,
) -> Entry:
    """Write what `pack` returned and list it, on one rank only.

    Raises StorageError when it cannot be written or reads back different; the older ones are then
    untouched.
    """
    folder, step = Path(folder), int(values["step"])
    temporary = folder / f".{file_name(step)}.{os.getpid()}.part"
    target = folder / file_name(step)
    try:
        checkpoint_list.begin(folder)
        target = folder / checkpoint_list.free_name(folder, step, target.suffix)
        record = write_plain(values, temporary)
        os.replace(temporary, target)
        sync_folder(folder)
        entry = Entry(target.name, step, {target.name: record}, score=score, world=world)
        checkpoint_list.add(folder, entry, keep)
    except (OSError, RuntimeError) as error:  # torch's writer wraps a full disk in a RuntimeError
        raise StorageError(
            f"checkpoint {target} cannot be written ({error}); free some space or mend the folder"
        ) from error
    finally:
        _remove(temporary)
    return entry


def file_name(step: int) -> str:
    """What the checkpoint of `step` is called, unless there was one before a restart already."""
    return f"step-{step:08d}.pt"


def step_of(path: Path) -> int:
    """The step of the checkpoint at `path`."""
    return int(path.stem.split("-")[1])


def latest_valid(folder: str | Path, before: int | None = None) -> Path | None:
    """The newest checkpoint that matches its digests and is finite, or None when none was ever
    saved. before: only of earlier steps than that.

    A broken one is passed over with a warning. Raises CheckpointError when there are some and all
    are broken: starting over in silence would throw the work away.
    """
    broken = []
    for entry in reversed(listed(folder)):
        if before is not None and entry.step >= before:
            continue
        path = Path(folder) / entry.name
        problem = damage(folder, entry)
        if not problem and entry.finite is None and not all_finite(read_plain(path)):
            problem = f"{path}: found values that are not finite, expected numbers"
        if not problem:
            return path
        broken.append(problem)
        logger.warning("checkpoint is broken and passed over: %s", problem)
    if broken:
        raise CheckpointError(
            f"{folder}: no checkpoint is intact: {'; '.join(broken)}. "
            "Delete the folder to start this stage over"
        )
    return None


def load(state: TrainState, path: str | Path, expected: str | None = None) -> None:
    """Put the checkpoint at `path` into `state`; `expected` is its SHA-256 where it is known.

    Raises CheckpointError when the file has another digest (naming both), holds more than plain
    values, or belongs to another model or other optimiser settings.
    """
    if expected is not None and (found := sha256(path)) != expected:
        raise CheckpointError(
            f"{path} has sha256 {found}, expected {expected}; it is not the promised file"
        )
    try:
        values = _own_part(state, path)
        state.model.load_state_dict(values["model"])
        state.optimizer.load_state_dict(values["optimizer"])
        for name, item in state.extras().items():
            item.load_state_dict(values[name])
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path} does not fit this model and optimiser ({' '.join(str(error).split())}); "
            "it was written under another configuration, delete its folder to start over"
        ) from error
    state.step, state.skipped = int(values["step"]), int(values["skipped"])
    state.notes, state.ended = dict(values["notes"]), str(values["ended"])


def read(path: str | Path) -> dict[str, Any]:
    """All of the checkpoint at `path`, a file or the folder of one that several ranks wrote, whole
    and on the CPU."""
    if not Path(path).is_dir():
        return _of_format(read_plain(path), path)
    from pipeline.checkpoint_parts import read_parts  # takes a second to load, for few stages

    return _of_format(read_parts(path), path)


def _own_part(state: TrainState, path: str | Path) -> dict[str, Any]:
    """What `state` loads of the checkpoint at `path`. Raises ValueError where it does not fit."""
    if state.sharding is None:
        return read(path)
    from pipeline.checkpoint_parts import cut, read_parts

    rows_of = state.sharding.rows_of(state.optimizer)
    if not Path(path).is_dir():
        return state.sharding.joined(cut(read(path), rows_of))
    return state.sharding.joined(_of_format(read_parts(path, rows_of), path))


def _of_format(values: dict[str, Any], path: str | Path) -> dict[str, Any]:
    if values.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: format {values.get('format')!r}, expected {FORMAT}; not a training checkpoint"
        )
    return values


def resume(
    state: TrainState,
    folder: str | Path,
    world: World | None = None,
    *,
    mirror: str = "",
    before: int | None = None,
) -> bool:
    """Continue from the newest intact checkpoint in `folder`, or at the URL `mirror` where that has
    a newer one, the same on every rank; False where there is none. before: only of earlier steps.

    Raises CheckpointError where there are some and none is intact, StorageError where `folder` has
    none and `mirror` cannot be read.
    """
    world = world or World()
    found, problem = None, None
    if world.is_first:
        try:
            found = _newest(folder, mirror, before)
        except (CheckpointError, StorageError) as error:
            problem = error
    found, problem = world.share((found, problem))
    if problem:
        raise problem
    if found is None:
        return False
    load(state, found)
    return True


def _newest(folder: str | Path, mirror: str, before: int | None) -> Path | None:
    if not mirror:
        return latest_valid(folder, before)
    from pipeline.mirror import fetch_newer

    found, problem = None, None
    try:
        found = latest_valid(folder, before)
    except CheckpointError as error:
        problem = error
    try:
        fetched = fetch_newer(mirror, folder, step_of(found) if found else -1, before)
    except (CheckpointError, StorageError) as error:
        if found is None:
            raise problem or error from error
        logger.warning("%s; training continues from %s", error, found)
        return found
    if fetched is not None:
        return latest_valid(folder, before)
    if problem is not None:
        raise problem
    return found


def pack(state: TrainState) -> dict[str, Any]:
    """All of `state` as nested dictionaries of live tensors and plain values; where it is shared out,
    this rank's part."""
    values = {
        "format": FORMAT,
        "step": state.step,
        "skipped": state.skipped,
        "notes": dict(sorted(state.notes.items())),
        "ended": state.ended,
        "model": state.model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        **{name: item.state_dict() for name, item in state.extras().items()},
    }
    return state.sharding.local(values) if state.sharding else values


def _remove(path: Path) -> None:
    with suppress(OSError):  # a folder that became read-only: the next save that works removes it
        path.unlink(missing_ok=True)

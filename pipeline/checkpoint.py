"""Training checkpoints: everything that must survive a restart, written so that it is there or it
is not.

A folder holds `step-00001000.pt` files and `manifest.json`, which lists each with its SHA-256. A
file is written aside, synced, read back, renamed and only then listed; older ones are deleted after
that. A file that is not listed, or does not match its digest, does not count. Loading never
executes anything (`weights_only=True`).
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pipeline.average import WeightAverage
from pipeline.distributed import World
from pipeline.errors import CheckpointError, StorageError
from pipeline.optim import Rates
from pipeline.precision import LossScale
from pipeline.storage import read_json, sha256, sync_folder, write_json

if TYPE_CHECKING:
    from pipeline.sharding import Sharding  # loading it takes a second, few stages need it

FORMAT = 1
MANIFEST = "manifest.json"
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

    def extras(self) -> dict[str, LossScale | WeightAverage]:
        """What else there is to save, by name."""
        found = {"scale": self.scale, "average": self.average}
        return {name: item for name, item in found.items() if item is not None}


def save(state: TrainState, folder: str | Path, keep: int = 2) -> Path:
    """`write` a checkpoint of `state`, one that is not shared out."""
    return write(pack(state), folder, keep)


def write(values: dict[str, Any], folder: str | Path, keep: int = 2) -> Path:
    """Write what `pack` returned and keep the newest `keep`; call it on one rank only.

    Raises StorageError when it cannot be written or reads back different; the older ones are then
    untouched.
    """
    folder, step = Path(folder), int(values["step"])
    target = folder / f"step-{step:08d}.pt"
    temporary = folder / f".{target.name}.{os.getpid()}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        digest = _write_synced(values, temporary)
        if (found := sha256(temporary)) != digest:
            raise StorageError(
                f"{temporary} reads back as sha256 {found}, not {digest} as written; check the disk"
            )
        os.replace(temporary, target)
        sync_folder(folder)
    except (OSError, RuntimeError) as error:  # torch's writer wraps a full disk in a RuntimeError
        raise StorageError(
            f"checkpoint {target} cannot be written ({error}); free some space or mend the folder"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    entry = {
        "file": target.name,
        "step": step,
        "sha256": digest,
        "bytes": target.stat().st_size,
    }
    entries = [old for old in _entries(folder) if old["file"] != target.name] + [entry]
    entries = sorted(entries, key=lambda item: item["step"])[-keep:]
    write_json(folder / MANIFEST, {"format": FORMAT, "checkpoints": entries})
    _delete_unlisted(folder, {item["file"] for item in entries})
    return target


def latest_valid(folder: str | Path) -> Path | None:
    """The newest checkpoint that matches its digest, or None when none was ever saved.

    A broken one is passed over with a warning. Raises CheckpointError when there are some and all
    are broken: starting over in silence would throw the work away.
    """
    folder = Path(folder)
    broken = []
    for entry in reversed(_entries(folder)):
        path = folder / entry["file"]
        found = sha256(path) if path.is_file() else "no file"
        if found == entry["sha256"]:
            return path
        broken.append(f"{path.name} ({found} instead of sha256 {entry['sha256']})")
        logger.warning(
            "checkpoint %s is broken: found %s, expected sha256 %s", path, found, entry["sha256"]
        )
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
    values = read_plain(path)
    if values.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: format {values.get('format')!r}, expected {FORMAT}; not a training checkpoint"
        )
    try:
        if state.sharding:
            values = state.sharding.shared_out(values, state.optimizer)
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


def resume(state: TrainState, folder: str | Path, world: World | None = None) -> bool:
    """Continue from the newest intact checkpoint in `folder`, the same on every rank; False where
    there is none."""
    world = world or World()
    found, problem = None, None
    if world.is_first:
        try:
            found = latest_valid(folder)
        except CheckpointError as error:
            problem = str(error)
    found, problem = world.share((found, problem))
    if problem:
        raise CheckpointError(problem)
    if found is None:
        return False
    load(state, found)
    return True


def read_plain(path: str | Path) -> dict[str, Any]:
    """The dictionary in a torch file, on the CPU, refusing anything but tensors and plain
    values."""
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors and plain values and was not loaded"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint ({error})") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds {type(values).__name__}, expected a dictionary")
    return values


class _HashingFile:
    """A file that knows the digest of what went through it."""

    def __init__(self, file: Any) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return int(self.file.write(data))

    def flush(self) -> None:
        self.file.flush()


def _write_synced(values: dict[str, Any], path: Path) -> str:
    with open(path, "wb") as file:
        hashing = _HashingFile(file)
        torch.save(values, hashing)  # type: ignore[arg-type]
        file.flush()
        os.fsync(file.fileno())
    return hashing.digest.hexdigest()


def pack(state: TrainState) -> dict[str, Any]:
    """All of `state` as plain values, whole. Where it is shared out every rank calls it, and rank
    0's is the one to write."""
    values = {
        "format": FORMAT,
        "step": state.step,
        "skipped": state.skipped,
        "notes": state.notes,
        "ended": state.ended,
        "model": state.model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        **{name: item.state_dict() for name, item in state.extras().items()},
    }
    return state.sharding.gathered(values, state.optimizer) if state.sharding else values


def _entries(folder: Path) -> list[dict[str, Any]]:
    """What the manifest lists, oldest first; nothing where there is none."""
    path = folder / MANIFEST
    if not path.exists():
        return []
    values = read_json(path)
    if values is None:
        raise CheckpointError(f"{path} cannot be read; delete the folder to start this stage over")
    return list(values.get("checkpoints", []))


def _delete_unlisted(folder: Path, listed: set[str]) -> None:
    for path in [*folder.glob("step-*.pt"), *folder.glob(".step-*.part")]:
        if path.name not in listed:
            path.unlink(missing_ok=True)

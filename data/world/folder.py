"""The folder of a world: what is there already, whether there is room, its name while it grows."""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
from pathlib import Path
from typing import Any

from data.world.spec import WORLD_VERSION, WorldReport, WorldSpec
from pipeline.errors import ConfigError, StorageError


def open_world(root: Path) -> WorldReport:
    """The report of a finished world. Raises ConfigError where there is none."""
    root = Path(root).resolve()
    return report(root, _read_spec(root), seconds=0.0, reused=True)


def existing(spec: WorldSpec, out: Path) -> WorldReport | None:
    """The finished world of this spec at `out`; None where there is room for one."""
    if not out.exists():
        return None
    if not out.is_dir():
        raise ConfigError(f"{out} is a file; choose a folder for the synthetic world")
    if not (out / "world.json").is_file():
        if any(out.iterdir()):
            raise ConfigError(
                f"{out} is not empty and holds no world.json; choose another folder for the world"
            )
        return None
    there = _read_spec(out)
    if there != spec:
        mine, theirs = spec.to_dict(), there.to_dict()
        other = ", ".join(
            f"{k} {theirs[k]} (asked: {mine[k]})" for k in mine if mine[k] != theirs[k]
        )
        raise ConfigError(f"{out} holds another world: {other}; remove it or choose another folder")
    return report(out, spec, seconds=0.0, reused=True)


def _read_summary(root: Path) -> dict[str, Any]:
    path = root / "world.json"
    try:
        summary = json.loads(path.read_text())
        version = summary["version"]
    except FileNotFoundError as error:
        raise ConfigError(
            f"{root}: no synthetic world (no world.json); make one with `sam2-pipeline synth`"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: unreadable ({error}); remove {root} and make the world again"
        ) from error
    if version != WORLD_VERSION:
        raise ConfigError(
            f"{root} holds a world of version {version}, this program draws {WORLD_VERSION}; "
            "remove it or choose another folder"
        )
    return summary


def _read_spec(root: Path) -> WorldSpec:
    summary = _read_summary(root)
    try:
        return WorldSpec(**summary["spec"])
    except (KeyError, TypeError) as error:
        raise ConfigError(
            f"{root / 'world.json'}: its field `spec` is not one of this program ({error}); "
            "remove the folder and make the world again"
        ) from error


def report(root: Path, spec: WorldSpec, *, seconds: float, reused: bool) -> WorldReport:
    """What the world.json of a finished world says, with how it came about."""
    summary = _read_summary(root)
    return WorldReport(
        root=root,
        spec=spec,
        digest=summary["digest"],
        content=summary["content"],
        counts=summary["counts"],
        seconds=seconds,
        reused=reused,
    )


def new_part(out: Path) -> Path:
    """A fresh folder beside `out`, named after this process; those of dead ones are removed."""
    out.parent.mkdir(parents=True, exist_ok=True)
    own = part_name(out, os.getpid())
    prefix = own.removesuffix(f"{os.getpid()}-{threading.get_ident()}.part")
    for stale in out.parent.iterdir():
        number = stale.name.removeprefix(prefix).split("-")[0]
        if stale.name.startswith(prefix) and number.isdigit() and not _alive(int(number)):
            shutil.rmtree(stale, ignore_errors=True)
    (out.parent / own).mkdir()
    return out.parent / own


def part_name(out: Path, process: int) -> str:
    """What a world is called while that process of this machine draws it."""
    return f".{out.name}.{socket.gethostname()}-{process}-{threading.get_ident()}.part"


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def check_space(spec: WorldSpec, out: Path) -> None:
    """Raise StorageError where the disk has less room than the world may need."""
    place = out.parent
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise StorageError(f"{place} is a file, so {out} cannot be a folder; choose another one")
    needed, free = estimate_bytes(spec), shutil.disk_usage(place).free
    if free < needed:
        raise StorageError(
            f"{place}: {free / 1e6:.0f} MB are free, the world may need {needed / 1e6:.0f} MB; "
            "make room, ask for fewer images and videos, or choose another disk"
        )


def estimate_bytes(spec: WorldSpec) -> int:
    """An upper estimate of a world's size on disk, in bytes."""
    pixels = spec.width * spec.height
    block = 8192  # what small files lose to the file system, and their json
    picture = int(0.8 * pixels) + block
    frames = (2 * spec.val_videos + spec.davis_train_videos) * spec.frames
    stills = 2 * spec.train_images + spec.val_images
    clip = int(0.35 * pixels * spec.frames) + 4 * block * (1 + spec.frames // 8)
    return stills * (picture + block) + 2 * frames * picture + spec.train_videos * clip


def storage_error(error: OSError, out: Path) -> StorageError:
    """What the system said about a file, as a line that says what to do."""
    reason = error.strerror or str(error)
    return StorageError(
        f"{error.filename or out}: {reason}; the synthetic world needs a folder that can be "
        f"written and has room; nothing was left at {out}"
    )

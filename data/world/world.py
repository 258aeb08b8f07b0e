"""Making a world: every scene of both splits, in all forms, in one folder that appears when it is complete."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import socket
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data.world.direct import clip_scene, limit_threads, picture_scene
from data.world.shapes import FAMILIES
from data.world.spec import LAYOUT, WORLD_VERSION, WorldReport, WorldSpec
from data.world.textures import PHOTOGRAPHS
from data.world.writers import (
    write,
    write_coco,
    write_davis,
    write_json,
    write_sa1b,
    write_sav,
    write_val,
)
from pipeline.errors import ConfigError, StorageError

Progress = Callable[[int, int, str], None]
Kind = Literal["picture", "val_picture", "clip", "val_clip", "davis_clip"]

SHARD = 500  # pictures in a tar shard


@dataclass(frozen=True)
class Task:
    """A few scenes of one kind, drawn by one process; scene numbers start at 0."""

    kind: Kind
    first: int
    stop: int


def make_world(
    spec: WorldSpec, out: Path, progress: Progress | None = None, workers: int | None = None
) -> WorldReport:
    """Draw the world of `spec` into the folder `out`, or find it there finished.

    progress: called with scenes done, scenes in all, and what was done last.
    workers: processes to draw with, by default one per usable core up to 8; the bytes do not depend on it.
    Raises ConfigError where `out` holds something else, StorageError where it cannot be written.
    """
    out = Path(out).absolute()
    found = _existing(spec, out)
    if found is not None:
        return found
    started = time.monotonic()
    tasks = list(_tasks(spec))
    try:
        _check_space(spec, out)
        part = _new_part(out)
    except OSError as error:
        raise _storage_error(error, out) from error
    try:
        rows = _draw_all(spec, part, tasks, progress, workers)
        _finish(spec, part, rows)
        os.replace(part, out)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        other = _existing(spec, out)  # somebody else may have finished the same world meanwhile
        if other is not None:
            return other
        raise _storage_error(error, out) from error
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return _report(out, spec, seconds=time.monotonic() - started, reused=False)


def open_world(root: Path) -> WorldReport:
    """The report of a finished world. Raises ConfigError where there is none."""
    root = Path(root).absolute()
    return _report(root, _read_spec(root), seconds=0.0, reused=True)


# -- what is to be done ---------------------------------------------------------------------------


def _tasks(spec: WorldSpec) -> Iterator[Task]:
    """All scenes in handfuls, the long ones first so that the processes end together."""
    amounts: tuple[tuple[Kind, int, int], ...] = (
        ("val_clip", spec.val_videos, 1),
        ("davis_clip", spec.davis_train_videos, 1),
        ("clip", spec.train_videos, 2),
        ("picture", spec.train_images, 25),
        ("val_picture", spec.val_images, 25),
    )
    for kind, count, size in amounts:
        for first in range(0, count, size):
            yield Task(kind, first, min(first + size, count))


def _draw(spec: WorldSpec, root: Path, task: Task) -> list[dict[str, Any]]:
    """Draw the scenes of one task into the folder; the rows the lists at the end are made from."""
    return [_draw_one(spec, root, task.kind, index) for index in range(task.first, task.stop)]


def _draw_one(spec: WorldSpec, root: Path, kind: Kind, index: int) -> dict[str, Any]:
    where = {name: root / folder for name, folder in LAYOUT.items()}
    # what is not in the picture (scores, which parts get masklets) has a stream of its own
    rng = np.random.default_rng([spec.seed, index, sum(kind.encode()), 1])
    row: dict[str, Any] = {"kind": kind, "index": index}
    if kind == "picture":
        write_sa1b(picture_scene(spec, "train", index), index + 1, where["sa1b"], rng)
    elif kind == "val_picture":
        scene = picture_scene(spec, "val", index)
        row |= write_coco(scene, index + 1, where["coco"] / "val")
    elif kind == "clip":
        video = f"sav_{index + 1:06d}"
        folder = where["sav"] / f"sav_{(index + 1) // 1000:03d}"
        write_sav(clip_scene(spec, "train", "clip", index), video, folder, rng)
    elif kind == "val_clip":
        scene = clip_scene(spec, "val", "clip", index)
        row |= {"sav": f"sav_{index + 50001:06d}", "davis": _davis_name(scene, index, "")}
        write_val(scene, row["sav"], row["davis"], where["sav_val"], where["davis"])
    else:
        scene = clip_scene(spec, "train", "davis", index)
        row["davis"] = _davis_name(scene, index, "train-")
        write_davis(scene, row["davis"], where["davis"])
    return row


def _davis_name(scene: Any, index: int, prefix: str) -> str:
    """DAVIS names its clips by what is to be seen in them."""
    return f"{prefix}{scene.actors[scene.objects[0]].sprite.family}-{index + 1:03d}"


# -- drawing --------------------------------------------------------------------------------------


def _draw_all(
    spec: WorldSpec, part: Path, tasks: list[Task], progress: Progress | None, workers: int | None
) -> list[dict[str, Any]]:
    """Draw every task; the rows in the order of the tasks, whichever process drew them."""
    total = sum(task.stop - task.first for task in tasks)
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    workers = min(workers or min(cores, 8), len(tasks), 1 + total // 50)
    done, rows = 0, {}
    results = _inline if workers <= 1 or multiprocessing.current_process().daemon else _pooled
    for task, drawn in results(partial(_draw, spec, part), tasks, workers):
        rows[task] = drawn
        done += len(drawn)
        if progress is not None:
            progress(done, total, task.kind)
    return [row for task in tasks for row in rows[task]]


Results = Iterator[tuple[Task, list[dict[str, Any]]]]


def _inline(draw: Callable[[Task], list[dict[str, Any]]], tasks: list[Task], _: int) -> Results:
    for task in tasks:
        yield task, draw(task)


def _pooled(
    draw: Callable[[Task], list[dict[str, Any]]], tasks: list[Task], workers: int
) -> Results:
    """Draw in several processes. They are spawned, because a fork would copy the threads' locks of the caller."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(os.getpid(),))
    try:
        waiting: dict[Future[list[dict[str, Any]]], Task] = {pool.submit(draw, t): t for t in tasks}
        while waiting:
            ready, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in ready:
                yield waiting.pop(future), future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(parent: int) -> None:
    """Leave Ctrl-C to the parent, and end when it has ended, however it ended."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    limit_threads()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


# -- lists and the end ----------------------------------------------------------------------------


def _finish(spec: WorldSpec, part: Path, rows: list[dict[str, Any]]) -> None:
    """The files that speak of all scenes: lists, the COCO table, tar shards, and world.json as the last."""
    where = {name: part / folder for name, folder in LAYOUT.items()}
    for folder in where.values():
        folder.mkdir(parents=True, exist_ok=True)
    sav_val = [row["sav"] for row in rows if row["kind"] == "val_clip"]
    write(where["sav_val"] / "sav_val.txt", _lines(sav_val))
    for split, kind in (("train", "davis_clip"), ("val", "val_clip")):
        names = [row["davis"] for row in rows if row["kind"] == kind]
        write(where["davis"] / "ImageSets" / "2017" / f"{split}.txt", _lines(names))
    pictures = [row for row in rows if row["kind"] == "val_picture"]
    write_json(where["coco"] / "annotations" / "instances_val.json", _coco_table(pictures))
    for first in range(0, spec.train_images, SHARD):
        numbers = range(first + 1, min(first + SHARD, spec.train_images) + 1)
        _write_shard(where["sa1b"], where["sa1b_tar"] / f"sa_{first // SHARD:06d}.tar", numbers)
    summary = {
        "version": WORLD_VERSION,
        "spec": spec.to_dict(),
        "digest": spec.digest,
        "content": _content_digest(part),
        "counts": {**_counts(rows), "files": sum(1 for p in part.rglob("*") if p.is_file())},
        "layout": LAYOUT,
        "photographs": {split: [name for name, _ in found] for split, found in PHOTOGRAPHS.items()},
        "families": {split: list(found) for split, found in FAMILIES.items()},
    }
    write(part / "world.json", (json.dumps(summary, indent=2) + "\n").encode())


def _lines(names: list[str]) -> bytes:
    return "".join(f"{name}\n" for name in names).encode()


def _counts(rows: list[dict[str, Any]]) -> dict[str, int]:
    kinds = [row["kind"] for row in rows]
    return {
        "train_images": kinds.count("picture"),
        "val_images": kinds.count("val_picture"),
        "train_videos": kinds.count("clip"),
        "val_videos": kinds.count("val_clip"),
        "davis_train_videos": kinds.count("davis_clip"),
    }


def _coco_table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The instances file; the families of validation objects are its categories."""
    numbers = {family: number for number, family in enumerate(FAMILIES["val"], start=1)}
    annotations = [dict(annotation) for row in rows for annotation in row["annotations"]]
    for annotation in annotations:
        annotation["category_id"] = numbers[annotation.pop("family")]
    return {
        "info": {"description": "a synthetic world", "version": str(WORLD_VERSION)},
        "licenses": [],
        "images": [row["image"] for row in rows],
        "annotations": annotations,
        "categories": [
            {"id": number, "name": family, "supercategory": "object"}
            for family, number in numbers.items()
        ],
    }


def _write_shard(folder: Path, target: Path, numbers: range) -> None:
    """Pack pictures and their json as the release does; no dates or owners, so the bytes are always the same."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as shard:
        for number in numbers:
            for suffix in ("jpg", "json"):
                path = folder / f"sa_{number}.{suffix}"
                info = tarfile.TarInfo(path.name)
                info.size = path.stat().st_size
                with path.open("rb") as file:
                    shard.addfile(info, file)


def _content_digest(root: Path) -> str:
    """sha256 over the names and contents of all files but world.json."""
    total = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.is_file() and p.name != "world.json"):
        total.update(path.relative_to(root).as_posix().encode() + b"\0")
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


# -- the folder -----------------------------------------------------------------------------------


def _existing(spec: WorldSpec, out: Path) -> WorldReport | None:
    """The finished world of this spec at `out`; None where there is room for one."""
    if not out.exists():
        return None
    if not out.is_dir():
        raise ConfigError(f"{out} is a file; choose a folder for the synthetic world")
    if not (out / "world.json").is_file():
        if any(out.iterdir()):
            raise ConfigError(
                f"{out} is not empty and holds no world.json; choose another folder for the synthetic world"
            )
        return None
    there = _read_spec(out)
    if there != spec:
        mine, theirs = spec.to_dict(), there.to_dict()
        other = ", ".join(
            f"{k} {theirs[k]} (asked: {mine[k]})" for k in mine if mine[k] != theirs[k]
        )
        raise ConfigError(f"{out} holds another world: {other}; remove it or choose another folder")
    return _report(out, spec, seconds=0.0, reused=True)


def _read_summary(root: Path) -> dict[str, Any]:
    path = root / "world.json"
    try:
        summary = json.loads(path.read_text())
        version = summary["version"]
    except FileNotFoundError as error:
        raise ConfigError(
            f"{root}: there is no synthetic world (no world.json); make one with `sam2-pipeline synth`"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: unreadable ({error}); remove {root} and make the world again"
        ) from error
    if version != WORLD_VERSION:
        raise ConfigError(
            f"{root} holds a world of version {version}, this program draws version {WORLD_VERSION}; "
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


def _report(root: Path, spec: WorldSpec, *, seconds: float, reused: bool) -> WorldReport:
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


def _new_part(out: Path) -> Path:
    """A fresh folder beside `out`, named after this process; those of processes that died are removed."""
    out.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{out.name}.{socket.gethostname()}-"
    for stale in out.parent.glob(f"{prefix}*.part"):
        number = stale.name.removeprefix(prefix).removesuffix(".part").split("-")[0]
        if number.isdigit() and not _alive(int(number)):
            shutil.rmtree(stale, ignore_errors=True)
    part = out.parent / f"{prefix}{os.getpid()}-{threading.get_ident()}.part"
    part.mkdir()
    return part


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _check_space(spec: WorldSpec, out: Path) -> None:
    """Raise StorageError where the disk has less room than the world may need."""
    place = out.parent
    while not place.exists():
        place = place.parent
    needed, free = estimate_bytes(spec), shutil.disk_usage(place).free
    if free < needed:
        raise StorageError(
            f"{place}: {free / 1e6:.0f} MB are free, the synthetic world may need {needed / 1e6:.0f} MB; "
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


def _storage_error(error: OSError, out: Path) -> StorageError:
    reason = error.strerror or str(error)
    return StorageError(
        f"{error.filename or out}: {reason}; the synthetic world needs a folder that can be written "
        f"and has room; nothing was left at {out}"
    )

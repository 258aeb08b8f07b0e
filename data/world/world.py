"""Making a world: every scene of both splits in one folder, which appears when it is complete."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data.world.direct import clip_scene, limit_threads, picture_scene
from data.world.folder import check_space, existing, new_part, open_world, report, storage_error
from data.world.lists import finish
from data.world.scene import Scene
from data.world.spec import LAYOUT, WorldReport, WorldSpec
from data.world.writers import write_coco, write_davis, write_sa1b, write_sav, write_val
from pipeline.errors import DataError
from pipeline.stop import leave_signals_to_parent

__all__ = ["make_world", "open_world"]

Progress = Callable[[int, int, str], None]
Kind = Literal["picture", "val_picture", "clip", "val_clip", "davis_clip"]


# Starting a process takes as long as drawing about this many scenes.
_SCENES_PER_WORKER = 50


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
    workers: processes to draw with, by default one per usable core up to 8; the bytes do not
        depend on it.
    Raises ConfigError where `out` holds something else, StorageError where it cannot be written.
    """
    out = Path(out).resolve()
    started = time.monotonic()
    tasks = list(_tasks(spec))
    try:
        found = existing(spec, out)
        if found is not None:
            return found
        check_space(spec, out)
        part = new_part(out)
    except OSError as error:
        raise storage_error(error, out) from error
    try:
        rows = _draw_all(spec, part, tasks, progress, workers)
        finish(spec, part, rows)
        os.replace(part, out)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        other = existing(spec, out)  # somebody else may have finished the same world meanwhile
        if other is not None:
            return other
        raise storage_error(error, out) from error
    except BrokenExecutor as error:
        shutil.rmtree(part, ignore_errors=True)
        raise DataError(
            f"{out}: a process that drew the world was killed, perhaps for want of memory; "
            "run again, with workers=1 if it happens again"
        ) from error
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return report(out, spec, seconds=time.monotonic() - started, reused=False)


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


def _davis_name(scene: Scene, index: int, prefix: str) -> str:
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
    most = len(tasks), 1 + total // _SCENES_PER_WORKER
    workers = min(workers or min(cores, 8), *most)
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
    """Draw in several processes; spawned ones, as a fork would copy the caller's held locks."""
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
    """Leave signals to the parent, and end when it has ended, however it ended."""
    leave_signals_to_parent()
    limit_threads()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

"""Work that falls into parts: one SLURM array, a bounded number of local processes, or a loop here.

Every part (a shard) has a folder, and leaves its result there the moment it is done. A shard that
is done is not run again, whoever starts the array next; one that failed is named and tried again.
Starting, re-attaching, watching and ending are `launch`'s: to it the array is one job.
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from pipeline.claim import claim
from pipeline.environment import free_cores
from pipeline.errors import PipelineError, StageError
from pipeline.launch import launch, running_job
from pipeline.private import make_private, read_pickle, write_pickle
from pipeline.progress import Progress, read_progress
from pipeline.settings import LaunchConfig
from pipeline.stop import StopRequested, check_stop
from pipeline.storage import read_json, write_json
from pipeline.watcher import STOP_FILE

__all__ = ["launch_array", "shard_folders"]

A = TypeVar("A")
R = TypeVar("R")
RESULT_FILE, FAILURE_FILE = "result.pkl", "failure.json"
NAMED = 3
"""Failed shards that an error message spells out; the rest are counted."""


@dataclass(frozen=True)
class Shard:
    """One part, as the job that runs it knows it."""

    function: Callable[[Any], Any]
    argument: Any
    folder: str
    key: str
    """Identity of its work: a result of another key does not count."""
    claims: str = ""
    """Where local processes agree who takes which shard; empty where there is nothing to agree."""
    alone: bool = False
    """It has a job of its own, which fails with it."""


def shard_folders(folder: str | Path, count: int) -> list[Path]:
    """The folders of the shards of an array in `folder`; what a shard writes there as its
    `progress.json` enters the progress of the whole."""
    return [Path(folder).resolve() / f"{number + 1}-of-{count}" for number in range(count)]


def launch_array(
    function: Callable[[A], R],
    arguments: Sequence[A],
    folder: str | Path,
    config: LaunchConfig,
    *,
    name: str,
    key: str = "",
    on_poll: Callable[[Progress | None], None] | None = None,
    valid: Callable[[R], bool] | None = None,
) -> list[R]:
    """`function` of every one of `arguments`, in their order, each as a task of its own.

    function: importable by name. arguments: values whose `repr` says what they are (dataclasses,
    tuples, words, numbers): with `key` it is a shard's identity. At most `config.parallel` run at a
    time. on_poll: called at every look with the progress of the whole. valid: whether a result of
    an earlier call still counts; by default it does.

    Raises StageError naming the shards that failed, when all have ended; those that are done keep
    their result, and the same call tries the others again. Raises StopRequested when somebody
    stopped the array; an interrupt ends it before it comes out of here.
    """
    folder = Path(folder).resolve()
    shards, began = _shards(function, arguments, folder, key), time.monotonic()
    whole = hashlib.sha256("".join(shard.key for shard in shards).encode()).hexdigest()

    def look(_: object) -> None:
        if on_poll is not None:
            on_poll(_progress(shards, began))

    trouble: StageError | None = None
    with claim(folder, key=whole, on_wait=look):
        if running_job(folder, config) is None:
            _forget(shards, valid)
        if not all(_is_done(shard) for shard in shards):
            try:
                _run(shards, folder, config, name, whole, look)
            except StageError as error:
                trouble = error
        failed = [number for number, shard in enumerate(shards) if not _is_done(shard)]
        if failed:
            raise _explain(name, shards, failed, trouble)
        return [_read(shard) for shard in shards]


def _forget(shards: Sequence[Shard], valid: Callable[[Any], bool] | None) -> None:
    """Drop what earlier calls left that does not count any more: failures, and results that are not
    valid."""
    for shard in shards:
        (Path(shard.folder) / FAILURE_FILE).unlink(missing_ok=True)
        found = _outcome(shard)
        if valid is not None and found is not None and not valid(found[1]):
            (Path(shard.folder) / RESULT_FILE).unlink()


def _run(
    shards: Sequence[Shard],
    folder: Path,
    config: LaunchConfig,
    name: str,
    key: str,
    look: Callable[[Progress | None], None],
) -> None:
    """Run the shards that are not done as one job, or wait for the one that does. Raises what
    `launch` raises."""
    missing = [shard for shard in shards if not _is_done(shard)]
    tasks, claims = 1, ""
    if config.launcher == "local":
        tasks = min(len(missing), config.parallel or free_cores())
        claims = str(folder / f"claims-{secrets.token_hex(4)}")
    try:
        launch(
            work_through,
            tuple(
                replace(shard, claims=claims, alone=config.launcher == "slurm") for shard in missing
            ),
            folder,
            replace(config, nodes=1, tasks_per_node=tasks),
            name=name,
            key=key,
            on_poll=look,
            array=True,
        )
    finally:
        for leftover in folder.glob("claims-*"):
            shutil.rmtree(leftover, ignore_errors=True)


def work_through(shards: Sequence[Shard]) -> None:
    """What a task runs: its shards, or those of everybody that nobody has taken yet. One that fails
    leaves `failure.json`, and the next one is begun."""
    failure: Exception | None = None
    for shard in shards:
        if _is_done(shard) or not _is_mine(shard):
            continue
        try:
            check_stop()
            if (Path(shard.folder).parent / STOP_FILE).exists():  # the watcher has only begun
                raise StopRequested("asked to stop")
            result = shard.function(shard.argument)
            write_pickle(Path(shard.folder) / RESULT_FILE, (shard.key, result))
        except StopRequested:
            raise
        except Exception as error:
            failure = error
            note = {
                "kind": type(error).__name__,
                "message": str(error),
                "expected": isinstance(error, PipelineError),
                "trace": traceback.format_exc(),
            }
            write_json(Path(shard.folder) / FAILURE_FILE, note)
    if failure is not None and shards[0].alone:
        raise failure  # the scheduler, too, should call this task failed


def _shards(
    function: Callable[[Any], Any], arguments: Sequence[Any], folder: Path, key: str
) -> list[Shard]:
    folders = shard_folders(folder, len(arguments))
    for place in folders:
        make_private(place)
    words = f"{function.__module__}.{function.__qualname__} {key}"
    keys = [hashlib.sha256(f"{words} {argument!r}".encode()).hexdigest() for argument in arguments]
    return [
        Shard(function, argument, str(place), one)
        for argument, place, one in zip(arguments, folders, keys, strict=True)
    ]


def _is_mine(shard: Shard) -> bool:
    """Whether this process may run the shard: the one that makes the claim's file first."""
    if not shard.claims:
        return True
    claim = Path(shard.claims) / Path(shard.folder).name
    claim.parent.mkdir(parents=True, exist_ok=True)
    try:
        claim.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _outcome(shard: Shard) -> tuple[str, Any] | None:
    found = read_pickle(Path(shard.folder) / RESULT_FILE)  # none is made again
    return found if found is not None and found[0] == shard.key else None


def _is_done(shard: Shard) -> bool:
    return _outcome(shard) is not None


def _read(shard: Shard) -> Any:
    outcome = _outcome(shard)
    if outcome is None:
        raise StageError(f"{shard.folder}/{RESULT_FILE} went away while it was needed; run again")
    return outcome[1]


def _progress(shards: Sequence[Shard], began: float) -> Progress:
    """The whole array's: units where the shards count some, else shards."""
    done = [(Path(shard.folder) / RESULT_FILE).exists() for shard in shards]
    known = [found for shard in shards if (found := read_progress(shard.folder)) is not None]
    if known:
        total = round(sum(one.total for one in known) / len(known) * len(shards))
        step, unit = sum(one.step for one in known), known[0].unit
        rate = sum(one.rate for one in known if one.step < one.total)
    else:
        step, total, unit = sum(done), len(shards), "shard"
        rate = step / max(time.monotonic() - began, 1e-9)
    eta = (total - step) / rate if rate > 0 else None
    return Progress(step=step, total=total, unit=unit, rate=rate, eta=eta, time=time.time())


def _explain(
    name: str, shards: Sequence[Shard], failed: Sequence[int], trouble: StageError | None
) -> StageError:
    """One line naming the failed shards; below it the trace of the first, where there is one."""
    notes = {number: read_json(Path(shards[number].folder) / FAILURE_FILE) for number in failed}
    silent = str(trouble) if trouble else "ended without a word (killed?)"
    if not any(notes.values()):
        which = ", ".join(str(number + 1) for number in failed[:NAMED])
        which += f" and {len(failed) - NAMED} more" if len(failed) > NAMED else ""
        return StageError(
            f"{name}: {len(failed)} of {len(shards)} shards are not done ({which}): {silent}"
        )
    silent = silent.splitlines()[0]
    lines, trace = [], ""
    for number in sorted(failed, key=lambda number: notes[number] is None)[:NAMED]:
        note = notes[number]
        kind = f"{note['kind']}: " if note and not note["expected"] else ""
        lines.append(f"shard {number + 1}: {kind}{note['message'] if note else silent}")
        trace = trace or (str(note["trace"]) if note and not note["expected"] else "")
    more = f"; and {len(failed) - NAMED} more" if len(failed) > NAMED else ""
    text = (
        f"{name}: {len(failed)} of {len(shards)} shards failed ({'; '.join(lines)}{more}); "
        f"the others are kept; logs are in {Path(shards[0].folder).parent / 'logs'}; run it again "
        "to try those that failed"
    )
    return StageError(f"{text}\n{trace.rstrip()}" if trace else text)

"""A whole set of labels converted: all of it or nothing, every malformed item named."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.convert.items import Item, unique_names
from data.convert.layouts import Layout, Written, write_item
from pipeline.errors import ConfigError, DataError, StorageError
from pipeline.storage import write_json
from pipeline.workers import call_each

OBJECTS = "objects.json"
"""In the new data set: what each object is called."""
Progress = Callable[[int, int], None]
"""Called with items done and items in all."""


@dataclass(frozen=True)
class Conversion:
    """What was written. labels: objects by their label. broken: a line for each item left out."""

    items: int
    frames: int
    objects: int
    empty_frames: int
    labels: Counter[str]
    broken: Sequence[str]


def convert(
    found: Sequence[Item | DataError],
    out: Path,
    layout: Layout,
    *,
    flatten: bool = False,
    again: bool = False,
    skip_broken: bool = False,
    workers: int = 1,
    progress: Progress | None = None,
) -> Conversion:
    """Write items into a new folder `out`, which appears when all of it is there.

    again: replace an earlier conversion that is there. skip_broken: leave malformed items out instead of refusing.
    Raises DataError with a line for every malformed item, ConfigError when `out` is in use, StorageError when it
    cannot be written; then `out` is as it was.
    """
    _check_free(out, again)
    items = [item for item in found if isinstance(item, Item)]
    broken = [str(error) for error in found if isinstance(error, DataError)]
    doubles = [str(error) for error in unique_names(items)]
    if doubles:
        raise DataError("\n".join(doubles))
    if not items and not broken:
        raise DataError(
            "found no picture with an object in it, expected at least one; check the path"
        )
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        written, failed = _write(items, part, layout, flatten, workers, progress)
        broken += failed
        if not written or (broken and not skip_broken):
            raise DataError("\n".join(broken))
        objects = {item.name: dict(item.objects) for item in written}
        write_json(part / OBJECTS, objects)
        _put(part, out)
    except OSError as error:
        raise StorageError(
            f"{out} cannot be written ({error.strerror or error}); "
            "give a folder you can write to, with room"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Conversion(
        items=len(written),
        frames=sum(item.frames for item in written),
        objects=sum(len(item.objects) for item in written),
        empty_frames=sum(item.empty for item in written),
        labels=Counter(label for one in written for label in one.objects.values()),
        broken=broken,
    )


def _check_free(out: Path, again: bool) -> None:
    """Raise ConfigError where `out` holds something: with `again`, something other than a conversion. So a slip
    cannot delete the source."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not again:
        raise ConfigError(f"{out} exists; give another --out, or --again to replace it")
    if not (out / OBJECTS).is_file():
        raise ConfigError(
            f"{out} holds no {OBJECTS}, expected an earlier conversion as --again replaces only such; "
            "give another --out, or remove it yourself"
        )


def _write(
    items: Sequence[Item],
    part: Path,
    layout: Layout,
    flatten: bool,
    workers: int,
    progress: Progress | None,
) -> tuple[list[Written], list[str]]:
    """What was written and what was not, both in the order of the items."""
    written: dict[int, Written] = {}
    failed: dict[int, str] = {}
    jobs = ((item, part, layout, flatten) for item in items)
    for number, result in call_each(write_item, jobs, min(workers, len(items))):
        try:
            written[number] = result()
        except DataError as error:
            failed[number] = str(error)
            _remove(items[number], part)
        if progress is not None:
            progress(len(written) + len(failed), len(items))
    return [written[n] for n in sorted(written)], [failed[n] for n in sorted(failed)]


def _remove(item: Item, part: Path) -> None:
    """What a malformed item has left in any layout."""
    for layer in ("JPEGImages", "Annotations", "frames"):
        shutil.rmtree(part / layer / item.name, ignore_errors=True)
    for folder in (part, part / "images", part / "masks"):
        for suffix in (".jpg", ".jpeg", ".png", ".json", "_manual.json"):
            (folder / f"{item.name}{suffix}").unlink(missing_ok=True)


def _put(part: Path, out: Path) -> None:
    """`part` in the place of `out`; what was there goes only now."""
    if not out.exists():
        part.rename(out)
        return
    old = out.with_name(f".{out.name}.{os.getpid()}.old")
    out.rename(old)
    part.rename(out)
    shutil.rmtree(old, ignore_errors=True)

"""A second place for a run's checkpoints, such as `s3://bucket/run`: one that outlives the machine.

What is listed in the local folder is copied there under names that contain their digests, so that
nothing is ever overwritten, read back, and listed last: an upload that was cut off does not count.
A restart on an empty disk fetches the newest from there. `manifest.mirror.json` in the local folder
notes what was copied, so that what a stage could not copy at its end is copied later (`catch_up`).
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import NamedTemporaryFile, mkdtemp

from pipeline import checkpoint_list
from pipeline.checkpoint_list import COPY, MANIFEST, Entry, Keep, as_manifest, damage, listed, parse
from pipeline.errors import CheckpointError, StorageError
from pipeline.remote import ask, filesystem, is_remote, reason, shown
from pipeline.storage import FileRecord, put, read_json, sha256, sync_folder, write_json

NOTE = "manifest.mirror.json"
logger = logging.getLogger(__name__)


def upload(folder: str | Path, url: str, keep: Keep) -> None:
    """Let `url` hold what `folder` lists, and nothing else of a run but earlier checkpoints that
    `keep` keeps: `folder` may be of a machine that began with the newest only. Raises
    StorageError."""
    folder = Path(folder)
    own = listed(folder)
    _note(folder, url, keep, "")
    try:
        stored = _listed(url)
    except CheckpointError as error:
        logger.warning("%s; it is written again", error)
        stored = []
    there = {key for entry in stored for key in _keys(entry).values()}
    for entry in own:
        for name, key in _keys(entry).items():
            if key not in there:
                _put_checked(folder / name, f"{url}/{key}", entry.files[name])
    steps = {entry.step for entry in own}
    earlier = [e for e in stored if e.step not in steps and e.step < max(steps, default=0)]
    chosen = {entry.name for entry in keep.chosen([*earlier, *own])}
    entries = [*(entry for entry in earlier if entry.name in chosen), *own]
    _put_lists(url, sorted(entries, key=lambda entry: entry.step))
    _delete_unlisted(url, {key for entry in entries for key in _keys(entry).values()})
    _note(folder, url, keep, _digest(own))


def lacks(folder: str | Path, url: str) -> bool:
    """Whether something that `folder` lists was not copied to `url`, as far as its note says."""
    note = read_json(Path(folder) / NOTE) or {}
    return (note.get("url"), note.get("sha256")) != (_place(url), _digest(listed(folder)))


def catch_up(folder: str | Path) -> bool:
    """Copy what `folder` lists and its mirror, where it has one, lacks; whether there was something
    to copy. Only for a folder that nobody trains in. Raises StorageError."""
    note = read_json(Path(folder) / NOTE)
    if note is None or not lacks(folder, note["url"]):
        return False
    upload(folder, note["url"], Keep(**note["keep"]))
    return True


def fetch_newer(url: str, folder: str | Path, after: int, before: int | None = None) -> int | None:
    """Bring the newest intact checkpoint of `url` to `folder` and list it there, if it is of a later
    step than `after`, and earlier than `before`; returns its step.

    A broken one is passed over with a warning. Raises StorageError where `url` cannot be read,
    CheckpointError where none is intact.
    """
    folder, broken = Path(folder), []
    for entry in reversed(_listed(url)):
        if entry.step <= after or (before is not None and entry.step >= before):
            continue
        problem = _fetch(url, folder, entry)
        if not problem:
            return entry.step
        broken.append(problem)
        logger.warning("checkpoint is broken and passed over: %s", problem)
    if broken and after < 0:
        raise CheckpointError(f"{shown(url)}: no checkpoint is intact: {'; '.join(broken)}")
    return None


def _listed(url: str) -> list[Entry]:
    """The checkpoints at `url`, oldest first. Raises CheckpointError where its lists are damaged."""
    store, inner = filesystem(url)
    problems = []
    for name in (MANIFEST, COPY):
        place = f"{inner}/{name}"
        try:
            return parse(ask(f"{url}/{name}", partial(store.cat_file, place)))
        except FileNotFoundError:
            continue
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            problems.append(f"{shown(url)}/{name} is damaged ({error})")
            logger.warning("%s", problems[-1])
    if problems:
        raise CheckpointError("; ".join(problems))
    return []


def _note(folder: Path, url: str, keep: Keep, digest: str) -> None:
    """Say that the list of this digest was copied to `url`; empty: that it is to be."""
    values = {"url": _place(url), "sha256": digest, "keep": asdict(replace(keep, needed=()))}
    write_json(folder / NOTE, values)


def _place(url: str) -> str:
    return url if is_remote(url) else str(Path(url).absolute())


def _digest(entries: Sequence[Entry]) -> str:
    return str(as_manifest(entries)["sha256"])


def _keys(entry: Entry) -> Mapping[str, str]:
    """For each of its files the name at the URL: `step-00001000-1a2b3c4d5e6f.pt`."""
    found = {}
    for name, record in entry.files.items():
        path = PurePosixPath(name)
        found[name] = str(path.with_name(f"{path.stem}-{record.sha256[:12]}{path.suffix}"))
    return found


def _put_checked(source: Path, target: str, record: FileRecord) -> None:
    put(source, target)
    if (found := sha256(target)) != record.sha256:
        raise StorageError(
            f"{shown(target)} reads back as sha256 {found}, expected {record.sha256} as in {source}"
        )


def _put_lists(url: str, entries: Sequence[Entry]) -> None:
    with NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(as_manifest(entries), file)
        file.flush()
        for name in (MANIFEST, COPY):
            put(file.name, f"{url}/{name}")


def _delete_unlisted(url: str, listed_keys: set[str]) -> None:
    store, inner = filesystem(url)
    names = ask(url, lambda: store.find(inner))
    for name in names:
        key = str(name).removeprefix(store._strip_protocol(inner)).lstrip("/")
        if key.startswith("step-") and key not in listed_keys:
            ask(f"{url}/{key}", partial(store.rm_file, name))


def _fetch(url: str, folder: Path, entry: Entry) -> str:
    """Put the files of `entry` in place and list them; returns what is wrong with them, if anything
    is."""
    store, inner = filesystem(url)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(mkdtemp(dir=folder, prefix=".fetched-", suffix=".part"))
    try:
        for name, key in _keys(entry).items():
            target = temporary / name
            target.parent.mkdir(exist_ok=True)
            place = f"{inner}/{key}"
            try:
                ask(f"{url}/{key}", partial(store.get_file, place, str(target)))
            except FileNotFoundError:
                expected = entry.files[name].sha256
                return f"{shown(url)}/{key}: found no file, expected sha256 {expected}"
        if problem := damage(temporary, entry):
            return f"{shown(url)}: {problem}"
        checkpoint_list.begin(folder)
        target = folder / entry.name
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(temporary / entry.name, target)
        sync_folder(folder)
        checkpoint_list.add(folder, entry, Keep(last=1_000_000))
    except OSError as error:
        raise StorageError(
            f"{shown(url)}: {entry.name} cannot be brought to {folder} ({reason(error)})"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return ""
